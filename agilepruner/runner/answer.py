"""Answer the documents of one benchmark for many cells at once.

Each image is decoded (ahead, by a thread of its own) and encoded once, for all strategies and
budgets. Every (document, cell) pair is one prompt; prompts of about equal length are batched, with
few pads. Answers are journaled batch by batch, so a kill costs what is in flight and no more. From
decoding to journal a document fails alone: its image, its text, its selection, its answer; what
failed, and why, is in the journal.
"""

import gc
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch

from agilepruner.complexity import attention_entropy, attention_kept, effective_rank_small
from agilepruner.models.base import Adapter, Generation, Visual, split, stack
from agilepruner.runner.attention import Attention, quantised
from agilepruner.runner.cells import Cell
from agilepruner.runner.complexities import Complexities, Measured
from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.kept import recorded, with_stages
from agilepruner.strategies.base import Once, Selection, VisualTokens
from evals.tasks import Benchmark, Document

log = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 128  # where a task sets none (VizWiz, TextVQA); LLaVA's own scripts use it
ENCODED_TOGETHER = 8  # images per pass of the tower
PREPARERS = 4  # threads that prepare images for it
PADS = 1 / 8  # of a batch's tokens, at most: fewer, fuller batches are worth that
MOST_SHARES = 64  # of a benchmark: what one process takes at a time is one of them
WHOLE = (0.0, 0.0, 1.0, 1.0)  # of an image
HOPELESS = 64  # failures of a cell in a row, with no answer before them, after which it is given up


@dataclass(frozen=True)
class Settings:
    """How a run answers; none of it is in an identity.

    Attributes:
        images_per_window: images encoded and answered together; more give fuller batches.
        batch_size: sequences per generation call. workers: calls at the same time.
        most_new_tokens: the model's own cap on answers.
        default_new_tokens: the cap where a task sets none.
        ignored_stops: stop strings of a task that end no answer of this model.
        since: failures journaled before this moment are tried again.
    """

    images_per_window: int = 32
    batch_size: int = 32
    workers: int = 1
    most_new_tokens: int | None = None
    default_new_tokens: int = DEFAULT_NEW_TOKENS
    ignored_stops: tuple[str, ...] = ()
    since: float = 0.0


@dataclass
class Picture:
    """One encoded image: its tokens, its documents, its complexity and what a journal says.

    ``resized``: its tokens are those of a smaller image, its complexity that of the image.
    """

    tokens: VisualTokens
    documents: list[Document]
    encode_seconds: float
    complexity: dict[str, float]
    note: str = ""
    offered: int = 0
    tiles: int = 1
    mosaic: list[int] | None = None
    view: list[float] | None = None
    image: Any = None
    resized: bool = False
    ranks: dict[bytes, float] = field(default_factory=dict)  # of kept tokens, by their anchors

    @property
    def key(self) -> str:
        """Of the image."""
        return self.documents[0].image_key

    @property
    def measured(self) -> Measured:
        """What is known of the image before it is answered."""
        return Measured(dict(self.complexity), self.tokens.batch, self.tokens.count)


@dataclass
class Prompt:
    """One prompt to be answered for one cell."""

    cell: Cell
    document: Document
    ids: list[int]
    visual: Visual
    picture: Picture
    complexity: dict[str, float]
    kept: dict[str, Any] | None
    select_seconds: float = 0.0

    @cached_property
    def length(self) -> int:
        """Tokens of the prompt, the visual ones included."""
        return len(self.ids) - 1 + len(self.visual)

    @property
    def pruning(self) -> tuple[Any, int] | None:
        """What shortens this prompt inside the language model."""
        return (self.cell.strategy, self.cell.budget) if self.cell.strategy.inside else None


Group = list[Document]  # the documents of one image
Share = list[list[Group]]  # some windows of groups
Failure = tuple[Cell, Document, str]
# What the language model sees of an image, its complexity, and what a journal keeps of the choice.
Shown = tuple[Visual, dict[str, float], dict[str, Any] | None]


@dataclass
class Seen:
    """One image of a window, as the loader leaves it.

    Attributes:
        image: decoded; None: there is none. note: when it is damaged. problem: why there is none.
        prepared: what the adapter makes of it before the tower; None: the tower's turn will tell.
    """

    image: Any = None
    note: str = ""
    problem: str = ""
    prepared: Any = None


Asked = tuple[Group, Seen]  # the documents of an image that can be asked


@dataclass
class Answering:
    """The cells of one benchmark, answered together.

    Attributes:
        adapter: the loaded model. benchmark: its documents. cells: what to answer them with.
        journals: one per cell. settings: how.
        header: what a journal says of the model besides the cell, see ``score``.
        on_progress: called with the number of finished (document, cell) pairs.
        seconds: where the time went.
        attention: where to leave that of each image for the pages; None: nowhere.
        budgets: of cells whose strategy apportions: tokens to keep per tile, by image key.
    """

    adapter: Adapter
    benchmark: Benchmark
    cells: list[Cell]
    journals: dict[str, Journal]
    settings: Settings
    header: Callable[[Cell], dict[str, Any]]
    on_progress: Callable[[int], Any] = lambda count: None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    attention: Attention | None = None
    budgets: dict[str, dict[str, int]] = field(default_factory=dict)
    _in_a_row: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _ids: dict[int, list[int]] = field(default_factory=dict)
    _open: dict[int, int] = field(default_factory=dict)  # document -> cells still to answer it
    _known: dict[tuple[int, ...], Once] = field(default_factory=dict)  # of the window's images
    _measured: dict[str, Measured] = field(default_factory=dict)  # before the first answer
    _counted: int = 0
    _most_tokens: float = float("inf")  # of a batch, learnt from what did not fit
    _most_images: int = ENCODED_TOGETHER

    def shares(self) -> list[Share]:
        """The work in shares that processes can take.

        They are whole windows, so that batches are the same whoever takes which.
        """
        groups: dict[str, Group] = defaultdict(list)
        for document in self.benchmark.documents:
            groups[document.image_key].append(document)
        windows = list(chunks(groups.values(), self.settings.images_per_window))
        return list(chunks(windows, -(-len(windows) // MOST_SHARES) or 1))

    def __post_init__(self) -> None:
        for cell in self.cells:
            self.journals[cell.id].news()  # what was read before is counted here
        for document in self.benchmark.documents:
            self._open[document.index] = sum(
                not self._settled(cell, document.index) for cell in self.cells
            )

    def refresh(self) -> None:
        """See what other processes have journaled."""
        for cell in self.cells:
            self.journals[cell.id].refresh()
            self._learn(cell)
        count = len(self.cells) * len(self._open) - sum(self._open.values())
        self.on_progress(count - self._counted)
        self._counted = count

    def wanted(self, share: Share) -> bool:
        """Whether anything of it is to be answered."""
        return any(self._window_wanted(window) for window in share)

    def _window_wanted(self, window: Sequence[Group]) -> bool:
        documents = [d for group in window for d in group if self._open[d.index]]
        if not documents or not any(self._in_a_row.values()):
            return bool(documents)
        return any(not self._closed(cell, d) for cell in self.cells for d in documents)

    def answer(self, share: Share) -> None:
        """Answer what the journals do not hold yet.

        Raises:
            OSError: the journal cannot be written.
        """
        loader = ThreadPoolExecutor(1, "images")  # one window ahead
        try:
            windows = [window for window in share if self._window_wanted(window)]
            ahead = [loader.submit(self._look, window) for window in windows[:1]]
            for number, window in enumerate(windows):
                images = self._timed("images", ahead.pop().result)
                ahead += [loader.submit(self._look, w) for w in windows[number + 1 : number + 2]]
                if self._window_wanted(window):
                    self._answer(self._encode(window, images))
                    self._ids.clear()
        finally:
            loader.shutdown(cancel_futures=True)
            for journal in self.journals.values():
                self._timed("journal", journal.sync)

    # --- budgets of a benchmark ---

    def measure(self, share: Share, store: Complexities) -> None:
        """Measure the complexity of the images of a share that the store lacks.

        Raises:
            OSError: the store cannot be written.
        """
        known = store.read()
        for window in share:
            wanted = [group for group in window if group[0].image_key not in known]
            pictures = self._encode(wanted, self._look(wanted)) if wanted else []
            self._ids.clear()
            store.add({picture.key: picture.measured for picture in pictures})

    def apportion(self, store: Complexities) -> None:
        """Say how many tokens each image may keep, where that depends on all of them.

        Cells whose benchmark has an image that could not be measured fail: of other images other
        budgets would follow.
        """
        self._measured = store.read()
        groups = {group[0].image_key: group for s in self.shares() for w in s for group in w}
        missing = [key for key in groups if key not in self._measured]
        known = [self._measured[key] for key in groups if key in self._measured]
        for cell in self.cells:
            name = cell.strategy.apportions
            if not name:
                continue
            lacking = len(missing) + sum(name not in one.complexity for one in known)
            if lacking:
                why = f"budgets depend on every image, and {lacking} could not be measured"
                self._fail([(cell, d, why) for group in groups.values() for d in group])
                continue
            counts = [one.tiles * len(group) for one, group in zip(known, groups.values())]
            values = [one.complexity[name] for one in known]
            budget = self.adapter.tile_budget(cell.budget)
            found = cell.strategy.budgets(values, counts, [one.room for one in known], budget)
            self.budgets[cell.id] = dict(zip(groups, found))

    def _budget(self, cell: Cell, picture: Picture) -> int:
        """Tokens to keep of each tile of an image."""
        own = self.budgets.get(cell.id)
        return self.adapter.tile_budget(cell.budget) if own is None else own[picture.key]

    def _alike(self, cell: Cell, pictures: list[Picture]) -> Iterator[list[Picture]]:
        """Images of one grid and one budget, which can be selected from together."""
        for same in _by_grid(pictures):
            by_budget: dict[int, list[Picture]] = defaultdict(list)
            for picture in same:
                by_budget[self._budget(cell, picture)].append(picture)
            yield from by_budget.values()

    def _timed(self, part: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return function()
        finally:
            self.seconds[part] += time.perf_counter() - started

    def close(self) -> None:
        """Let the journals' files go."""
        for journal in self.journals.values():
            journal.close()

    def _learn(self, cell: Cell) -> None:
        """Count what the cell's journal has learnt since the last call."""
        for index in dict.fromkeys(self.journals[cell.id].news()):
            if index in self._open:
                self._open[index] = sum(not self._settled(c, index) for c in self.cells)

    def _settled(self, cell: Cell, index: int) -> bool:
        """Answered, or failed in this run."""
        outcome = self.journals[cell.id].outcome(index)
        return outcome is not None and (outcome == 0 or outcome >= self.settings.since)

    def _closed(self, cell: Cell, document: Document) -> bool:
        """Answered, failed in this run, or not worth trying."""
        return self._settled(cell, document.index) or self._in_a_row[cell.id] >= HOPELESS

    @property
    def _needs(self) -> frozenset[str]:
        return frozenset().union(*(cell.strategy.needs for cell in self.cells)) | {"attention"}

    # --- images ---

    def _look(self, window: Sequence[Group]) -> list[Seen]:
        """Decode and prepare the image of each group that has a document to ask.

        Decoding is the loader's thread, preparing several more, while the model answers.
        """
        seen: list[Seen] = []
        with ThreadPoolExecutor(PREPARERS, "prepare") as preparers:
            for group in window:
                sound = next((document for document in group if not document.error), None)
                seen.append(Seen())
                if sound is None:
                    continue
                try:
                    seen[-1] = Seen(*self.benchmark.image(sound))
                except Exception as error:
                    seen[-1].problem = f"image cannot be read: {cause(error)}"
                else:
                    preparers.submit(self._prepare, seen[-1])
        return seen

    def _prepare(self, seen: Seen) -> None:
        try:
            seen.prepared = self.adapter.prepare(seen.image)
        except Exception:  # encoding it will fail as well, and say whose it is
            log.debug("preparing an image failed", exc_info=True)

    def _encode(self, window: Sequence[Group], decoded: Sequence[Seen]) -> list[Picture]:
        """Encode each image once; one that fails, fails its documents."""
        started = time.perf_counter()
        images: list[Asked] = []
        for group, seen in zip(window, decoded):
            sound = self._without_odd(group)
            if seen.problem:
                self._fail_all(sound, seen.problem)
            elif sound:
                images.append((sound, seen))
        pictures = []
        while images:
            part, images = images[: self._most_images], images[self._most_images :]
            pictures += self._see(part)
        spent = time.perf_counter() - started
        self.seconds["encode"] += spent
        for picture in pictures:
            size = len(pictures) * len(self.cells) * len(picture.documents)
            picture.encode_seconds = round(spent / size, 6)
        started = time.perf_counter()
        parts = [p for same in _by_grid(pictures) for p in chunks(same, ENCODED_TOGETHER)]
        measured = list(self._map(self._measure, parts))
        for _, failures in measured:
            self._fail(failures)
        self.seconds["complexity"] += time.perf_counter() - started
        kept = {id(picture) for done, _ in measured for picture in done}
        return [picture for picture in pictures if id(picture) in kept]

    def _without_odd(self, group: Group) -> Group:
        """The documents of an image that can be asked; the others fail with their reason."""
        sound = []
        for document in group:
            try:
                if document.error:
                    raise OddDocument(document.error)
                self._ids[document.index] = self.adapter.tokenize(document.question)
            except OddDocument as error:
                self._fail_all([document], str(error))
            except Exception as error:
                self._fail_all([document], f"prompt cannot be tokenized: {cause(error)}")
            else:
                sound.append(document)
        return sound

    def _see(self, images: list[Asked]) -> list[Picture]:
        """Passes of the tower; after an error fewer images at a time, at last one by one."""
        done: list[Picture] = []
        queue = [images]
        while queue:
            part = queue.pop(0)
            needs = (self._needs & self.adapter.provides) - {"text_embeds"}  # of questions
            problem, no_memory = "", False
            try:
                ready = [seen.prepared for _, seen in part]
                whole = None if None in ready else ready
                tokens = self.adapter.encode([seen.image for _, seen in part], needs, whole)
            except Exception as error:
                problem, no_memory = cause(error), out_of_memory(error)
                log.debug("encoding failed", exc_info=True)
            # Outside the except block: what the failed pass held is free by now.
            if not problem:
                self._leave({d[0].image_key: t for (d, *_), t in zip(part, tokens)})
                for (documents, seen), t in zip(part, tokens):
                    picture = Picture(t, documents, 0.0, {}, seen.note, image=seen.image)
                    seen.prepared = None  # the tower has seen it
                    picture.offered, picture.tiles = self.adapter.offered(t), self.adapter.tiles(t)
                    if (shape := self.adapter.mosaic(t)) is not None:
                        picture.mosaic = list(shape)
                    if (view := self.adapter.view(seen.image)) != WHOLE:
                        picture.view = [round(edge, 4) for edge in view]
                    done.append(picture)
            elif len(part) > 1:
                log.warning("encoding %d images failed (%s); halving", len(part), problem)
                half = len(part) // 2
                if no_memory:
                    release_memory()
                    self._most_images = max(1, min(self._most_images, half))
                queue[:0] = [part[:half], part[half:]]
            else:
                self._fail_all(part[0][0], f"encoding failed: {problem}")
        return done

    def _leave(self, seen: Mapping[str, VisualTokens]) -> None:
        """Leave the attention of images that no earlier run left."""
        if self.attention is None:
            return
        wanted = self.attention.wanted(seen)
        levels = {
            key: quantised(tokens.attention.float().mean(dim=1).cpu().numpy())
            for key, tokens in seen.items()
            if key in wanted and tokens.attention is not None
        }
        if levels:
            started = time.perf_counter()
            self.attention.add(levels)
            self.seconds["journal"] += time.perf_counter() - started

    def _measure(self, pictures: list[Picture]) -> tuple[list[Picture], list[Failure]]:
        """Complexity of images of one grid; those that have it, and what failed."""
        try:
            tokens = stack([picture.tokens for picture in pictures], {"projected", "attention"})
            if not bool(torch.isfinite(tokens.projected.sum(dim=-1, dtype=torch.float32)).all()):
                raise ValueError("the visual tokens hold NaN or infinite values")
            ranks = effective_rank_small(tokens.projected)
            seen = tokens.attention
            entropies = attention_entropy(seen) if seen is not None else None
        except Exception as error:
            if len(pictures) > 1:
                parts = [self._measure([one]) for one in pictures]
                return [p for done, _ in parts for p in done], [f for _, fs in parts for f in fs]
            why = f"complexity failed: {cause(error)}"
            return [], [(cell, d, why) for cell in self.cells for d in pictures[0].documents]
        start = 0
        for picture in pictures:
            rows = slice(start, start := start + picture.tokens.batch)
            picture.complexity["erank_input"] = round(float(ranks[rows].mean()), 4)
            if entropies is not None:
                picture.complexity["entropy"] = round(float(entropies[rows].mean()), 4)
            if picture.key in self._measured:  # what budgets were apportioned by
                picture.complexity |= self._measured[picture.key].complexity
        return pictures, []

    # --- prompts ---

    def _answer(self, pictures: list[Picture]) -> None:
        started = time.perf_counter()
        prompts = self._prompts(pictures)
        self.seconds["select"] += time.perf_counter() - started
        # Composition depends on the plan alone, not on what a journal holds: a resumed run batches
        # as the first one did, and its answers are the same to the last bit.
        prompts.sort(key=self._order)
        alike = groupby(prompts, key=lambda p: p.pruning)
        batches = [batch for _, same in alike for batch in self._batches(list(same))]
        wanted = [b for b in batches if any(not self._closed(p.cell, p.document) for p in b)]
        started, journal = time.perf_counter(), self.seconds["journal"]
        # Pruning inside the language model hooks its layers: one call at a time.
        for results in self._map(self._generate, [b for b in wanted if not b[0].pruning]):
            self._commit(results)
        for batch in wanted:
            if batch[0].pruning:
                self._commit(self._generate(batch))
        journal = self.seconds["journal"] - journal
        self.seconds["generate"] += time.perf_counter() - started - journal

    def _batches(self, prompts: list[Prompt]) -> Iterator[list[Prompt]]:
        """Prompts in order of length, cut where a batch is full or a longer one costs many pads."""
        start = tokens = 0
        for end, prompt in enumerate(prompts):
            size, length = end + 1 - start, prompt.length
            tokens += length
            if size > 1 and (
                size > self.settings.batch_size
                or size * (length + self._limit) > self._most_tokens
                or size * length - tokens > PADS * tokens
            ):
                yield prompts[start:end]
                start, tokens = end, length
        if prompts:
            yield prompts[start:]

    @property
    def _stops(self) -> list[str]:
        return [stop for stop in self.benchmark.stop if stop not in self.settings.ignored_stops]

    @property
    def _limit(self) -> int:
        wanted = self.benchmark.max_new_tokens or self.settings.default_new_tokens
        return min(wanted, self.settings.most_new_tokens or wanted)

    def _order(self, prompt: Prompt) -> tuple:
        """Prompts that can share a batch next to each other; inside the model's pruners last."""
        inside = f"{prompt.cell.strategy}@{prompt.cell.budget}" if prompt.pruning else ""
        return inside, prompt.length, prompt.document.index

    def _map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        """Results in order, computed by ``workers`` threads of one core each.

        On a CPU that is faster than one call with many cores, which wait for each other after
        every small layer.
        """
        if self.settings.workers == 1:
            yield from map(function, items)
            return
        threads = torch.get_num_threads()
        count = self.settings.workers
        pool = ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def _prompts(self, pictures: list[Picture]) -> list[Prompt]:
        """Select for every cell on all images of the window, and build the prompts."""
        cells = [cell for cell in self.cells if self._in_a_row[cell.id] < HOPELESS]
        self._known = {}
        before = global_randomness()
        chosen = list(self._map(lambda cell: self._choose(cell, pictures), cells))
        if global_randomness() != before:  # by whom, is seen one cell at a time
            chosen = [self._choose_watched(cell, pictures) for cell in cells]
        prompts = []
        for made, failures in chosen:
            prompts += made
            self._fail(failures)
        self._known = {}
        return prompts

    def _choose_watched(
        self, cell: Cell, pictures: list[Picture]
    ) -> tuple[list[Prompt], list[Failure]]:
        before = global_randomness()
        made, failures = self._choose(cell, pictures)
        if global_randomness() == before:
            return made, failures
        why = (
            "selection failed: it drew from the global random generator, so a run that continues "
            "would choose other tokens; draw from tokens.seeds instead"
        )
        return [], [(cell, d, why) for picture in pictures for d in picture.documents]

    def _choose(self, cell: Cell, pictures: list[Picture]) -> tuple[list[Prompt], list[Failure]]:
        """Prompts of one cell, and what failed; nothing is written here: threads call it."""
        prompts: list[Prompt] = []
        failures: list[Failure] = []
        pictures = self._at_its_grid(cell, pictures, failures)
        started = time.perf_counter()
        for same in self._alike(cell, pictures):
            for picture, picked in self._select(cell, same, failures):
                for document, (visual, complexity, kept) in picked:
                    ids = self._ids[document.index]
                    visual = replace(visual, positions=cell.positions)
                    prompt = Prompt(cell, document, ids, visual, picture, complexity, kept)
                    room = self.adapter.context
                    if room is not None and self._reach(prompt) >= room:
                        reach = self._reach(prompt)
                        why = f"prompt of {reach} tokens does not fit the model's context of {room}"
                        failures.append((cell, document, why))
                    else:
                        prompts.append(prompt)
        total = sum(len(picture.documents) for picture in pictures)
        share = round((time.perf_counter() - started) / max(total, 1), 6)
        for prompt in prompts:
            prompt.select_seconds = share
        return prompts, failures

    def _at_its_grid(
        self, cell: Cell, pictures: list[Picture], failures: list[Failure]
    ) -> list[Picture]:
        """The images as a strategy wants them encoded: as they are, or anew and smaller."""
        grids = [cell.strategy.grid(picture.tokens.grid, cell.budget) for picture in pictures]
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (picture, grid) in enumerate(zip(pictures, grids)):
            if grid != picture.tokens.grid:
                alike[grid].append(i)
        found: dict[int, Picture | None] = {}
        for grid, numbers in alike.items():
            for part in chunks(numbers, self._most_images):
                smaller = self._resize(cell, [pictures[i] for i in part], grid, failures)
                found |= zip(part, smaller)
        seen = [found.get(i, picture) for i, picture in enumerate(pictures)]
        return [picture for picture in seen if picture is not None]

    def _resize(
        self,
        cell: Cell,
        pictures: list[Picture],
        grid: tuple[int, int],
        failures: list[Failure],
    ) -> list[Picture | None]:
        """Images encoded at a smaller grid; after an error one by one, None for what failed."""
        started = time.perf_counter()
        try:
            encoded = self.adapter.encode_at([picture.image for picture in pictures], grid)
        except Exception as error:
            if len(pictures) > 1:
                return [one for p in pictures for one in self._resize(cell, [p], grid, failures)]
            log.debug("encoding failed", exc_info=True)
            why = f"encoding at {grid[0]} x {grid[1]} tokens failed: {cause(error)}"
            failures += [(cell, document, why) for document in pictures[0].documents]
            return [None]
        share = (time.perf_counter() - started) / sum(len(p.documents) for p in pictures)
        return [
            replace(p, tokens=tokens, encode_seconds=round(share, 6), ranks={}, resized=True)
            for p, tokens in zip(pictures, encoded)
        ]

    def _select(
        self, cell: Cell, pictures: list[Picture], failures: list[Failure]
    ) -> list[tuple[Picture, list[tuple[Document, Shown]]]]:
        """What the language model sees of each image, per document, and its complexity.

        All images of one grid at once; after an error one by one, so that it is known whose it is.
        """
        try:
            if "text_embeds" in cell.strategy.needs:
                return [(p, self._select_by_question(cell, p)) for p in pictures]
            needs = cell.strategy.needs | {"projected"}
            tokens = self._stack(pictures, needs)
            selection = cell.strategy(tokens, self._budget(cell, pictures[0]))
            parts = split(selection, [picture.tokens.batch for picture in pictures])
            shown = self._show(pictures, parts)
            return [(p, [(d, each) for d in p.documents]) for p, each in zip(pictures, shown)]
        except Exception as error:
            if len(pictures) > 1:
                return [each for p in pictures for each in self._select(cell, [p], failures)]
            log.debug("selection failed", exc_info=True)
            why = f"selection failed: {cause(error)}"
            failures += [(cell, document, why) for document in pictures[0].documents]
            return []

    def _stack(self, pictures: list[Picture], needs: Collection[str]) -> VisualTokens:
        """Tokens of some images: a copy, the strategy's to spoil, with what is known of them."""
        known = self._known.setdefault(tuple(id(picture) for picture in pictures), Once())
        return replace(stack([picture.tokens for picture in pictures], needs), shared=known)

    def _select_by_question(self, cell: Cell, picture: Picture) -> list[tuple[Document, Shown]]:
        """Per document of one image, for a strategy that reads the question."""
        chosen: dict[str, Shown] = {}
        for question in dict.fromkeys(document.question for document in picture.documents):
            text = self.adapter.text_embeds(question).expand(picture.tokens.batch, -1, -1)
            needs = cell.strategy.needs | {"projected"}
            tokens = replace(self._stack([picture], needs), text_embeds=text.clone())
            selection = cell.strategy(tokens, self._budget(cell, picture))
            (chosen[question],) = self._show([picture], [selection])
        return [(document, chosen[document.question]) for document in picture.documents]

    def _show(self, pictures: Sequence[Picture], parts: Sequence[Selection]) -> list[Shown]:
        """Embed what was kept of each image. Equal selections have one effective rank."""
        visuals = [self.adapter.embed(p.tokens, part) for p, part in zip(pictures, parts)]
        keys = [_anchors(visual, part) for visual, part in zip(visuals, parts)]
        ranks = {
            i: rank
            for i, each in enumerate(zip(pictures, visuals, keys))
            if (rank := _known_rank(*each)) is not None
        }
        fresh = [i for i in range(len(visuals)) if i not in ranks]
        for i, rank in zip(fresh, ranks_of([visuals[i] for i in fresh]) if fresh else []):
            ranks[i] = round(rank, 4)
            if keys[i]:
                pictures[i].ranks[keys[i]] = ranks[i]
        shown = [
            (visual, p.complexity | {"erank_kept": ranks[i]}, recorded(p.tokens, part, visual))
            for i, (p, part, visual) in enumerate(zip(pictures, parts, visuals))
        ]
        if pictures[0].tokens.attention is not None:
            means = [attention_kept(p.tokens.attention, s.indices) for p, s in zip(pictures, parts)]
            for (_, complexity, _), mean in zip(shown, torch.stack(means).tolist()):
                complexity["attention_kept"] = round(mean, 7)
        return shown

    # --- answers ---

    def _generate(self, batch: list[Prompt]) -> list[tuple[Prompt, Generation | None, str, float]]:
        """Answer a batch; after an error in halves, to fail only those that must."""
        done: list[tuple[Prompt, Generation | None, str, float]] = []
        queue = [batch]
        while queue:
            part = queue.pop(0)
            started = time.perf_counter()
            problem, no_memory = "", False
            answers: list[Generation] = []
            try:
                answers = self.adapter.generate(
                    [s.ids for s in part], [s.visual for s in part], self._limit, part[0].pruning
                )
                if len(answers) != len(part):
                    raise ValueError(f"{len(answers)} answers to {len(part)} prompts")
            except Exception as error:
                problem, no_memory = cause(error), out_of_memory(error)
                log.debug("generation failed", exc_info=True)
            # Outside the except block: the failed batch's cache is free by now.
            share = round((time.perf_counter() - started) / len(part), 6)
            if not problem:
                done += [(s, a, self._problem(s, a), share) for s, a in zip(part, answers)]
            elif len(part) > 1:
                log.warning("a batch of %d failed (%s); halving it", len(part), problem)
                half = len(part) // 2
                if no_memory:
                    release_memory()
                    tokens = half * (part[0].length + self._limit)
                    self._most_tokens = min(self._most_tokens, tokens)
                queue[:0] = [part[:half], part[half:]]
            else:
                if no_memory:
                    release_memory()
                done.append((part[0], None, f"generation failed: {problem}", share))
        return done

    def _problem(self, prompt: Prompt, answer: Generation) -> str:
        """Why an answer cannot be believed."""
        room = self.adapter.context
        if answer.problem:
            return f"generation failed: {answer.problem}"
        if room is not None and self._reach(prompt) + answer.new_tokens > room:
            return f"the answer ran past the model's context of {room} tokens"
        return ""

    def _reach(self, prompt: Prompt) -> int:
        """Positions that a prompt takes up: with kept positions, those of the unpruned one."""
        return len(prompt.ids) - 1 + self.adapter.reach(prompt.visual)

    def _commit(self, results: list[tuple[Prompt, Generation | None, str, float]]) -> None:
        """Journal what is new, one append per cell, and say so."""
        entries: dict[str, list[Entry]] = defaultdict(list)
        failures: list[Failure] = []
        for prompt, answer, problem, spent in results:
            cell, document = prompt.cell, prompt.document
            if self._closed(cell, document):
                continue
            if answer is None or problem:
                failures.append((cell, document, problem))
                continue
            picture, visual, kept = prompt.picture, answer.visual, prompt.kept
            if answer.stages:
                total = picture.tokens.batch * picture.tokens.count
                kept = with_stages(kept, answer.stages, prompt.visual, total)
            seconds = {
                "encode": picture.encode_seconds,
                "select": prompt.select_seconds,
                "generate": spent,
            }
            entries[cell.id].append(
                Entry(
                    doc=document.index,
                    answer=cut(answer.text, self._stops),
                    note=picture.note,
                    text_tokens=len(prompt.ids) - 1,
                    new_tokens=answer.new_tokens,
                    visual=visual[0] if visual.count(visual[0]) == len(visual) else list(visual),
                    offered=picture.offered,
                    grid=list(picture.tokens.grid),
                    tiles=picture.tiles,
                    kept=kept,
                    mosaic=picture.mosaic,
                    view=picture.view,
                    complexity=prompt.complexity,
                    seconds=seconds,
                )
            )
        for cell in self.cells:
            if cell.id in entries:
                self._in_a_row[cell.id] = 0
                self._append(cell, entries[cell.id])
        self._fail(failures)

    def _append(self, cell: Cell, entries: list[Entry]) -> None:
        started = time.perf_counter()
        journal = self.journals[cell.id]
        if not journal.begun:
            journal.begin(self.header(cell))
        journal.append(entries)
        self.seconds["journal"] += time.perf_counter() - started
        journal.news()
        for entry in entries:
            self._open[entry.doc] -= 1
        self._counted += len(entries)
        self.on_progress(len(entries))

    def _fail_all(self, documents: Sequence[Document], why: str) -> None:
        self._fail([(cell, document, why) for cell in self.cells for document in documents])

    def _fail(self, failures: Iterable[Failure]) -> None:
        """Journal failures; they close their documents for this run."""
        now = time.time()
        entries: dict[str, list[Entry]] = defaultdict(list)
        for cell, document, why in failures:
            if not self._closed(cell, document):
                entries[cell.id].append(Entry(document.index, error=why, at=now))
        for cell in self.cells:
            new = entries.get(cell.id)
            if not new:
                continue
            if not self.journals[cell.id].answers:
                self._in_a_row[cell.id] += len(new)
            self._append(cell, new)
            if self._in_a_row[cell.id] >= HOPELESS:
                log.error(
                    "%s@%d on %s: given up after %d failures and no answer: %s",
                    *(cell.strategy_name, cell.budget, cell.benchmark),
                    *(self._in_a_row[cell.id], new[-1].error),
                )


class OddDocument(Exception):
    """A document that cannot be asked, known when it was loaded."""


def _anchors(visual: Visual, selection: Selection) -> bytes:
    """What a plain selection shows, as a key; empty for a mixed one."""
    return b"" if selection.weights is not None else visual.anchors.cpu().numpy().tobytes()


def _known_rank(picture: Picture, visual: Visual, key: bytes) -> float | None:
    """The effective rank of what is kept, where it was computed before."""
    if key and key in picture.ranks:
        return picture.ranks[key]
    whole = picture.tokens.projected
    same = not picture.resized and len(whole) == 1 and visual.embeds.shape == whole[0].shape
    return (
        picture.complexity["erank_input"] if same and torch.equal(visual.embeds, whole[0]) else None
    )


def ranks_of(visuals: Sequence[Visual]) -> list[float]:
    """Effective rank of the tokens that each prompt shows, batched where counts agree."""
    if len({len(visual) for visual in visuals}) == 1:
        return effective_rank_small(torch.stack([visual.embeds for visual in visuals])).tolist()
    return [float(effective_rank_small(visual.embeds[None])) for visual in visuals]


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of at most ``size`` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def cause(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error)
    )


def release_memory() -> None:
    """Return what a failed call held to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def global_randomness() -> tuple:
    """The state of the generators that a process shares."""
    cuda: Any = ()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cuda = tuple(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all())
    legacy: Any = np.random.get_state(legacy=True)
    own = random.getstate(), legacy[1].tobytes(), legacy[2]
    return own, torch.get_rng_state().numpy().tobytes(), cuda


def _by_grid(pictures: list[Picture]) -> Iterator[list[Picture]]:
    """Images whose tokens can be stacked."""
    groups: dict[tuple[int, int], list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.tokens.grid].append(picture)
    yield from groups.values()

"""Answer the documents of one benchmark for many cells at once.

Each image is decoded and encoded once, for all strategies and budgets. Every (document, cell) pair
is one prompt; prompts of equal length are batched without padding. Answers are journaled batch by
batch, so a kill costs what is in flight and no more.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import torch

from agilepruner.complexity import attention_entropy, effective_rank_small
from agilepruner.models.base import Adapter, Generation, Visual, split, stack
from agilepruner.runner.cells import Cell
from agilepruner.runner.journal import Entry, Journal
from agilepruner.strategies.base import VisualTokens
from agilepruner.strategies.decoder.schedule import DecoderStrategy
from evals.tasks import Benchmark, Document

log = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 128  # where a task sets none (VizWiz, TextVQA); LLaVA's own scripts use it


@dataclass
class Image:
    """One encoded image: its tokens, its documents and its complexity."""

    tokens: VisualTokens
    documents: list[Document]
    encode_seconds: float
    complexity: dict[str, float]


@dataclass
class Prompt:
    """One prompt to be answered for one cell."""

    cell: Cell
    document: Document
    ids: list[int]
    visual: Visual
    tokens: VisualTokens
    complexity: dict[str, float]
    seconds: dict[str, float]

    @property
    def length(self) -> int:
        return len(self.ids) - 1 + len(self.visual)

    @property
    def pruning(self) -> tuple[DecoderStrategy, int] | None:
        """What shortens this prompt inside the language model."""
        strategy = self.cell.strategy
        return (strategy, self.cell.budget) if isinstance(strategy, DecoderStrategy) else None


@dataclass
class Grid:
    """The cells of one benchmark, answered together.

    Attributes:
        adapter: the loaded model. benchmark: its documents. cells: what to answer them with.
        journals: one per cell.
        images_per_window: images encoded and answered together; more give fuller batches.
        batch_size: sequences per generation call. workers: calls at the same time.
        most_new_tokens: the model's own cap on answers.
        rank, world_size: this process answers every world_size-th image.
        on_progress: called with the number of finished (document, cell) pairs.
    """

    adapter: Adapter
    benchmark: Benchmark
    cells: list[Cell]
    journals: dict[str, Journal]
    images_per_window: int = 32
    batch_size: int = 32
    workers: int = 1
    most_new_tokens: int | None = None
    rank: int = 0
    world_size: int = 1
    on_progress: Callable[[int], Any] = lambda count: None
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _done: dict[str, set[int]] = field(default_factory=dict)

    def run(self) -> None:
        """Answer whatever the journals do not hold yet."""
        self._done = {
            cell.id: {doc for doc, e in self.journals[cell.id].read().items() if not e.error}
            for cell in self.cells
        }
        mine = list(self._groups())[self.rank :: self.world_size]
        documents = [document for group in mine for document in group]
        finished = sum(d.index in self._done[c.id] for c in self.cells for d in documents)
        self.on_progress(finished)
        for window in chunks(mine, self.images_per_window):
            if any(self._wanted(document) for group in window for document in group):
                self._answer(self._encode(window))

    def _groups(self) -> Iterator[list[Document]]:
        """Documents by image, in order of first appearance."""
        groups: dict[str, list[Document]] = defaultdict(list)
        for document in self.benchmark.documents:
            groups[document.image_key].append(document)
        yield from groups.values()

    def _wanted(self, document: Document) -> bool:
        return any(self._open(cell, document) for cell in self.cells)

    def _open(self, cell: Cell, document: Document) -> bool:
        return cell.id not in self.failed and document.index not in self._done[cell.id]

    @property
    def _needs(self) -> frozenset[str]:
        return frozenset().union(*(cell.strategy.needs for cell in self.cells)) | {"attention"}

    def _encode(self, groups: Sequence[list[Document]]) -> list[Image]:
        """Decode and encode each image once; one that fails, fails its documents."""
        started = time.perf_counter()
        pictures: list[tuple[list[Document], Any]] = []
        for documents in groups:
            try:
                pictures.append((documents, self.benchmark.image(documents[0])))
            except Exception as error:
                self._fail(documents, self.cells, f"image cannot be read: {_cause(error)}")
        encoded = [pair for chunk in chunks(pictures, 8) for pair in self._encode_some(chunk)]
        spent = time.perf_counter() - started
        self.seconds["encode"] += spent
        images = []
        for documents, tokens in encoded:
            share = spent / len(encoded) / len(self.cells) / len(documents)
            images.append(Image(tokens, documents, share, {}))
        started = time.perf_counter()
        for same in _by_grid(images):
            tokens = stack([image.tokens for image in same])
            ranks = effective_rank_small(tokens.projected)
            entropies = (
                attention_entropy(tokens.attention) if tokens.attention is not None else None
            )
            start = 0
            for image in same:
                rows = slice(start, start := start + image.tokens.batch)
                image.complexity["erank_input"] = float(ranks[rows].mean())
                if entropies is not None:
                    image.complexity["entropy"] = float(entropies[rows].mean())
        self.seconds["complexity"] += time.perf_counter() - started
        return images

    def _encode_some(
        self, pictures: list[tuple[list[Document], Any]]
    ) -> list[tuple[list[Document], VisualTokens]]:
        """One pass of the tower; after an error, each picture alone."""
        try:
            needs = (self._needs & self.adapter.provides) - {"text_embeds"}  # of questions
            tokens = self.adapter.encode([picture for _, picture in pictures], needs)
            return [(documents, each) for (documents, _), each in zip(pictures, tokens)]
        except Exception as error:
            if len(pictures) > 1:
                log.warning("encoding %d images failed (%s); one by one", len(pictures), error)
                return [pair for one in pictures for pair in self._encode_some([one])]
            log.debug("encoding failed", exc_info=True)
            self._fail(pictures[0][0], self.cells, f"encoding failed: {_cause(error)}")
            return []

    def _answer(self, images: list[Image]) -> None:
        started = time.perf_counter()
        cells = [cell for cell in self.cells if cell.id not in self.failed]
        prompts = [p for part in self._map(lambda c: self._prompts(c, images), cells) for p in part]
        self.seconds["select"] += time.perf_counter() - started
        # Composition depends on the plan alone, not on what a journal holds: a resumed run batches
        # as the first one did, and its answers are the same to the last bit.
        prompts.sort(key=self._order)
        alike = groupby(prompts, key=lambda p: (p.length, self._limit(p.document), p.pruning))
        batches = [batch for _, same in alike for batch in chunks(same, self.batch_size)]
        wanted = [b for b in batches if any(self._open(p.cell, p.document) for p in b)]
        started, journal = time.perf_counter(), self.seconds["journal"]
        # Pruning inside the language model hooks its layers: one call at a time.
        for results in self._map(self._generate, [b for b in wanted if not b[0].pruning]):
            self._commit(results)
        for batch in wanted:
            if batch[0].pruning:
                self._commit(self._generate(batch))
        journal = self.seconds["journal"] - journal
        self.seconds["generate"] += time.perf_counter() - started - journal

    def _order(self, prompt: Prompt) -> tuple:
        """Prompts that can share a batch next to each other; inside the model's pruners last."""
        inside = f"{prompt.cell.strategy}@{prompt.cell.budget}" if prompt.pruning else ""
        limit = self._limit(prompt.document)
        return inside, prompt.length, limit, prompt.document.index

    def _map(self, function: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
        """Results in order, computed by ``workers`` threads of one core each.

        On a CPU that is faster than one call with many cores, which wait for each other after
        every small layer.
        """
        if self.workers == 1:
            yield from map(function, items)
            return
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(self.workers, initializer=lambda: torch.set_num_threads(1))
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def _prompts(self, cell: Cell, images: list[Image]) -> list["Prompt"]:
        """Select for one cell on all images of the window, and build its prompts."""
        started = time.perf_counter()
        try:
            chosen = self._select(cell, images)
        except Exception as error:
            log.debug("selection failed", exc_info=True)
            documents = [document for image in images for document in image.documents]
            self._fail(documents, [cell], f"selection failed: {_cause(error)}")
            return []
        total = sum(len(image.documents) for image in images)
        share = (time.perf_counter() - started) / total
        prompts = []
        for image, picked in zip(images, chosen):
            seconds = {"encode": image.encode_seconds, "select": share}
            for document, (visual, rank) in zip(image.documents, picked):
                complexity = {**image.complexity, "erank_kept": rank}
                ids = self.adapter.tokenize(document.question)
                prompts.append(
                    Prompt(cell, document, ids, visual, image.tokens, complexity, dict(seconds))
                )
        return prompts

    def _select(self, cell: Cell, images: list[Image]) -> list[list[tuple[Visual, float]]]:
        """Per image and document: what the language model sees, and the effective rank of it."""
        if "text_embeds" in cell.strategy.needs:
            return [self._select_by_question(cell, image) for image in images]
        chosen: dict[int, tuple[Visual, float]] = {}
        for same in _by_grid(images):
            tokens = stack([image.tokens for image in same])
            selection = cell.strategy(tokens, self.adapter.tile_budget(cell.budget))
            sizes = [image.tokens.batch for image in same]
            visuals = [
                self.adapter.embed(image.tokens, part)
                for image, part in zip(same, split(selection, sizes))
            ]
            for image, visual, rank in zip(same, visuals, ranks_of(visuals)):
                chosen[id(image)] = visual, rank
        return [[chosen[id(image)]] * len(image.documents) for image in images]

    def _select_by_question(self, cell: Cell, image: Image) -> list[tuple[Visual, float]]:
        """Per document of one image, for a strategy that reads the question."""
        chosen: dict[str, tuple[Visual, float]] = {}
        for question in dict.fromkeys(document.question for document in image.documents):
            text = self.adapter.text_embeds(question).expand(image.tokens.batch, -1, -1)
            tokens = replace(image.tokens, text_embeds=text)
            selection = cell.strategy(tokens, self.adapter.tile_budget(cell.budget))
            visual = self.adapter.embed(tokens, selection)
            chosen[question] = visual, ranks_of([visual])[0]
        return [chosen[document.question] for document in image.documents]

    def _limit(self, document: Document) -> int:
        wanted = document.max_new_tokens or DEFAULT_NEW_TOKENS
        return min(wanted, self.most_new_tokens or wanted)

    def _generate(self, batch: list[Prompt]) -> list[tuple[Prompt, Generation | None, str, float]]:
        """Answer a batch; after an error, each sequence alone, to fail only those that must."""
        started = time.perf_counter()
        try:
            answers: list[Generation | None] = list(
                self.adapter.generate(
                    [s.ids for s in batch],
                    [s.visual for s in batch],
                    self._limit(batch[0].document),
                    batch[0].pruning,
                )
            )
            errors = [""] * len(batch)
        except Exception as error:
            if len(batch) > 1:
                log.warning("a batch of %d failed (%s); halving it", len(batch), _cause(error))
                half = len(batch) // 2
                return self._generate(batch[:half]) + self._generate(batch[half:])
            log.debug("generation failed", exc_info=True)
            answers, errors = [None], [f"generation failed: {_cause(error)}"]
        share = (time.perf_counter() - started) / len(batch)
        return [(s, a, e, share) for s, a, e in zip(batch, answers, errors)]

    def _commit(self, results: list[tuple[Prompt, Generation | None, str, float]]) -> None:
        """Journal what is new, one append per cell, and say so."""
        entries: dict[str, list[Entry]] = defaultdict(list)
        for sequence, answer, error, spent in results:
            cell, document = sequence.cell, sequence.document
            if not self._open(cell, document):
                continue
            seconds = {k: round(v, 6) for k, v in (sequence.seconds | {"generate": spent}).items()}
            if answer is None:
                entries[cell.id].append(Entry(document.index, error=error, seconds=seconds))
                self.failed.setdefault(cell.id, f"document {document.index}: {error}")
                continue
            layers = list(answer.visual)
            entries[cell.id].append(
                Entry(
                    doc=document.index,
                    answer=cut(answer.text, document.stop),
                    text_tokens=len(sequence.ids) - 1,
                    new_tokens=answer.new_tokens,
                    visual=layers[0] if len(set(layers)) == 1 else layers,
                    offered=self.adapter.offered(sequence.tokens),
                    grid=list(sequence.tokens.grid),
                    tiles=self.adapter.tiles(sequence.tokens),
                    complexity={k: round(v, 4) for k, v in sequence.complexity.items()},
                    seconds=seconds,
                )
            )
            self._done[cell.id].add(document.index)
        started = time.perf_counter()
        for cell_id, new in entries.items():
            self.journals[cell_id].append(new)
        self.seconds["journal"] += time.perf_counter() - started
        self.seconds["generate"] -= time.perf_counter() - started
        self.on_progress(sum(map(len, entries.values())))

    def _fail(self, documents: Sequence[Document], cells: Sequence[Cell], why: str) -> None:
        for cell in cells:
            new = [Entry(d.index, error=why) for d in documents if self._open(cell, d)]
            if new:
                self.journals[cell.id].append(new)
                self.failed[cell.id] = f"document {new[0].doc}: {why}"


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


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def _by_grid(images: list[Image]) -> Iterator[list[Image]]:
    """Images whose tokens can be stacked."""
    groups: dict[tuple[int, int], list[Image]] = defaultdict(list)
    for image in images:
        groups[image.tokens.grid].append(image)
    yield from groups.values()

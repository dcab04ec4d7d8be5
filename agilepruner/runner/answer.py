"""Answer the documents of one benchmark for many cells at once.

Each image is decoded (ahead, by a thread of its own) and encoded once, for all strategies and
budgets. Every (document, cell) pair is one prompt; prompts of about equal length are batched, with
few pads. Answers are journaled batch by batch, so a kill costs what is in flight and no more. From
decoding to journal a document fails alone: its image, its text, its selection, its answer; what
failed, and why, is in the journal.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from agilepruner.models.base import Adapter
from agilepruner.runner.attention import Attention
from agilepruner.runner.cells import Cell
from agilepruner.runner.complexities import Complexities
from agilepruner.runner.encoding import Encoding, Group, Picture, Seen
from agilepruner.runner.generating import Generating, Result
from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.kept import placed, with_stages
from agilepruner.runner.selecting import Failure, Prompt, Selecting
from agilepruner.runner.work import cause, chunks, in_threads
from evals.tasks import Benchmark, Document

log = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 128  # where a task sets none (VizWiz, TextVQA); LLaVA's own scripts use it
MOST_SHARES = 64  # of a benchmark: what one process takes at a time is one of them
HOPELESS = 64  # failures of a cell in a row, with no answer before them, after which it is given up

Share = list[list[Group]]  # some windows of groups


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

    def limit(self, benchmark: Benchmark) -> int:
        """New tokens of an answer, at most."""
        wanted = benchmark.max_new_tokens or self.default_new_tokens
        return min(wanted, self.most_new_tokens or wanted)


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
    _in_a_row: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _ids: dict[int, list[int]] = field(default_factory=dict)
    _open: dict[int, int] = field(default_factory=dict)  # document -> cells still to answer it
    _counted: int = 0

    def __post_init__(self) -> None:
        needs = frozenset().union(*(cell.strategy.needs for cell in self.cells)) | {"attention"}
        workers, limit = self.settings.workers, self.settings.limit(self.benchmark)
        self._encoding = Encoding(
            *(self.adapter, self.benchmark, needs, len(self.cells), workers),
            *(self.seconds, self.attention),
        )
        self._selecting = Selecting(self.adapter, self._encoding, workers)
        self._generating = Generating(self.adapter, limit, self.settings.batch_size)
        for cell in self.cells:
            self.journals[cell.id].news()  # what was read before is counted here
        for document in self.benchmark.documents:
            self._open[document.index] = sum(
                not self._settled(cell, document.index) for cell in self.cells
            )

    def shares(self) -> list[Share]:
        """The work in shares that processes can take.

        They are whole windows, so that batches are the same whoever takes which.
        """
        groups: dict[str, Group] = defaultdict(list)
        for document in self.benchmark.documents:
            groups[document.image_key].append(document)
        windows = list(chunks(groups.values(), self.settings.images_per_window))
        return list(chunks(windows, -(-len(windows) // MOST_SHARES) or 1))

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
        look = self._encoding.look
        loader = ThreadPoolExecutor(1, "images")  # one window ahead
        try:
            windows = [window for window in share if self._window_wanted(window)]
            ahead = [loader.submit(look, window) for window in windows[:1]]
            for number, window in enumerate(windows):
                images = self._timed("images", ahead.pop().result)
                ahead += [loader.submit(look, w) for w in windows[number + 1 : number + 2]]
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
            pictures = self._encode(wanted, self._encoding.look(wanted)) if wanted else []
            self._ids.clear()
            store.add({picture.key: picture.measured for picture in pictures})

    def apportion(self, store: Complexities) -> None:
        """Say how many tokens each image may keep, where that depends on all of them.

        Cells whose benchmark has an image that could not be measured fail: of other images other
        budgets would follow.
        """
        measured = store.read()
        self._encoding.measured = measured
        groups = {group[0].image_key: group for s in self.shares() for w in s for group in w}
        missing = [key for key in groups if key not in measured]
        known = [measured[key] for key in groups if key in measured]
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
            self._selecting.budgets[cell.id] = dict(zip(groups, found))

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

    def _encode(self, window: Sequence[Group], seen: Sequence[Seen]) -> list[Picture]:
        """The images of a window; one that fails, fails its documents."""
        images = [(self._without_odd(group), one) for group, one in zip(window, seen)]
        pictures, unseen = self._encoding.encode([each for each in images if each[0]])
        self._fail([(cell, document, why) for document, why in unseen for cell in self.cells])
        return pictures

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

    def _answer(self, pictures: list[Picture]) -> None:
        started = time.perf_counter()
        cells = [cell for cell in self.cells if self._in_a_row[cell.id] < HOPELESS]
        prompts, failures = self._selecting.prompts(cells, pictures, self._ids)
        self._fail(failures)
        self.seconds["select"] += time.perf_counter() - started
        # Composition depends on the plan alone, not on what a journal holds: a resumed run batches
        # as the first one did, and its answers are the same to the last bit.
        prompts.sort(key=_order)
        alike = groupby(prompts, key=lambda p: p.pruning)
        batches = [b for _, same in alike for b in self._generating.batches(list(same))]
        wanted = [b for b in batches if any(not self._closed(p.cell, p.document) for p in b)]
        started, journal = time.perf_counter(), self.seconds["journal"]
        # Pruning inside the language model hooks its layers: one call at a time.
        before = [batch for batch in wanted if not batch[0].pruning]
        inside = [batch for batch in wanted if batch[0].pruning]
        for part, workers in ((before, self.settings.workers), (inside, 1)):
            generate = self._generating.generate
            alone = map(generate, part)  # with all cores
            for results in alone if workers == 1 else in_threads(generate, part, workers):
                self._commit(results)
        journal = self.seconds["journal"] - journal
        self.seconds["generate"] += time.perf_counter() - started - journal

    @property
    def _stops(self) -> list[str]:
        return [stop for stop in self.benchmark.stop if stop not in self.settings.ignored_stops]

    def _commit(self, results: Iterable[Result]) -> None:
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
                    **placed(picture.layout),
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


def _order(prompt: Prompt) -> tuple:
    """Prompts that can share a batch next to each other; inside the model's pruners last."""
    inside = f"{prompt.cell.strategy}@{prompt.cell.budget}" if prompt.pruning else ""
    return inside, prompt.length, prompt.document.index


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text

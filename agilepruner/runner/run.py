"""A run: answer what is not answered (this needs the model), score what is (this does not).

Several processes may run the same command, or jobs of one sweep, in one results directory: each
takes the shares of images that nobody holds, and all of them see each other's answers.
"""

import glob
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method

from agilepruner.errors import UserError
from agilepruner.memory import give_back_freed_memory, keep_freed_memory
from agilepruner.ranks import first
from agilepruner.runner import identity
from agilepruner.runner.answer import DEFAULT_NEW_TOKENS, Answering, Settings, Share
from agilepruner.runner.attention import FOLDER as ATTENTION
from agilepruner.runner.attention import Attention
from agilepruner.runner.cells import Cell
from agilepruner.runner.claims import Claims
from agilepruner.runner.complexities import Complexities
from agilepruner.runner.journal import Journal
from agilepruner.runner.plan import ANSWERING, Run, source_of
from agilepruner.runner.progress import Progress
from agilepruner.runner.rows import Row, read_row
from agilepruner.runner.score import blank_row, complete, header
from agilepruner.runner.scorers import Scorers, automatic, cores
from agilepruner.runner.stored import NOISE, Asked, images_name, score_apart, score_folder, store
from agilepruner.runner.work import cause

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.5  # between looks at what other processes have done
SAY_WAITING = 60


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        rows: one per cell, done or failed, in the order of the cells.
        problem: why it stopped before the end (a full disk); empty otherwise.
    """

    rows: list[Row]
    problem: str = ""


Look = Callable[[list[Row]], list[str]]
OnRows = Callable[[list[Row]], None]


def execute(
    run: Run,
    on_rows: OnRows | None = None,
    first_look: Look | None = None,
) -> Outcome:
    """Answer and score every cell of an identified run that is not done.

    Cells fail one by one: a failed cell has a row that says why, and the others go on. Small
    benchmarks come before large ones, so that there is something to look at soon.

    Args:
        run: what to do.
        on_rows: called with all rows there are, whenever a benchmark is finished; in another
            process where there are any to score in.
        first_look: what is wrong with vanilla's rows on the first window of images of every
            benchmark, which are answered before all else; None: there is nothing to look for.

    Raises:
        UserError: the first look found something, and the config does not say to go on.
    """
    if run.config["reuse"]:
        _reuse(run)
    rows = {cell.id: row for cell in run.cells if (row := row_of(run, cell)) is not None}
    todo = [cell for cell in run.cells if cell.id not in rows]
    problem = ""
    if todo:
        started = time.perf_counter()
        spent: dict[str, float] = defaultdict(float)
        with Claims(run.directory) as claims:
            work = _Work(run, todo, claims, spent, rows, on_rows, first_look)
            try:
                work.do()
            except OSError as error:
                problem = (
                    f"{error.strerror or error}: nothing more can be stored in {run.directory}. "
                    "What was answered before is safe: make room and run the same command."
                )
                log.error("%s", problem)
        _say_where_time_went(spent, time.perf_counter() - started)
    return Outcome([rows[cell.id] for cell in run.cells if cell.id in rows], problem)


def _read(run: Run, cell: Cell) -> Row | None:
    return read_row(run.folder(cell) / "row.json", cell.id)


def row_of(run: Run, cell: Cell) -> Row | None:
    """A cell's row, if it is done and was scored as it would be today."""
    row = _read(run, cell)
    return row if row and row.status == "done" and row.scoring == cell.scoring else None


def _tell(shared: tuple[Run, set[str]], on_rows: OnRows) -> None:
    """Call ``on_rows`` with the rows of some cells, in a process of ``Scorers``."""
    run, known = shared
    rows = (_read(run, cell) for cell in run.cells if cell.id in known)
    on_rows([row for row in rows if row is not None])


def _reuse(run: Run) -> None:
    """Copy the cells that other runs beside this one have finished and this one has not begun.

    Copied are answers and row, under names that no process writes to, each file whole or not at
    all: what is half copied when the power goes is half a cell, which is answered to its end.
    """
    taken: dict[str, int] = defaultdict(int)
    pictured: set[tuple[Path, str]] = set()  # runs, and what the images of a benchmark are under
    for cell in run.cells:
        mine = run.folder(cell)
        if any(mine.glob("journal.*.jsonl")):
            continue
        for other in sorted(run.directory.parent.glob(f"*/cells/{glob.escape(cell.folder)}")):
            row = read_row(other / "row.json", cell.id)
            if row is None or row.status != "done":
                continue
            mine.mkdir(parents=True, exist_ok=True)
            for number, journal in enumerate(sorted(other.glob("journal.*.jsonl"))):
                _copy(journal, mine / f"journal.of-{other.parent.parent.name}-{number}.jsonl")
            pictured.add((other.parent.parent, images_name(cell.identity)))
            store(mine, row)
            taken[other.parent.parent.name] += 1
            break
    for other, images in sorted(pictured):
        for number, levels in enumerate(sorted((other / ATTENTION).glob(f"{images}.*.jsonl"))):
            (run.directory / ATTENTION).mkdir(exist_ok=True)
            _copy(levels, run.directory / ATTENTION / f"{images}.of-{other.name}-{number}.jsonl")
    for name, count in taken.items():
        log.info("%d cells are those of %s", count, run.directory.parent / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that it is there whole or not at all."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


@dataclass(frozen=True)
class _Part:
    """The cells of one benchmark, and the shares of its images (none: all is answered)."""

    name: str
    cells: list[Cell]
    answering: Answering | None
    shares: list[Share]


class _Work:
    """One call of ``execute``: the cells that are left, and what was loaded for them."""

    def __init__(
        self,
        run: Run,
        cells: list[Cell],
        claims: Claims,
        spent: dict[str, float],
        rows: dict[str, Row],
        on_rows: OnRows | None,
        first_look: Look | None,
    ) -> None:
        self.on_rows, self.first_look = on_rows, first_look
        self.run, self.cells, self.claims, self.spent, self.rows = run, cells, claims, spent, rows
        self.since = time.time()
        self.journals = {
            c.id: Journal(run.folder(c), c.id, claims.writer, keep=False) for c in cells
        }
        self.benchmarks: dict[str, Any] = {}
        self.failed = dict(run.failed)
        self.scorers = Scorers(0)
        self.apart: list[tuple[_Part, Future[None] | None]] = []
        self.stored: set[str] = set()  # ids of cells that other processes scored

    def do(self) -> None:
        clock = time.perf_counter()
        self._load_benchmarks()
        loaded = [c for c in self.cells if c.benchmark in self.benchmarks]
        # All cells of a benchmark, or none: batches are those of the first run, see Answering.
        begun = {c.benchmark for c in loaded if not self._answered(c)}
        fresh = [c for c in loaded if c.benchmark in begun]
        adapter = load(self.run, fresh) if fresh else None
        self.spent["load"] += time.perf_counter() - clock
        if self.first_look is not None and fresh:
            self._look(adapter, fresh)
        total = sum(len(self.benchmarks[cell.benchmark].documents) for cell in fresh)
        count = self.run.config["scorers"]
        if count is None:
            count = automatic(sum(len(self.benchmarks[c.benchmark].documents) for c in loaded))
        self.scorers = Scorers(count)
        with Progress(total, len(self.cells)) as progress:
            try:
                with self.scorers:
                    self._answer_and_score(adapter, fresh, progress)
            finally:  # what other processes scored is there, whatever happened here
                for cell in self.cells:
                    if cell.id in self.stored - self.rows.keys() and (row := _read(self.run, cell)):
                        self.rows[cell.id] = row

    def _answer_and_score(self, adapter: Any, fresh: list[Cell], progress: Progress) -> None:
        for cell in self.cells:
            if cell.benchmark in self.failed:
                self._not_loaded(cell)
                progress.cell_done()
        held: list[_Part] = []
        for name in self._small_first():
            progress.benchmark(self.run.config["benchmark"][name]["label"])
            part = self._part(adapter, name, fresh, progress)
            if self._pass(part):
                held.append(part)
            else:
                self._finish(part, progress)
        self._wait_for_others(held, progress)
        for part, future in self.apart:
            self._collect(part, future, progress)

    def _part(self, adapter: Any, name: str, fresh: list[Cell], progress: Progress) -> _Part:
        cells = [cell for cell in self.cells if cell.benchmark == name]
        mine = [cell for cell in fresh if cell.benchmark == name]
        if not mine:
            return _Part(name, cells, None, [])
        answering = self._answering(adapter, name, mine, progress.documents)
        if any(cell.strategy.apportions for cell in mine):
            self._apportion(answering, name)
        return _Part(name, cells, answering, answering.shares())

    def _small_first(self) -> list[str]:
        return sorted(self.benchmarks, key=lambda name: len(self.benchmarks[name].documents))

    def _look(self, adapter: Any, fresh: list[Cell]) -> None:
        """Answer the first window of every benchmark unpruned, and see what it says."""
        log.info("a first look: vanilla on the first images of every benchmark")
        rows, looks = [], []
        for name in self._small_first():
            cells = [c for c in fresh if c.benchmark == name and c.strategy_name == "vanilla"]
            if cells:
                answering = self._answering(adapter, name, cells, lambda count: None)
                looks.append(_Part(name, cells, answering, answering.shares()))
        while looks:  # all processes look at all benchmarks, so that all of them stop
            held = []
            for part in looks:
                if not self._first_window(part):
                    held.append(part)
                    continue
                seen = [document for group in part.shares[0][0] for document in group]
                benchmark = replace(self.benchmarks[part.name], documents=seen)
                rows.append(self._score_cell(part.cells[0], benchmark))
            looks = held
            if looks:
                time.sleep(WAIT_SECONDS)
        for row in rows:
            if row.status != "done" and first():
                log.error("%s: the first images fail: %s", row.benchmark_label, row.error)
        assert self.first_look is not None
        found = self.first_look([row for row in rows if row.status == "done"])
        if not found:
            return
        said = f"Vanilla is far from its published numbers: {'; '.join(found)}."
        if self.run.config["anchor"] == "stop":
            raise UserError(
                f"{said} Check weights, protocol and preprocessing, or go on with anchor=warn; "
                "what was answered is kept."
            )
        if first():  # all processes find the same
            log.warning("%s", said)

    def _first_window(self, part: _Part) -> bool:
        """Answer the first window of a benchmark; False: another process is at it."""
        window, answering = part.shares[0][:1], part.answering
        assert answering is not None
        answering.refresh()
        if answering.wanted(window):
            claim = self._claim(part.name, 0, len(part.shares))
            if not self.claims.take(claim):
                return False
            try:
                answering.refresh()
                answering.answer(window)
            finally:
                self.claims.give_back(claim)
        answering.close()
        return True

    def _load_benchmarks(self) -> None:
        from evals import tasks

        log.info("loading lmms-eval and the documents")
        tasks.import_lmms_eval()
        for name in dict.fromkeys(cell.benchmark for cell in self.cells):
            if name in self.failed:
                continue
            try:
                self.benchmarks[name] = documents_of(self.run, name)
            except UserError as error:  # its cells fail, and no other
                self.failed[name] = str(error)
                log.debug("loading failed", exc_info=True)
                log.error("%s", error)

    def _answered(self, cell: Cell) -> bool:
        journal = self.journals[cell.id]
        journal.refresh()
        return complete(self.benchmarks[cell.benchmark], journal)

    def _not_loaded(self, cell: Cell) -> None:
        row = blank_row(self.run.config, cell, cell.budget)
        self._store(cell, replace(row, status="failed", error=self.failed[cell.benchmark]))

    def _answering(
        self, adapter: Any, name: str, cells: list[Cell], on_progress: Callable[[int], None]
    ) -> Answering:
        config = self.run.config
        settings = settings_of(config, adapter, self.since)
        answering = Answering(
            adapter,
            self.benchmarks[name],
            cells,
            {cell.id: self.journals[cell.id] for cell in cells},
            settings,
            lambda cell: header(config, cell, adapter),
            on_progress,
            self.spent,
            Attention(self.run.directory, images_name(cells[0].identity), self.claims.writer),
        )
        answering.refresh()
        for cell in cells:  # a journal whose header was damaged has its answers still
            journal = self.journals[cell.id]
            if journal.header is None and journal.answers:
                journal.begin(answering.header(cell))
        return answering

    def _apportion(self, answering: Answering, name: str) -> None:
        """Measure all images of a benchmark, with other processes, and set their budgets."""
        known = answering.cells[0].identity
        code = identity.digest([identity.code_digest(ANSWERING), known["versions"]])
        where = f"{images_name(known)}-{code}"
        store = Complexities(self.run.directory, where, self.claims.writer)
        open_ = list(enumerate(answering.shares()))
        while open_:
            held = []
            for number, share in open_:
                claim = f"complexity-{where}-{number}"
                if not self.claims.take(claim):
                    held.append((number, share))
                    continue
                try:
                    answering.measure(share, store)
                finally:
                    self.claims.give_back(claim)
            open_ = held
            if open_:
                time.sleep(WAIT_SECONDS)
        answering.apportion(store)

    def _pass(self, part: _Part) -> bool:
        """Answer the shares that nobody holds; whether others hold some."""
        held = False
        for number, share in enumerate(part.shares):
            if part.answering is None or not part.answering.wanted(share):
                continue
            claim = self._claim(part.name, number, len(part.shares))
            if not self.claims.take(claim):
                held = True
                continue
            try:
                part.answering.refresh()
                part.answering.answer(share)
            finally:
                self.claims.give_back(claim)
        return held

    def _claim(self, name: str, number: int, count: int) -> str:
        """The name of a share: of the documents, not the cells, so that sweep jobs take turns."""
        cell = next(cell for cell in self.cells if cell.benchmark == name)
        keys = ("documents", "limit", "protocol")
        documents = identity.digest({key: cell.identity[key] for key in keys})
        return f"share-{name}-{documents}-{number}-of-{count}"

    def _wait_for_others(self, parts: list[_Part], progress: Progress) -> None:
        """Finish what other processes hold: with them, or in their place when they are gone."""
        said = time.monotonic()
        while parts:
            still = []
            for part in parts:
                if part.answering is not None:
                    part.answering.refresh()
                if self._pass(part):
                    still.append(part)
                else:
                    self._finish(part, progress)
            parts = still
            if parts and time.monotonic() - said > SAY_WAITING:
                log.info("waiting for other processes on %s", ", ".join(p.name for p in parts))
                said = time.monotonic()
            if parts:
                time.sleep(WAIT_SECONDS)

    def _finish(self, part: _Part, progress: Progress) -> None:
        """Score what is answered: here and now, or in other processes while this one goes on."""
        if part.answering is not None:
            part.answering.close()
            give_back_freed_memory()
        if not self.scorers.count:
            self._score(part, progress)
            if self.on_rows is not None and len(self.rows) < len(self.run.cells):
                self.on_rows([self.rows[c.id] for c in self.run.cells if c.id in self.rows])
            return
        future = None
        if self.claims.take(f"score-{part.name}"):  # else another run of us is scoring now
            future = self.scorers.later(self._score_apart, part, progress)
        self.apart.append((part, future))

    def _score_apart(self, part: _Part, progress: Progress) -> None:
        """Have a benchmark scored, and the report so far written, by other processes."""
        config = self.run.config
        open_ = [cell for cell in part.cells if row_of(self.run, cell) is None]
        asked = Asked(
            *(part.name, config["benchmark"][part.name], self.run.sources[part.name]),
            *(config["protocol"], self.benchmarks[part.name].documents),
        )

        def done(number: int) -> None:
            self.stored.add(open_[number].id)
            progress.cell_done()

        try:
            items = [(cell, self.run.folder(cell)) for cell in open_]
            self.scorers.each(score_apart, (config, asked), items, done)
        finally:
            self.claims.give_back(f"score-{part.name}")
        known = self.stored | self.rows.keys()
        if self.on_rows is not None and len(known) < len(self.run.cells):
            self.scorers.each(_tell, (self.run, known), [self.on_rows])

    def _collect(self, part: _Part, future: Future[None] | None, progress: Progress) -> None:
        """Wait for the processes that score a benchmark, and take or make its rows."""
        started = time.perf_counter()
        try:
            if future is None:
                self.claims.take(f"score-{part.name}", wait=True)
                self._score_apart(part, progress)
            else:
                future.result()
        except Exception as error:
            log.warning("%s is scored in this process (%s)", part.name, cause(error))
            log.debug("scoring apart failed", exc_info=True)
        self.spent["score"] += time.perf_counter() - started
        self._score(part, progress)

    def _score(self, part: _Part, progress: Progress) -> None:
        """The rows of a benchmark: those that are on disk, and the others scored here."""
        started = time.perf_counter()
        claim = f"score-{part.name}"
        self.claims.take(claim, wait=True)
        try:
            for cell in part.cells:
                apart = cell.id in self.stored
                row = _read(self.run, cell) if apart else row_of(self.run, cell)
                if row is None:
                    row = self._score_cell(cell, self.benchmarks[cell.benchmark])
                    self._store(cell, row)
                self.rows[cell.id] = row
                if not apart:
                    progress.cell_done()
        finally:
            self.claims.give_back(claim)
            self.spent["score"] += time.perf_counter() - started

    def _score_cell(self, cell: Cell, benchmark: Any) -> Row:
        return score_folder(self.run.config, cell, benchmark, self.run.folder(cell))

    def _store(self, cell: Cell, row: Row) -> None:
        self.rows[cell.id] = row  # first: the table is printed even where it cannot be stored
        store(self.run.folder(cell), row)


def documents_of(run: Run, name: str) -> Any:
    """A benchmark of an identified run, loaded.

    Raises:
        UserError: it cannot be.
    """
    from evals import tasks

    config = run.config
    try:
        benchmark = tasks.load(
            *(name, config["benchmark"][name], run.sources[name]),
            *(config["protocol"], config["limit"]),
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{type(error).__name__}: {error}") from error
    if config["suite"]["kind"] == "directory":  # hub files are of one commit
        _unchanged(run, name)
    return benchmark


def _unchanged(run: Run, benchmark: str) -> None:
    """Refuse documents whose files are no longer those that the cells are bound to."""
    if source_of(run.config, benchmark).identity != run.sources[benchmark].identity:
        raise UserError(f"The documents of '{benchmark}' changed while they were read; run again.")


def load(run: Run, cells: list[Cell]) -> Any:
    """The adapter, loaded from the very files that the cells are bound to.

    Raises:
        UserError: it cannot be loaded, or its files changed meanwhile.
    """
    config = run.config["model"]
    log.info("loading model '%s'", config["name"])
    if not torch.cuda.is_available():
        keep_freed_memory()
    adapter = load_model({**config, "load": {**config["load"], **run.checkpoint}})
    if cells[0].identity["model"]["files"] != identity.checkpoint_digest(
        Path(run.checkpoint["path"])
    ):
        raise UserError(
            f"The files of {run.checkpoint['path']} changed while they were loaded. Run the same "
            "command again when they are whole."
        )
    for setting, said in (("path", "revision"), ("joint_space", "joint_space_revision")):
        if revision := _revision(Path(run.checkpoint.get(setting, ""))):
            adapter.environment[said] = revision
    if any("text_embeds" in cell.strategy.needs for cell in cells):
        adapter.text_embeds("")  # loads CLIP now, so that what fails fails here
    header(run.config, cells[0], adapter)  # a model without FLOPs fails now as well
    return adapter


def _revision(checkpoint: Path) -> str:
    """Commit of a hub snapshot; empty for a directory of the user's."""
    return checkpoint.name if checkpoint.parent.name == "snapshots" else ""


def load_model(model: Mapping[str, Any]) -> Any:
    """Instantiate the adapter of a model config."""
    settings = {k: v for k, v in model["load"].items() if k != "_target_"}
    settings.pop("joint_space_revision", None)
    return get_method(model["load"]["_target_"])(**settings)


def settings_of(config: Mapping[str, Any], adapter: Any, since: float = 0.0) -> Settings:
    """How a composed config has documents answered; failures before ``since`` are tried again."""
    model = config["model"]
    return Settings(
        images_per_window=config["images_per_window"],
        batch_size=config["batch_size"],
        workers=_workers(config["workers"], adapter),
        most_new_tokens=model["max_new_tokens"],
        default_new_tokens=model.get("default_new_tokens", DEFAULT_NEW_TOKENS),
        ignored_stops=tuple(model.get("ignored_stops", ())),
        since=since,
    )


def _workers(wanted: int | None, adapter: Any) -> int:
    """Generation threads: one per core on a CPU, one on a GPU."""
    if wanted is not None:
        return wanted
    return 1 if "cuda" in adapter.environment["device"] else cores()


def _say_where_time_went(spent: Mapping[str, float], total: float) -> None:
    known = sum(spent.values())
    parts = [f"{name} {seconds:.1f}s" for name, seconds in spent.items() if seconds >= 0.05]
    parts.append(f"other {max(0.0, total - known):.1f}s")
    log.info("%.1f s: %s", total, ", ".join(parts))


def once_more(run: Run) -> Run:
    """Vanilla's cells of an identified run, to be answered again with batches of ``noise``.

    Their place is their own: a batch size is in no identity.
    """
    size = run.config["noise"]
    config = {**run.config, "batch_size": size, "reuse": False}
    cells = [cell for cell in run.cells if cell.strategy_name == "vanilla"]
    return replace(run, config=config, cells=cells, directory=run.directory / NOISE.format(size))

"""What a results directory holds: rows, journals, and the documents that were asked.

Nothing here loads a model. ``rescore`` makes rows of journals with the scoring code of today.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agilepruner.config import AnyBenchmark
from agilepruner.errors import UserError
from agilepruner.places import CONFIGS
from agilepruner.ranges import conform
from agilepruner.runner import identity
from agilepruner.runner.cells import Cell
from agilepruner.runner.claims import Claims
from agilepruner.runner.journal import Journal, header_in
from agilepruner.runner.plan import asked_of, scoring, source_of
from agilepruner.runner.rows import Row, drop_temporaries, read_row, write_row
from agilepruner.runner.score import CellFailed, blank_row, score_cell, strategy_of
from agilepruner.runner.scorers import Scorers, automatic

LINE = 400  # bytes of an answer in a journal, about
NOISE = "noise/batch-{}"  # in a run's directory: where vanilla is answered once more

log = logging.getLogger(__name__)


def store(folder: Path, row: Row) -> None:
    """Write a row, and say so when it is a failed one.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    if row.status != "done":
        what = f"{row.label} at {row.budget} on {row.benchmark_label}"
        log.error("%s failed: %s", what, row.error)
    folder.mkdir(parents=True, exist_ok=True)
    drop_temporaries(folder)
    write_row(folder / "row.json", row)


def folders(directory: Path) -> Iterator[tuple[Path, str]]:
    """Cell folders of a results directory and the ids in their names."""
    for folder in sorted((directory / "cells").glob("*")):
        if folder.is_dir():
            yield folder, folder.name.rpartition("-")[2]


def rows_in(directory: Path) -> list[Row]:
    """Every row of a results directory that can be believed, the oldest answers first."""
    found = [(answered_at(folder), read_row(folder / "row.json", cell), folder.name)
             for folder, cell in folders(directory)]  # fmt: skip
    known = [(at, name, row) for at, row, name in found if row is not None]
    return [row for *_, row in sorted(known, key=lambda each: each[:2])]


def repetitions(directory: Path) -> list[list[Row]]:
    """The rows of every repetition of vanilla that a results directory holds."""
    return [rows_in(place) for place in sorted(directory.glob(NOISE.format("*")))]


def answered_at(folder: Path) -> float:
    """When a cell's journals were last written, seconds since 1970; 0 where there is none."""
    return max((path.stat().st_mtime for path in folder.glob("journal.*.jsonl")), default=0.0)


def images_name(cell: Mapping[str, Any]) -> str:
    """What the images of a cell are filed under: its benchmark, its documents and its model.

    Args:
        cell: its identity.
    """
    parts = {key: cell.get(key) for key in ("documents", "model")}
    return f"{cell['benchmark']}-{identity.digest(parts)}"


def context(row: Row) -> str:
    """What rows of one table must have in common besides their names: model and number of units."""
    return identity.digest([row.identity.get("model"), row.identity.get("limit")])


@dataclass(frozen=True)
class Asked:
    """Documents of a benchmark, and what another process needs to score answers to them.

    That is no image and no task: it opens the columns and the task again.
    """

    name: str
    config: Mapping[str, Any]
    source: Any
    protocol: str
    documents: list[Any]

    @cached_property
    def benchmark(self) -> Any:
        """The loaded benchmark (``evals.tasks.Benchmark``), to score with."""
        from evals import tasks

        chosen, split, task = tasks.opened(self.config, self.source, self.protocol)
        known = self.config, chosen, task, split, self.documents
        return tasks.Benchmark(self.name, *known, max_new_tokens=None, stop=())

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def score_folder(config: Mapping[str, Any], cell: Cell, benchmark: Any, folder: Path) -> Row:
    """The row of a cell from its journals, see ``score_cell``."""
    journal = Journal(folder, cell.id)  # entries of one cell at a time in memory
    journal.refresh()
    return score_cell(config, cell, benchmark, journal, folder)


def score_apart(shared: tuple[Mapping[str, Any], Asked], item: tuple[Cell, Path]) -> None:
    """Score a cell and store its row, in a process of ``Scorers``."""
    (config, asked), (cell, folder) = shared, item
    store(folder, score_folder(config, cell, asked.benchmark, folder))


def rescore(directory: Path, scorers: int | None = None) -> list[Row]:
    """Score every journal of a results directory with today's code; no model is loaded.

    Args:
        directory: of the run.
        scorers: processes that do it; 0: this one, None: by the number of answers.

    Raises:
        UserError: there is nothing to score.
    """
    rows: list[tuple[float, str, Row]] = []
    with Claims(directory) as claims:
        claims.take("score", wait=True)
        groups: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        size = 0
        for folder, cell in folders(directory):
            said = header_in(folder, cell)
            if said is None:
                continue
            if "positions" not in said["identity"]:
                log.warning("%s was answered by an earlier version: run it again", folder.name)
                continue
            size += sum(path.stat().st_size for path in folder.glob("journal.*.jsonl"))
            groups[said["identity"]["benchmark"]].append((folder, cell))
        count = automatic(size // LINE) if scorers is None else scorers
        with Scorers(count) as processes:
            for found in groups.values():
                loaded: dict[str, Asked] = {}
                if count:
                    _load_for(found, loaded)
                done = processes.each(_rescore_apart, loaded, found)
                for number, (folder, cell) in enumerate(found):
                    row = read_row(folder / "row.json", cell) if number in done else None
                    if row is None:
                        row = _rescored(folder, cell, loaded)
                        store(folder, row)
                    rows.append((answered_at(folder), folder.name, row))
    if not rows:
        raise UserError(f"{directory} holds no journals that this version can score.")
    return [row for *_, row in sorted(rows, key=lambda each: each[:2])]


def _load_for(found: list[tuple[Path, str]], loaded: dict[str, Asked]) -> None:
    """Load the documents of some journals once, for the processes that score them."""
    for folder, cell in found:
        journal = Journal(folder, cell)
        journal.header = header_in(folder, cell)
        try:
            _documents_of(*_said_of(journal), loaded)
        except (UserError, CellFailed):  # said in the row of the cell, when it is scored
            log.debug("documents cannot be loaded", exc_info=True)


def _rescore_apart(loaded: dict[str, Asked], item: tuple[Path, str]) -> None:
    folder, cell = item
    store(folder, _rescored(folder, cell, loaded))


def _rescored(folder: Path, cell_id: str, loaded: dict[str, Asked]) -> Row:
    journal = Journal(folder, cell_id)
    journal.refresh()
    try:
        return recomputed(journal, folder, loaded)
    except (UserError, CellFailed) as error:
        config, cell = _said_of(journal)
        return replace(blank_row(config, cell, cell.budget), status="failed", error=str(error))


def recomputed(journal: Journal, folder: Path, loaded: dict[str, Asked]) -> Row:
    """The row that a journal gives with the scoring of today.

    Args:
        journal: refreshed, with a header.
        folder: where metrics may leave files.
        loaded: what was loaded for other journals; more is added.

    Raises:
        UserError: the documents are not there. CellFailed: they, or the header, are others.
    """
    config, cell = _said_of(journal)
    if cell.id != journal.cell:
        raise CellFailed("its header is not that of this cell")
    return score_cell(config, cell, _documents_of(config, cell, loaded), journal, folder)


def _said_of(journal: Journal) -> tuple[dict[str, Any], Cell]:
    """The config and the cell that a journal's header names, with the scoring of today."""
    said = journal.header or {}
    known, config = said["identity"], said["config"]
    (name,) = config["benchmark"]
    config = {**config, "suite": suite_here(config["suite"])}
    config = {**config, "benchmark": {name: _as_configured_today(config, name, known)}}
    cell = Cell(
        *(said["strategy_name"], strategy_of(known["strategy"]), known["budget"], name),
        *(known["positions"], known, identity.digest(known), scoring(config, name)),
    )
    return config, cell


def _documents_of(config: Mapping[str, Any], cell: Cell, loaded: dict[str, Asked]) -> Any:
    """The loaded benchmark whose documents a journal answers (``evals.tasks.Benchmark``).

    Args:
        config: of ``_said_of``.
        cell: of ``_said_of``.
        loaded: what was loaded before, for the next call.

    Raises:
        UserError: the documents are not there.
        CellFailed: they are not those that were asked.
    """
    from evals import tasks

    name, known = cell.benchmark, cell.identity["documents"]
    parts = (config["suite"], config["benchmark"][name], config["protocol"], config["limit"])
    key = identity.digest((*parts, known))
    if key not in loaded:
        source = source_of(config, name, known)
        benchmark = tasks.load(name, parts[1], source, *parts[2:])
        loaded[key] = Asked(name, parts[1], source, parts[2], benchmark.documents)
        vars(loaded[key])["benchmark"] = benchmark
    if identity.digest(loaded[key].source.identity) != identity.digest(known):
        raise CellFailed("the documents changed since they were answered; run it again")
    return loaded[key].benchmark


def local_source(config: Mapping[str, Any], benchmark: str, known: Mapping[str, Any]) -> Any:
    """Files of a benchmark's documents that are on this machine; no byte of them is hashed.

    Args:
        config: a journal's, with the suite of this machine.
        benchmark: whose.
        known: ``documents`` of the cell's identity.

    Raises:
        UserError: they are not here.
    """
    from evals.sources import Source, suite_file

    if config["suite"]["kind"] == "hub":
        return source_of(config, benchmark, known, fetch=False)
    return Source((suite_file(config["suite"], benchmark),), (), ("", ""), {})


def suite_here(suite: Mapping[str, Any]) -> Mapping[str, Any]:
    """The suite of a journal; one of ours that was written elsewhere is where ours is here."""
    path = CONFIGS / "suite" / f"{suite['name']}.yaml"
    if suite["kind"] != "directory" or Path(suite["directory"]).is_dir() or not path.is_file():
        return suite
    ours = OmegaConf.to_container(OmegaConf.load(path), resolve=True, throw_on_missing=False)
    return {**suite, "directory": ours["directory"]}  # type: ignore[index, call-overload]


def _as_configured_today(
    config: Mapping[str, Any], name: str, known: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Today's config of a benchmark, unless it asks otherwise than the journal was asked."""
    recorded = config["benchmark"][name]
    overrides = [f"benchmark=[{name}]", f"model={config['model']['name']}"]
    overrides += [f"protocol={config['protocol']}"]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
            composed = compose("config", overrides=overrides)
        raw = OmegaConf.to_container(composed.benchmark[name], resolve=True)
        today = conform(AnyBenchmark, raw, name)  # as a run has it: 100 is 100.0
        asked = identity.digest(asked_of(today, config["protocol"]))
    except (HydraException, OmegaConfBaseException, UserError, KeyError, ValueError):
        return recorded
    return today if asked == identity.digest(known["protocol"]) else recorded

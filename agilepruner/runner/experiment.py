"""One run: from a composed config to finished rows."""

import fcntl
import importlib.metadata
import json
import logging
import math
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

import evals
from agilepruner import __version__
from agilepruner.errors import UserError, unknown
from agilepruner.runner.cells import (
    Cell,
    directory_digest,
    file_digest,
    parameters,
    source_digest,
    text_digest,
)
from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.rows import SHOWN, Row, describe, read_row, write_row
from agilepruner.strategies.base import Strategy
from agilepruner.strategies.decoder.schedule import DecoderStrategy
from evals.tasks import suite_file

log = logging.getLogger(__name__)

PROTOCOLS = ("lmms", "paper")
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model")
SCORING = ("headline", "unit_score", "aggregations", "process_results")  # of a protocol's settings
VERSIONS = ("torch", "transformers", "lmms-eval", "datasets", "hydra-core")


@dataclass(frozen=True)
class Run:
    """A validated plan: the cells of one composed config, vanilla first."""

    config: Mapping[str, Any]
    cells: list[Cell]
    directory: Path

    def folder(self, cell: Cell) -> Path:
        return self.directory / "cells" / cell.folder

    def row(self, cell: Cell) -> Row | None:
        """The cell's row, if it is done and scored as it would be today."""
        row = self.earlier(cell)
        return row if row is not None and row.scoring == cell.scoring else None

    def earlier(self, cell: Cell) -> Row | None:
        """The cell's row, if it is done, however it was scored."""
        row = read_row(self.folder(cell) / "row.json")
        return row if row is not None and row.status == "done" else None


def plan(config: DictConfig) -> Run:
    """Validate a config and list its cells; nothing is loaded but strategies.

    Raises:
        UserError: what is wrong and how to fix it.
    """
    if config.protocol not in PROTOCOLS:
        raise unknown("protocol", config.protocol, PROTOCOLS)
    data: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    budgets = _budgets(data["budget"])
    if not data.get("strategy") or not data.get("benchmark"):
        raise UserError("Choose at least one strategy and one benchmark.")
    if data["limit"] is not None and (not isinstance(data["limit"], int) or data["limit"] < 1):
        raise UserError(f"limit={data['limit']} is no number of documents; give 1 or more.")
    strategies: dict[str, Strategy] = {
        name: instantiate(settings) for name, settings in data["strategy"].items()
    }
    if data["vanilla"] and "vanilla" not in strategies:
        strategies = {"vanilla": _vanilla(), **strategies}
    full = data["model"]["visual_tokens"]
    for budget in budgets:
        if budget > full:
            raise UserError(
                f"budget={budget} is more than the {full} visual tokens of model "
                f"'{data['model']['name']}'. Choose 1 to {full}; strategy=vanilla keeps all."
            )
        tiles = data["model"].get("tiles", 1)
        if budget % tiles:
            raise UserError(
                f"budget={budget} cannot be shared by the {tiles} tiles of model "
                f"'{data['model']['name']}'. Choose a multiple of {tiles}, e.g. "
                f"{max(tiles, budget // tiles * tiles)}."
            )
    identity = model_identity(data["model"])
    possible = {
        name: _possible(name, strategy, budgets, data["model"])
        for name, strategy in strategies.items()
    }
    cells = []
    for benchmark, settings in data["benchmark"].items():
        if data["protocol"] not in settings["protocols"]:
            raise UserError(
                f"Benchmark '{benchmark}' has no protocol '{data['protocol']}'. "
                f"Known: {', '.join(settings['protocols'])}."
            )
        protocol = settings["protocols"][data["protocol"]]
        scoring = scoring_digest(
            {key: protocol[key] for key in SCORING if key in protocol}
            | describe(settings, data["protocol"])
        )
        context = {
            "model": identity,
            "protocol": {
                "name": data["protocol"],
                **{k: v for k, v in protocol.items() if k not in SCORING and k not in SHOWN},
            },
            "suite": suite_identity(data["suite"], benchmark, settings),
            "limit": data["limit"],
            "lmms_eval": importlib.metadata.version("lmms-eval"),
        }
        for name, strategy in strategies.items():
            _check_needs(name, strategy, data["model"])
            for budget in possible[name]:
                cells.append(Cell(name, strategy, budget, benchmark, context, scoring))
    cells.sort(key=lambda cell: cell.strategy_name != "vanilla")
    return Run(data, cells, Path(data["results"]) / data["name"])


def _budgets(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    for budget in values:
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise UserError(
                f"budget={budget} is impossible: a budget is the number of visual tokens kept per "
                "image, 1 or more, e.g. budget=64 or budget=[32,64,128]."
            )
    if not values:
        raise UserError("budget=[] leaves nothing to do; give e.g. budget=[32,64,128].")
    return sorted(set(values), reverse=True)


def _vanilla() -> Strategy:
    from agilepruner.strategies.baseline.vanilla import Vanilla

    return Vanilla()


def _possible(
    name: str, strategy: Strategy, budgets: list[int], model: Mapping[str, Any]
) -> list[int]:
    """The budgets that a strategy can be run at.

    Raises:
        UserError: none of them, with the smallest possible one.
    """
    full = model["visual_tokens"]
    if not isinstance(strategy, DecoderStrategy):
        return budgets if strategy.budgeted else [full]
    reached, refused = [], []
    for budget in budgets:
        try:
            strategy.plan(model["decoder_layers"], full, budget)
            reached.append(budget)
        except UserError as error:
            refused.append(error)
    if not reached:
        raise refused[0]
    for refusal in refused:
        log.warning("left out: %s", refusal)
    return reached


def _check_needs(name: str, strategy: Strategy, model: Mapping[str, Any]) -> None:
    """Say before anything is loaded that a model lacks what a strategy reads."""
    lacking = sorted(set(strategy.needs) - set(model["provides"]))
    if lacking:
        reasons = model.get("lacks") or {}
        why = "; ".join(reasons[need] for need in lacking if need in reasons)
        raise UserError(
            f"Strategy '{name}' needs {', '.join(lacking)}, which model '{model['name']}' does not "
            f"have{f' ({why})' if why else ''}. Choose another strategy or model."
        )


def scoring_digest(settings: Mapping[str, Any]) -> str:
    """Identity of a benchmark's scoring: its settings and the code that replays journals."""
    folder = Path(evals.__file__).parent
    code = source_digest(folder / name for name in ("scoring.py", "metrics.py", "chair.py"))
    return text_digest(json.dumps([settings, code], sort_keys=True))


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model changes answers: weights, revision, dtype, attention, prompt, preprocessing.

    Raises:
        UserError: the path looks like a directory and is none.
    """
    settings = {k: v for k, v in model["load"].items() if k not in {"_target_", "path", "device"}}
    path = Path(model["load"]["path"])
    if path.is_dir():
        weights = directory_digest(path, MODEL_FILES)
    elif path.is_absolute() or model["load"]["path"].startswith("."):
        raise UserError(f"The model directory {path} does not exist. Set model.load.path.")
    else:
        weights = model["load"]["path"]
    joint_space = settings.get("joint_space")
    if joint_space and Path(joint_space).is_dir():
        settings["joint_space"] = directory_digest(Path(joint_space), MODEL_FILES)
    return {
        "name": model["name"],
        "weights": weights,
        "max_new_tokens": model["max_new_tokens"],
        **settings,
    }


def suite_identity(
    suite: Mapping[str, Any], benchmark: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What of a suite changes answers: the documents of the benchmark.

    Raises:
        UserError: the suite has no such file.
    """
    if suite["kind"] == "hub":
        return {"kind": "hub", **settings["hub"]}
    file = suite_file(suite, benchmark)
    return {"kind": "directory", "documents": file_digest(file)}


@contextmanager
def _lock(directory: Path, rank: int) -> Iterator[None]:
    """One writer per results directory and rank."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / f".lock.{rank}", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another run is writing to {directory}. Wait for it, or choose another directory "
                "with name=..."
            ) from None
        yield


def execute(run: Run) -> list[Row]:
    """Answer and score every cell that is not done; return the rows of all cells.

    Cells fail one by one: a failed cell has a row that says why, and the others go on.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    todo = [cell for cell in run.cells if run.row(cell) is None]
    spent: dict[str, float] = defaultdict(float)
    if todo:
        started = time.perf_counter()
        with _lock(run.directory, rank):
            _execute(run, todo, spent, rank, world)
        _say_where_time_went(spent, time.perf_counter() - started)
    rows = []
    for cell in run.cells:
        row = run.row(cell) or read_row(run.folder(cell) / "row.json")
        if row is not None:
            rows.append(row)
    return rows


def _execute(
    run: Run,
    todo: list[Cell],
    spent: dict[str, float],
    rank: int,
    world: int,
) -> None:
    from agilepruner.runner.grid import Grid
    from agilepruner.runner.progress import Progress
    from evals import tasks

    config = run.config
    clock = time.perf_counter()
    log.info("loading lmms-eval and the documents")
    tasks.import_lmms_eval()
    benchmarks = {}
    for name in dict.fromkeys(cell.benchmark for cell in todo):
        benchmarks[name] = tasks.load(
            name, config["benchmark"][name], config["suite"], config["protocol"], config["limit"]
        )
    journals = {cell.id: Journal(run.folder(cell), rank) for cell in todo}
    stale = [c for c in todo if _only_scoring(run, c, benchmarks[c.benchmark], journals[c.id])]
    fresh = [cell for cell in todo if cell not in stale]
    if fresh:
        log.info("loading model '%s'", config["model"]["name"])
        adapter = load_model(config["model"])
        if any("text_embeds" in cell.strategy.needs for cell in fresh):
            adapter.text_embeds("")  # loads CLIP now, so that what fails fails here
    spent["load"] += time.perf_counter() - clock
    total = sum(len(benchmarks[cell.benchmark].documents) for cell in fresh)
    with Progress(total if world == 1 else math.ceil(total / world), len(todo)) as progress:
        for name, benchmark in benchmarks.items():
            progress.benchmark(config["benchmark"][name]["label"])
            cells = [cell for cell in fresh if cell.benchmark == name]
            if cells:
                grid = Grid(
                    adapter,
                    benchmark,
                    cells,
                    {cell.id: journals[cell.id] for cell in cells},
                    images_per_window=config["images_per_window"],
                    batch_size=config["batch_size"],
                    workers=_workers(config["workers"], adapter),
                    most_new_tokens=config["model"]["max_new_tokens"],
                    rank=rank,
                    world_size=world,
                    on_progress=progress.documents,
                )
                grid.run()
                for part, seconds in grid.seconds.items():
                    spent[part] += seconds
            clock = time.perf_counter()
            for cell in cells:
                _finish(run, cell, benchmark, adapter, journals[cell.id].read(), world)
                progress.cell_done()
            for cell in stale:
                if cell.benchmark == name:
                    _score_again(run, cell, benchmark, journals[cell.id].read())
                    progress.cell_done()
            spent["score"] += time.perf_counter() - clock


def _only_scoring(run: Run, cell: Cell, benchmark: Any, journal: Journal) -> bool:
    """Whether the cell is answered and audited, and only its scoring has changed."""
    if run.earlier(cell) is None:
        return False
    answered = {doc for doc, entry in journal.read().items() if not entry.error}
    return answered >= {document.index for document in benchmark.documents}


def _score_again(run: Run, cell: Cell, benchmark: Any, entries: Mapping[int, Entry]) -> None:
    """Replay a complete journal through today's scoring; the audit stays as it was measured."""
    row = run.earlier(cell)
    assert row is not None  # _only_scoring
    write_row(
        run.folder(cell) / "row.json",
        replace(row, scoring=cell.scoring, **_scored(run, cell, benchmark, entries)),
    )


def _scored(run: Run, cell: Cell, benchmark: Any, entries: Mapping[int, Entry]) -> dict[str, Any]:
    """The fields of a row that scoring gives."""
    from evals.scoring import score

    answers = {doc: entry.answer or "" for doc, entry in entries.items()}
    synthetic = run.config["suite"]["synthetic"]
    scores = score(benchmark, answers, exact_words=synthetic, folder=run.folder(cell))
    return {
        "value": scores.value,
        "scale": scores.scale,
        "metric": scores.metric,
        **describe(run.config["benchmark"][cell.benchmark], run.config["protocol"]),
        "higher_is_better": scores.higher_is_better,
        "metrics": scores.metrics,
        "scores": scores.units,
        "clusters": scores.clusters,
        "documents": scores.documents,
        "n": scores.n,
        "notes": scores.notes,
    }


def _workers(wanted: int | None, adapter: Any) -> int:
    """Generation threads: one per core on a CPU, one on a GPU."""
    if wanted is not None:
        return wanted
    return 1 if "cuda" in adapter.environment["device"] else len(os.sched_getaffinity(0))


def load_model(model: Mapping[str, Any]) -> Any:
    """Instantiate the adapter of a model config."""
    settings = {k: v for k, v in model["load"].items() if k != "_target_"}
    return get_method(model["load"]["_target_"])(**settings)


def _finish(
    run: Run, cell: Cell, benchmark: Any, adapter: Any, entries: Mapping[int, Entry], world: int
) -> None:
    """Score a complete journal and write the row; the last of several ranks does."""
    errors = {doc: entry.error for doc, entry in entries.items() if entry.error}
    missing = [d.index for d in benchmark.documents if d.index not in entries]
    if missing and not errors and world > 1:
        return
    row = blank_row(run, cell, adapter.full, environment(adapter))
    started = time.perf_counter()
    try:
        if errors:
            doc, cause = next(iter(errors.items()))
            raise _CellFailed(f"{len(errors)} of {len(entries)} failed; document {doc}: {cause}")
        scored = _scored(run, cell, benchmark, entries)
        if adapter.exact_budget:
            audit(cell, entries.values())
    except Exception as error:  # this cell only: the others go on
        log.debug("scoring failed", exc_info=True)
        why = str(error).strip() or type(error).__name__
        write = {"status": "failed", "error": why, "failures": len(errors)}
        log.error("%s at %d on %s failed: %s", row.label, cell.budget, row.benchmark_label, why)
    else:
        documents = [entries[d.index] for d in benchmark.documents]
        audited = measures(documents, cell, adapter)
        audited["seconds"]["score"] = round(time.perf_counter() - started, 4)
        write = {
            **scored,
            "empty_answers": sum(not entry.answer for entry in documents),
            **audited,
        }
    fields = {**row.__dict__, **write}
    write_row(run.folder(cell) / "row.json", Row(**fields))


class _CellFailed(Exception):
    """A document of the cell failed."""


def audit(cell: Cell, entries: Any) -> None:
    """Refuse a cell whose measured visual tokens are not what its budget promises.

    Raises:
        ValueError: with the document and both numbers.
    """
    if cell.strategy.merges or cell.strategy.family == "decoder":
        return  # their counts are their own; the row shows them
    for entry in entries:
        promised = min(cell.budget, entry.offered) if cell.strategy.budgeted else entry.offered
        if entry.visual != promised:
            raise ValueError(
                f"document {entry.doc}: {entry.visual} visual tokens entered the language model, "
                f"expected {promised} (budget {cell.budget}, the image has {entry.offered})"
            )


def blank_row(run: Run, cell: Cell, full: int, where: dict[str, Any]) -> Row:
    """A row with everything but the scores."""
    config = run.config
    benchmark = config["benchmark"][cell.benchmark]
    headline = benchmark["protocols"][config["protocol"]]["headline"]
    return Row(
        id=cell.id,
        model=config["model"]["name"],
        strategy=cell.strategy_name,
        family=cell.strategy.family,
        label=cell.strategy.label,
        parameters=parameters(cell.strategy),
        choice=cell.strategy.choice,
        budget=cell.budget,
        full=full,
        benchmark=cell.benchmark,
        benchmark_label=benchmark["label"],
        protocol=config["protocol"],
        suite=config["suite"]["name"],
        synthetic=config["suite"]["synthetic"],
        status="done",
        scoring=cell.scoring,
        metric=headline["metric"],
        higher_is_better=headline.get("higher_is_better", True),
        scale=float(headline["scale"]),
        **describe(benchmark, config["protocol"]),
        environment=where,
    )


def measures(entries: Sequence[Entry], cell: Cell, adapter: Any) -> dict[str, Any]:
    """Kept tokens, FLOPs, complexity and seconds of a cell, from its journal."""
    from agilepruner.flops import Architecture, document_flops, selection_flops

    layers = adapter.config.get_text_config().num_hidden_layers
    per_layer = [e.visual if isinstance(e.visual, list) else [e.visual] * layers for e in entries]
    entering = [visual[0] for visual in per_layer]
    architecture = Architecture.from_config(adapter.config)
    known: dict[tuple, dict[str, float]] = {}
    totals: dict[str, float] = defaultdict(float)
    for entry, visual in zip(entries, per_layer):
        grid, tiles = entry.grid or (0, 0), entry.tiles
        key = (*visual, entry.text_tokens, entry.new_tokens, *grid, tiles)
        if key not in known:
            seen = architecture.at_grid(*(size * architecture.merge for size in grid))
            share = adapter.tile_budget(cell.budget)
            known[key] = document_flops(
                seen,
                visual,
                entry.text_tokens,
                entry.new_tokens,
                tiles=tiles,
                selection=selection_flops(cell.strategy, seen, share, tiles),
            )
        for part, value in known[key].items():
            totals[part] += value
    n = len(entries)
    complexity = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for entry in entries:
        for name, value in (entry.complexity or {}).items():
            complexity[name].append(value)
        for part, value in (entry.seconds or {}).items():
            seconds[part] += value
    return {
        "kept": {
            "min": min(entering),
            "mean": sum(entering) / n,
            "max": max(entering),
            "layer_mean": sum(sum(visual) / layers for visual in per_layer) / n,
        },
        "text_tokens": sum(entry.text_tokens for entry in entries) / n,
        "new_tokens": sum(entry.new_tokens for entry in entries) / n,
        "flops": {part: value / n for part, value in totals.items()},
        "complexity": {name: sum(values) / len(values) for name, values in complexity.items()},
        "seconds": {part: round(value, 4) for part, value in seconds.items()},
    }


def environment(adapter: Any) -> dict[str, Any]:
    """Versions, hardware and numerics of this process."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "agilepruner": __version__,
        "python": sys.version.split()[0],
        **{name: importlib.metadata.version(name) for name in VERSIONS},
        "hardware": gpu or f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        "threads": torch.get_num_threads(),
        **adapter.environment,
    }


def _say_where_time_went(spent: Mapping[str, float], total: float) -> None:
    known = sum(spent.values())
    parts = [f"{name} {seconds:.1f}s" for name, seconds in spent.items() if seconds >= 0.05]
    parts.append(f"other {max(0.0, total - known):.1f}s")
    log.info("%.1f s: %s", total, ", ".join(parts))

"""From a journal to a row: metrics, audit, FLOPs and complexity. No model is needed.

A journal's header says under which config its cell was answered and what of the model scoring must
know, so a directory of journals can be scored anywhere: a changed metric or formula is seconds.
"""

import importlib
import importlib.metadata
import logging
import os
import platform
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from agilepruner import __version__
from agilepruner.errors import UserError
from agilepruner.flops import Architecture, document_flops, selection_flops
from agilepruner.runner.cells import Cell
from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.kept import shares
from agilepruner.runner.plan import parameters
from agilepruner.runner.rows import Row, describe
from agilepruner.strategies.base import Strategy

log = logging.getLogger(__name__)

VERSIONS = ("torch", "transformers", "lmms-eval", "datasets", "hydra-core")


def header(config: Mapping[str, Any], cell: Cell, adapter: Any) -> dict[str, Any]:
    """What a journal says of itself: whose it is, and all that scoring and audit must know."""
    return {
        "identity": dict(cell.identity),
        "strategy_name": cell.strategy_name,
        "config": {
            **{key: config[key] for key in ("protocol", "limit", "suite", "model")},
            "benchmark": {cell.benchmark: config["benchmark"][cell.benchmark]},
        },
        "model": {
            "full": adapter.full,
            "tile_budget": adapter.tile_budget(cell.budget),
            "exact_budget": adapter.exact_budget,
            "architecture": asdict(Architecture.of(adapter.model)),
        },
        "environment": {**environment(adapter), "batch_size": config["batch_size"]},
    }


def environment(adapter: Any) -> dict[str, Any]:
    """Versions, hardware and numerics of this process."""
    import torch

    return {
        "agilepruner": __version__,
        "python": sys.version.split()[0],
        **_installed(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        **adapter.environment,
    }


@cache
def _installed() -> dict[str, str]:
    """Versions of the libraries; looked up once a process, not once a cell (60 ms each time)."""
    return {name: importlib.metadata.version(name) for name in VERSIONS}


def hardware() -> str:
    """The GPU, or how many processors of which kind."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}"


def complete(benchmark: Any, journal: Journal) -> bool:
    """Whether a journal answers every document and says what scoring must know."""
    return journal.header is not None and all(
        journal.outcome(d.index) == 0 for d in benchmark.documents
    )


def score_cell(
    config: Mapping[str, Any], cell: Cell, benchmark: Any, journal: Journal, folder: Path
) -> Row:
    """The row of a cell; a failed one, with the reason, when anything is missing or wrong.

    Args:
        config: the composed config.
        cell: whose row.
        benchmark: its loaded documents.
        journal: refreshed; its entries are dropped as soon as they are not needed.
        folder: where metrics may leave files.
    """
    started = time.perf_counter()
    facts = (journal.header or {}).get("model", {})
    row = blank_row(config, cell, facts.get("full", cell.budget))
    row = replace(row, environment=(journal.header or {}).get("environment", {}))
    entries = journal.entries
    failed = [d.index for d in benchmark.documents if d.index in entries and entries[d.index].error]
    missing = [d.index for d in benchmark.documents if d.index not in entries]
    try:
        if failed:
            first = entries[failed[0]]
            given_up = f"; {len(missing)} were not tried" if missing else ""
            raise CellFailed(
                f"{len(failed)} of {len(benchmark.documents)} documents failed{given_up}; "
                f"document {first.doc}: {first.error}"
            )
        if missing or journal.header is None:
            raise CellFailed(f"{len(missing)} documents have no answer (first: {missing[:3]})")
        documents = [entries[d.index] for d in benchmark.documents]
        architecture = architecture_of(facts["architecture"])
        audit(cell, documents, facts, architecture.layers)
        measured = measures(documents, cell, facts, architecture)
        notes, empty = _notes(documents), sum(not entry.answer for entry in documents)
        answers = {doc: entry.answer or "" for doc, entry in entries.items()}
        del documents
        entries.clear()  # 0.4 GB for 214,354 documents, while what follows takes as much
        scored = _scored(config, cell, benchmark, answers, folder)
    except Exception as error:  # this cell only: the others go on
        why = str(error).strip()
        if not isinstance(error, CellFailed | UserError):
            why = f"{type(error).__name__}: {why or 'no message'}"
            log.debug("scoring failed", exc_info=True)
        return replace(row, status="failed", error=why, failures=len(failed))
    measured["seconds"]["score"] = round(time.perf_counter() - started, 4)
    notes = [*scored.pop("notes"), *notes]
    return replace(row, **scored, **measured, notes=notes, empty_answers=empty)


class CellFailed(Exception):
    """A cell has no score; the message says why."""


def architecture_of(data: Mapping[str, Any]) -> Architecture:
    """An architecture from a header's plain data."""
    return Architecture(
        **{
            **data,
            "grid": tuple(data["grid"]),
            "projector": tuple(tuple(sizes) for sizes in data["projector"]),
        }
    )


def _notes(entries: Iterable[Entry]) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.note:
            counts[entry.note] += 1
    return [f"{count} documents: {note}" for note, count in counts.items()]


def _scored(
    config: Mapping[str, Any],
    cell: Cell,
    benchmark: Any,
    answers: Mapping[int, str],
    folder: Path,
) -> dict[str, Any]:
    """The fields of a row that the benchmark's own scoring gives."""
    from evals.scoring import score
    from evals.sources import kinds

    kind = kinds(config["suite"], cell.benchmark)
    scores = score(benchmark, answers, folder)
    documents = [unit[0] for unit in scores.documents]
    return {
        "value": scores.value,
        "scale": scores.scale,
        "metric": scores.metric,
        "higher_is_better": scores.higher_is_better,
        "metrics": scores.metrics,
        "scores": scores.units,
        "parts": scores.parts,
        "strata": scores.strata,
        "clusters": scores.clusters,
        "documents": documents,
        "answers": [fingerprint(answers[doc] for doc in unit) for unit in scores.documents],
        "kinds": [kind.get(doc, "") for doc in documents] if kind else None,
        "n": scores.n,
        "notes": scores.notes,
    }


def fingerprint(answers: Iterable[str]) -> str:
    """Eight digits that two units share when they are answered alike.

    Case, white space and a final full stop make no difference.
    """
    plain = (" ".join(answer.casefold().split()).removesuffix(".") for answer in answers)
    return f"{zlib.crc32(chr(10).join(plain).encode('utf-8', 'surrogatepass')):08x}"


def blank_row(config: Mapping[str, Any], cell: Cell, full: int) -> Row:
    """A row with everything but the scores."""
    benchmark = config["benchmark"][cell.benchmark]
    headline = benchmark["protocols"][config["protocol"]]["headline"]
    return Row(
        id=cell.id,
        identity=dict(cell.identity),
        model=config["model"]["name"],
        strategy=cell.strategy_name,
        family=cell.strategy.family,
        label=cell.strategy.label,
        parameters=parameters(cell.strategy),
        choice=cell.strategy.choice,
        budget=cell.budget,
        positions=cell.positions,
        own_positions=config["model"]["positions"],
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
    )


# --- audit -------------------------------------------------------------------------------------


def budgets_of(cell: Cell, entries: Sequence[Entry], facts: Mapping[str, Any]) -> list[int]:
    """Tokens that the strategy is to keep of each tile, per document.

    Args:
        cell: whose.
        entries: all of its answers, since a budget may be a mean over them.
        facts: what the journal says of the model.
    """
    budget: int = facts["tile_budget"]
    name = cell.strategy.apportions
    if not name:
        return [budget] * len(entries)
    if any(name not in (entry.complexity or {}) for entry in entries):
        raise CellFailed(f"budgets follow {name}, which some answers lack")
    return cell.strategy.budgets(
        [(entry.complexity or {})[name] for entry in entries],
        [entry.tiles for entry in entries],
        [prod(entry.grid or (0, 0)) for entry in entries],
        budget,
    )


def audit(cell: Cell, entries: Sequence[Entry], facts: Mapping[str, Any], layers: int) -> None:
    """Hold measured visual tokens against what the strategy promises, layer by layer.

    Raises:
        CellFailed: with the document and both numbers.
    """
    for entry, budget in zip(entries, budgets_of(cell, entries, facts)):
        promised = promised_tokens(cell, entry, facts, layers, budget)
        if promised is None:
            continue
        seen = entry.visual if isinstance(entry.visual, list) else [entry.visual] * layers
        if seen != promised:
            layer = next((i for i, (a, b) in enumerate(zip(seen, promised)) if a != b), 0)
            raise CellFailed(
                f"document {entry.doc}: {seen[layer]} visual tokens in layer {layer} of the "
                f"language model, the strategy promises {promised[layer]} (budget {cell.budget}, "
                f"the image has {entry.offered})"
            )


def promised_tokens(
    cell: Cell, entry: Entry, facts: Mapping[str, Any], layers: int, budget: int
) -> list[int] | None:
    """Visual tokens of each decoder layer; None where the image decides.

    Args:
        cell: whose.
        entry: of the document.
        facts: what the journal says of the model.
        layers: of the decoder.
        budget: tokens to keep of each of the image's tiles.
    """
    strategy, tile = cell.strategy, prod(entry.grid or (0, 0))
    if "resolution" in strategy.needs:
        if tile == _own_grid(entry, budget, facts):
            return [entry.offered] * layers
        # Newlines and markers come with what is there.
        return [entry.tiles * tile] * layers if facts["exact_budget"] else None
    if strategy.inside:
        return strategy.promise(entry.offered, cell.budget, layers)
    promised = strategy.promise(tile, budget, layers)
    if promised is None:
        return None
    if promised[0] == tile:
        return [entry.offered] * layers
    if not facts["exact_budget"]:  # newlines between rows of tiles come with what is kept
        return None
    return [entry.tiles * count for count in promised]


def _own_grid(entry: Entry, budget: int, facts: Mapping[str, Any]) -> int:
    """Tokens of a tile that is not resized; a resized one is as large as the budget allows.

    Raises:
        CellFailed: it is not.
    """
    architecture = facts["architecture"]
    own: int = entry.offered // entry.tiles
    if not facts["exact_budget"]:  # more is offered than the tokens of tiles
        own = prod(architecture["grid"]) // architecture["merge"] ** 2
    rows, columns = entry.grid or (0, 0)
    if rows * columns != own and not rows * columns <= budget < (rows + 1) * (columns + 1):
        raise CellFailed(
            f"document {entry.doc}: encoded at {rows} x {columns} tokens, which is not the largest "
            f"grid of its shape within the budget of {budget}"
        )
    return own


def measures(
    entries: Sequence[Entry], cell: Cell, facts: Mapping[str, Any], architecture: Architecture
) -> dict[str, Any]:
    """Kept tokens, FLOPs, complexity and seconds of a cell, from its journal."""
    layers = architecture.layers
    per_layer = [e.visual if isinstance(e.visual, list) else [e.visual] * layers for e in entries]
    entering = [visual[0] for visual in per_layer]
    known: dict[tuple, dict[str, float]] = {}
    totals: dict[str, float] = defaultdict(float)
    for entry, visual, budget in zip(entries, per_layer, budgets_of(cell, entries, facts)):
        grid, tiles = entry.grid or (0, 0), entry.tiles
        key = (*visual, entry.text_tokens, entry.new_tokens, *grid, tiles)
        if key not in known:
            seen = architecture.at_grid(*(size * architecture.merge for size in grid))
            known[key] = document_flops(
                seen,
                visual,
                entry.text_tokens,
                entry.new_tokens,
                tiles=tiles,
                selection=selection_flops(cell.strategy, seen, budget, tiles),
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
        "phases": shares([entry.kept for entry in entries], cell.strategy.phases),
        "complexity": {name: sum(values) / len(values) for name, values in complexity.items()},
        "seconds": {part: round(value, 4) for part, value in seconds.items()},
    }


# --- from disk ---------------------------------------------------------------------------------


def strategy_of(data: Mapping[str, Any]) -> Strategy:
    """A strategy from the plain data of an identity.

    Raises:
        UserError: its class is no longer there, has other hyper-parameters, or is no strategy: a
            journal may come from anywhere, and what it names is called.
    """
    module, _, name = data["class"].rpartition(".")
    values = {
        key: strategy_of(value) if isinstance(value, Mapping) and "class" in value else value
        for key, value in data.items()
        if key != "class"
    }
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        found = getattr(importlib.import_module(module), name)
        if not (isinstance(found, type) and issubclass(found, Strategy)):
            raise TypeError("it is no strategy")
        return found(**values)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"The strategy {data['class']} of this journal: {error}.") from error

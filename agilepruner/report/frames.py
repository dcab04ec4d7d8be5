"""Rows as data frames: the Python API for plots and tables of your own (docs/frames.md).

Tidy: one line per observation, one column per variable, names that are those of the CSV files where
they say the same. Nothing here loads a model.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_object_dtype

from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.kept import NONE, Kept, read, shares
from agilepruner.runner.rows import Row

CELL = (
    *("cell", "model", "suite", "protocol", "limit", "strategy", "family", "label", "parameters"),
    *("budget", "positions", "full", "benchmark", "benchmark_label"),
)
CELL_NUMBERS = ("status", "metric", "value", "scale", "higher_is_better", "n", "error")
AUDIT = ("kept", "phases", "flops", "complexity", "seconds")
DOCUMENT = ("document", "image", "kind", "stratum", "score")
COMPLEXITY = ("erank_input", "erank_kept", "entropy", "attention_kept")
ANSWER = ("answer", "visual", "new_tokens", "selection", "grid")


def cells_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per cell: identity, headline number, metrics, what it kept and cost.

    Args:
        rows: finished and failed cells, of ``agilepruner.runner.stored.rows_in(directory)``.

    Returns:
        columns ``CELL`` and ``CELL_NUMBERS``; ``kept_mean``, ``phases_walk``, ``flops_total``,
        ``complexity_erank_kept``, ``seconds_generate`` and the like; ``weights``, ``code``,
        ``scoring`` (hashes) and ``environment.<name>``: what it came from; ``metric.<name>``
        per metric (NaN where a cell has none) and ``parameter.<name>`` per hyper-parameter.
    """
    records = [_cell(row) for row in rows]
    return pd.DataFrame(records) if records else pd.DataFrame(columns=[*CELL, *CELL_NUMBERS])


def _cell(row: Row) -> dict[str, Any]:
    audit = {f"{part}_{key}": v for part in AUDIT for key, v in getattr(row, part).items()}
    return {
        **identity_of(row),
        **{name: getattr(row, name) for name in CELL_NUMBERS},
        **audit,
        "weights": (row.identity.get("model") or {}).get("files"),
        "code": row.identity.get("code"),
        "scoring": row.scoring,
        **{f"environment.{name}": value for name, value in row.environment.items()},
        **{f"metric.{name}": value for name, value in row.metrics.items()},
        **{f"parameter.{name}": value for name, value in row.parameters.items()},
    }


def identity_of(row: Row) -> dict[str, Any]:
    """What a cell is: the columns ``CELL``."""
    known = {"cell": row.id, "limit": row.identity.get("limit")}
    known["parameters"] = json.dumps(row.parameters, sort_keys=True, ensure_ascii=False)
    return {name: known[name] if name in known else getattr(row, name) for name in CELL}


def parquet(frame: pd.DataFrame) -> bytes:
    """A frame as Parquet; a column of several kinds of value (parameters) is text: JSON."""
    fitting = frame.copy()
    for name in fitting.columns:
        known = fitting[name].dropna()
        if (
            is_object_dtype(fitting[name])
            and not known.map(lambda value: isinstance(value, str)).all()
        ):
            texts = known.map(lambda value: json.dumps(value, ensure_ascii=False, default=str))
            fitting[name] = texts.reindex(fitting.index)
    found: bytes = fitting.to_parquet(index=False)
    return found


def documents_frame(rows: Iterable[Row], directory: Path | None = None) -> pd.DataFrame:
    """One line per finished cell and scored unit (a document; a pair of MME, a rotated question).

    Args:
        rows: cells; failed ones have no units and are left out.
        directory: of the run that they are from; its journals then add each unit's complexity and
            answer (those of its first document). None: scores only.

    Returns:
        columns ``CELL`` and ``DOCUMENT`` (``document``: index of the unit's first document,
        ``image``: hash of the image's bytes, ``score``: higher is better, NaN where the benchmark
        scores no units), ``part.<name>`` per part of the benchmark's aggregate, and, from the
        journals, ``COMPLEXITY`` (NaN where it cannot be computed) and ``ANSWER`` (``visual``:
        visual tokens that entered the language model, ``selection``: equal where the
        same patches of the image were kept, see ``patches_of``, ``grid``: tiles, rows and columns,
        "1x24x24"), and ``phase.<name>``: share of the kept tokens that a strategy's phase chose.
    """
    done = [row for row in rows if row.status == "done" and row.clusters]
    frames = [_documents(row, directory) for row in done]
    columns = [*CELL, *DOCUMENT, *(() if directory is None else (*COMPLEXITY, *ANSWER))]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _documents(row: Row, directory: Path | None) -> pd.DataFrame:
    count = len(row.clusters or [])
    documents = row.documents if row.documents is not None else list(range(count))
    data: dict[str, Any] = {
        "document": documents,
        "image": row.clusters,
        "kind": row.kinds or [""] * count,
        "stratum": row.strata or [""] * count,
        "score": row.scores or [float("nan")] * count,
        **{f"part.{name}": values for name, values in row.parts.items() if len(values) == count},
    }
    if directory is not None:
        entries = entries_of(row, directory)
        found = [_entry(entries.get(document)) for document in documents]
        data |= {name: [one[name] for one in found] for name in (*COMPLEXITY, *ANSWER)}
        for phase in row.phases:
            kept = [entry.kept if entry else None for entry in map(entries.get, documents)]
            chosen = [shares([each], list(row.phases)).get(phase, float("nan")) for each in kept]
            data[f"phase.{phase}"] = chosen
    frame = pd.DataFrame(data)
    identity = pd.DataFrame([identity_of(row)] * count)
    return pd.concat([identity, frame], axis=1)


def _entry(entry: Entry | None) -> dict[str, Any]:
    """A document's complexity and answer."""
    if entry is None:
        return dict.fromkeys((*COMPLEXITY, *ANSWER))
    complexity = entry.complexity or {}
    visual = entry.visual[0] if isinstance(entry.visual, list) else entry.visual
    kept = {name: value for name, value in (entry.kept or {}).items() if name != "phases"}
    said = {
        **{"answer": entry.answer, "visual": visual, "new_tokens": entry.new_tokens},
        "selection": json.dumps(kept, sort_keys=True),
        "grid": "x".join(map(str, (entry.tiles, *(entry.grid or (0, 0))))),
    }
    return {name: complexity.get(name, float("nan")) for name in COMPLEXITY} | said


def entries_of(row: Row, directory: Path) -> Mapping[int, Entry]:
    """The journal's entries of a cell, by document; empty where the run has no such journal."""
    for folder in (directory / "cells").glob(f"*-{row.id}"):
        return Journal(folder, row.id).refresh()
    return {}


def kept_of(row: Row, directory: Path) -> dict[int, Kept]:
    """Which patches each answer of a cell was given, by document.

    Args:
        row: a cell.
        directory: of the run that it is from.

    Raises:
        ValueError: a journal holds what is no such record.
    """
    entries = entries_of(row, directory).values()
    return {entry.doc: kept_in(entry) for entry in entries if entry.answer is not None}


def patches_of(selection: str, grid: str) -> list[int]:
    """The patches of a line of ``documents_frame``, counted through the tiles; sorted, no doubles.

    A merged token is the patch that it stands for; one that stands for none is left out. Of tokens
    that are pruned inside the language model, those that the last stage kept.
    """
    tiles, rows, columns = map(int, grid.split("x"))
    return sorted(set(read(json.loads(selection), tiles * rows * columns).left) - {NONE})


def kept_in(entry: Entry) -> Kept:
    """Which patches one answer was given."""
    rows, columns = entry.grid or (0, 0)
    return read(entry.kept, entry.tiles * rows * columns)

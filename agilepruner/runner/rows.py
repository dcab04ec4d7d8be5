"""A row: a finished cell's scores with their audit. Written atomically, read by every report."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError, unknown

log = logging.getLogger(__name__)

ROW_VERSION = 5
BEST = "best"  # beside strategies, what lines can be held against: the highest Average of a budget

# What a benchmark's config says of how it is shown, and a row carries; None: must be given.
SHOWN: dict[str, Any] = {
    "order": None,
    "columns": None,
    "published": None,
    "split": "",
    "published_split": "",
    "about": "",
    "charts": {},
}
COLUMN_KEYS = ("title", "metric", "log", "digits", "better", "average", "aggregate")
BETTER = ("higher", "lower", "neither")
AGGREGATES = ("mean", "ratio", "f1")


@dataclass(frozen=True)
class Row:
    """One finished (or failed) cell.

    Attributes:
        id: cell id, the hash of everything that decides an answer. identity: that everything.
        model: name of the model config, e.g. ``demo`` or ``llava_1_5_7b``.
        strategy: name of the strategy config; family and label are its class attributes.
        parameters: every hyper-parameter of the strategy.
        choice: what we chose where the paper is silent (empty: nothing).
        budget: visual tokens requested per image; vanilla carries the model's full count.
        positions: of the tokens kept before the language model: ``reset`` or ``keep`` (where none
            are dropped there, nothing follows from it). own_positions: what the model has unless
            it is asked otherwise.
        full: visual tokens of the model before pruning.
        benchmark, label: config name and column title of the benchmark.
        protocol: ``paper`` or ``lmms``. suite: ``embedded``, ``hub`` or a directory's name.
        status: ``done`` or ``failed``; a failed row has no metrics and says why in ``error``.
        scoring: digest of how the answers became scores; another one means: replay the journal.
        metric: name of the headline metric, ``value`` its value, ``scale`` its maximum.
        higher_is_better: direction of the headline metric.
        order: place of the benchmark among the columns of a table.
        columns: what the table shows of it, see ``describe``.
        published: published metric -> keys of ``metrics`` that add up to it (None: ``value``).
        split, published_split: which documents these are, and those of the published column where
            they are others; empty where there is nothing to tell apart.
        about: a note below every table with these columns.
        charts: title and text of the section of their charts; empty: with the accuracies.
        metrics: every metric of the benchmark, name -> value.
        n: documents scored. failures: documents whose generation failed.
        kept: visual tokens that entered the language model: min, mean, max, layer_mean.
        phases: share of the kept tokens that each phase of the strategy chose, name -> mean.
        empty_answers: documents answered with nothing.
        text_tokens: mean prompt tokens that are not visual. new_tokens: mean generated tokens.
        flops: mean per document: vision, projector, selection, prefill, decode, total (FLOPs =
            2 x MACs) and paper_macs (visual tokens only, the papers' formula).
        complexity: mean erank_input, entropy, erank_kept, attention_kept (None: not computable).
        seconds: encode, select, generate, score.
        scores: per-document headline scores in document order (None where the metric has none).
        parts: what the columns' aggregates need beside the scores, name -> a number per unit.
        strata: the stratum of each unit where a column is a mean or sum over strata.
        clusters: per-document image id, the unit of paired confidence intervals.
        documents: index of the (first) document that each score stands for (None: 0, 1, 2, ...).
        answers: eight digits for each unit's answers, equal where they are (see ``fingerprint``).
        kinds: kind of image (simple, complex, ...) of each of these; None: the suite does not say.
        synthetic: the suite's documents are made up: never compared with published numbers.
        environment: versions, hardware, dtype, attention implementation, code revision.
    """

    id: str
    model: str
    strategy: str
    family: str
    label: str
    parameters: dict[str, Any]
    choice: str
    budget: int
    full: int
    benchmark: str
    benchmark_label: str
    protocol: str
    suite: str
    status: str
    metric: str
    higher_is_better: bool
    scale: float
    order: int
    columns: list[dict[str, Any]]
    published: dict[str, list[str] | None]
    positions: str = ""
    own_positions: str = ""
    split: str = ""
    published_split: str = ""
    about: str = ""
    charts: dict[str, str] = field(default_factory=dict)
    error: str = ""
    scoring: str = ""
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    n: int = 0
    failures: int = 0
    kept: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    empty_answers: int = 0
    text_tokens: float | None = None
    new_tokens: float | None = None
    flops: dict[str, float] = field(default_factory=dict)
    complexity: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scores: list[float] | None = None
    parts: dict[str, list[float]] = field(default_factory=dict)
    strata: list[str] | None = None
    clusters: list[str] | None = None
    documents: list[int] | None = None
    answers: list[str] | None = None
    kinds: list[str] | None = None
    synthetic: bool = False
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    version: int = ROW_VERSION


def describe(benchmark: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """The fields of a row that say how its benchmark is shown, from the benchmark's config.

    A column has a ``title``, the ``metric`` it prints (None: the headline value), the name it is
    logged under, ``digits``, ``better`` (higher, lower or neither), whether it is part of the
    ``average``, and the ``aggregate`` that its number is: mean, ratio or f1 ``of`` named parts per
    unit, times ``points``, by ``strata`` if given (mean or sum over them). A protocol's part of the
    config may say any of ``SHOWN`` differently.

    Raises:
        UserError: something is missing or not one of the possible values.
    """
    said = {**benchmark, **benchmark["protocols"][protocol]}
    name = benchmark["label"]
    for key, default in SHOWN.items():
        if default is None and said.get(key) is None:
            raise UserError(f"The config of benchmark '{name}' does not say '{key}'.")
    for column in said["columns"]:
        if set(column) != set(COLUMN_KEYS):
            raise UserError(
                f"A column of benchmark '{name}' has the keys {', '.join(column)}; "
                f"it needs exactly {', '.join(COLUMN_KEYS)}."
            )
        if column["better"] not in BETTER:
            raise unknown("value of 'better'", column["better"], BETTER)
        if column["aggregate"]["of"] not in AGGREGATES:
            raise unknown("aggregate", column["aggregate"]["of"], AGGREGATES)
    return {key: said.get(key, default) for key, default in SHOWN.items()}


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def drop_temporaries(folder: Path) -> None:
    """Remove what a killed process left half written; call it with the folder claimed."""
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def write_row(path: Path, row: Row) -> None:
    """Store a row by atomic rename, with a checksum of itself."""
    data = asdict(row)
    text = json.dumps({**data, "checksum": _checksum(data)}, ensure_ascii=False, indent=1)
    write_atomically(path, text + "\n")


def read_row(path: Path, cell: str) -> Row | None:
    """Load the row of a cell.

    Args:
        path: of the file.
        cell: id of the cell whose row it should be.

    Returns:
        None when there is none to believe: absent, of another row version, damaged (by a byte or
        by a kill), or of another cell. The journal then gives it anew.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("version") != ROW_VERSION:
            return None
        checksum = data.pop("checksum")
        row = Row(**data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        log.warning("%s cannot be read and is not used (%s)", path, type(error).__name__)
        return None
    if checksum != _checksum(data) or row.id != cell:
        log.warning("%s is damaged or of another cell; it is not used", path)
        return None
    return row


def _checksum(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

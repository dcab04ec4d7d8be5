"""A row: a finished cell's scores with their audit. Written atomically, read by every report."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROW_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One finished (or failed) cell.

    Attributes:
        id: cell id, the hash of everything that changes an answer.
        model: name of the model config, e.g. ``demo`` or ``llava_1_5_7b``.
        strategy: name of the strategy config; family and label are its class attributes.
        parameters: every hyper-parameter of the strategy.
        choice: what we chose where the paper is silent (empty: nothing).
        budget: visual tokens requested per image; vanilla carries the model's full count.
        full: visual tokens of the model before pruning.
        benchmark, label: config name and column title of the benchmark.
        protocol: ``paper`` or ``lmms``. suite: ``embedded``, ``hub`` or a directory's name.
        status: ``done`` or ``failed``; a failed row has no metrics and says why in ``error``.
        scoring: digest of how the answers became scores; another one means: replay the journal.
        metric: name of the headline metric, ``value`` its value, ``scale`` its maximum.
        higher_is_better: direction of the headline metric.
        metrics: every metric of the benchmark, name -> value.
        n: documents scored. failures: documents whose generation failed.
        kept: visual tokens that entered the language model: min, mean, max, layer_mean.
        empty_answers: documents answered with nothing.
        text_tokens: mean prompt tokens that are not visual. new_tokens: mean generated tokens.
        flops: mean per document: vision, projector, selection, prefill, decode, total (FLOPs =
            2 x MACs) and paper_macs (visual tokens only, the papers' formula).
        complexity: mean erank_input, erank_kept, entropy (None where not computable).
        seconds: encode, select, generate, score.
        scores: per-document headline scores in document order (None where the metric has none).
        clusters: per-document image id, the unit of paired confidence intervals.
        documents: index of the (first) document that each score stands for (None: 0, 1, 2, ...).
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
    error: str = ""
    scoring: str = ""
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    n: int = 0
    failures: int = 0
    kept: dict[str, float] = field(default_factory=dict)
    empty_answers: int = 0
    text_tokens: float | None = None
    new_tokens: float | None = None
    flops: dict[str, float] = field(default_factory=dict)
    complexity: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scores: list[float] | None = None
    clusters: list[str] | None = None
    documents: list[int] | None = None
    synthetic: bool = False
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    version: int = ROW_VERSION


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_row(path: Path, row: Row) -> None:
    """Store a row by atomic rename."""
    write_atomically(path, json.dumps(asdict(row), ensure_ascii=False, indent=1) + "\n")


def read_row(path: Path) -> Row | None:
    """Load a row; None when it is absent or was written by another row version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Row(**data) if data.get("version") == ROW_VERSION else None

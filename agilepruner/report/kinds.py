"""Scores on simple and on complex images, for suites that know which of their images are which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from agilepruner.report.lines import Line, Table
from agilepruner.report.sheets import Sheet
from agilepruner.runner.rows import Row

ORDER = ("simple", "word", "medium", "complex")
FEWEST = 5  # units of a kind that a benchmark needs to take part
Kinds = Mapping[tuple[str, int], str]


@dataclass(frozen=True)
class KindScores:
    """The relative average of every line on images of one kind.

    Attributes:
        kind: name of the kind. units: scores it rests on, over its benchmarks.
        values: position of the line in ``Table.lines`` -> 100 x mean over benchmarks of its mean
            score / vanilla's mean score on the same units; None where the line lacks one.
    """

    kind: str
    units: int
    benchmarks: int
    values: list[float | None]


def kinds_of(rows: Iterable[Row]) -> dict[tuple[str, int], str]:
    """(benchmark, document index) -> kind of image, as rows carry it; empty where none does."""
    return {
        (row.benchmark, document): kind
        for row in rows
        if row.kinds and row.documents
        for document, kind in zip(row.documents, row.kinds)
    }


def scores_by_kind(table: Table, kinds: Kinds) -> list[KindScores]:
    """Relative averages per kind of image, from scores per document."""
    found = []
    for kind in [name for name in ORDER if name in set(kinds.values())]:
        picks = {}
        for column in table.averaged:
            pick = _units(table, column.benchmark, kinds, kind)
            if pick is not None and pick.sum() >= FEWEST:
                picks[column.benchmark] = pick
        if picks and table.vanilla is not None:
            base = {name: _mean(table.vanilla, name, pick) for name, pick in picks.items()}
            values = [_relative(line, picks, base) for line in table.lines]
            units = sum(int(pick.sum()) for pick in picks.values())
            found.append(KindScores(kind, units, len(picks), values))
    return found


def _units(table: Table, benchmark: str, kinds: Kinds, kind: str) -> np.ndarray | None:
    """Which scores of vanilla's row stand for a document of the kind."""
    row = table.vanilla.rows.get(benchmark, [None])[0] if table.vanilla else None
    if row is None or not row.scores:
        return None
    if row.documents is None and row.n != len(row.scores):
        return None  # scores are of pairs or rotations, and nothing says of which
    documents = row.documents if row.documents is not None else range(row.n)
    return np.array([kinds.get((benchmark, document)) == kind for document in documents])


def _mean(line: Line, benchmark: str, pick: np.ndarray) -> float | None:
    """Mean score of the picked units, over seeds."""
    scores = [row.scores for row in line.rows.get(benchmark, []) if row.scores]
    if not scores or any(len(own) != len(pick) for own in scores):
        return None
    return float(np.mean(scores, axis=0)[pick].mean())


def _relative(
    line: Line, picks: Mapping[str, np.ndarray], base: Mapping[str, float | None]
) -> float | None:
    ratios = []
    for name, pick in picks.items():
        own, plain = _mean(line, name, pick), base[name]
        if own is None or not plain:
            return None
        ratios.append(own / plain)
    return 100 * float(np.mean(ratios))


def kinds_sheet(table: Table, found: list[KindScores]) -> Sheet | None:
    """One column per kind of image."""
    if not found:
        return None
    position = {id(line): i for i, line in enumerate(table.lines)}
    sections = []
    for group in table.groups:
        lines = []
        for line in group.lines:
            values = [scores.values[position[id(line)]] for scores in found]
            lines.append([line.label, *["–" if v is None else f"{v:.1f}" for v in values]])
        sections.append((group.heading, lines))
    head = ["Strategy", *[f"{scores.kind}↑" for scores in found]]
    sizes = ", ".join(f"{s.kind} {s.units} ({s.benchmarks} benchmarks)" for s in found)
    notes = [
        "100 × mean over benchmarks of mean score / vanilla's mean score on the same images; "
        f"scores per document: {sizes}."
    ]
    return Sheet(f"{table.name}: simple and complex images", head, sections, notes)

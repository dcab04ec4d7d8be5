"""Is one strategy better than another, are they equivalent, or can this n not tell?

Two lines answer the same documents, so they are compared document by document, in the numbers that
the table prints; ``estimates`` has how. Verdicts are corrected for how many a table compares.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from agilepruner.report.estimates import (
    LEVEL,
    Estimate,
    LeftOut,
    difference_of_means,
    holm,
    judge,
    leave_one_out,
    mean_of_seeds,
    paired,
)
from agilepruner.report.lines import (
    AVERAGE,
    VANILLA,
    Column,
    Group,
    Line,
    Table,
    seed_of,
)
from agilepruner.runner.rows import BEST, Row

REFERENCE = "agilepruner"  # the default, where it is in the table; else vanilla


@dataclass(frozen=True)
class Margins:
    """Differences that do not matter.

    Attributes:
        average: points of the relative Average. benchmark: percent of a benchmark's scale.
    """

    average: float = 1.0
    benchmark: float = 2.0


MARGINS = Margins()


@dataclass(frozen=True)
class Difference:
    """A line minus the reference, in one column.

    Attributes:
        column: of the table, or ``AVERAGE``.
        difference, low, high: in units of the column; 95 %, not corrected.
        p: of no difference, after Holm's correction over the table's comparisons of its kind (the
            Average's, or the benchmarks').
        verdict: one of ``VERDICTS``, of the line.
        margin: within which lines are equivalent, in units of the column.
        smallest: the smallest true difference that this n shows with 80 % power.
        units: scores compared. images: clusters left out one by one.
    """

    table: Table
    group: Group
    line: Line
    reference: Line
    column: Column
    difference: float
    low: float
    high: float
    p: float
    verdict: str
    margin: float
    smallest: float
    units: int
    images: int


@dataclass(frozen=True)
class Analysis:
    """What a table's differences are.

    Attributes:
        reference: config name of the strategy that lines are held against, or ``best``.
        differences: in the order of groups, lines and columns; the Average last.
        leaders: (budget's group, column) -> the line that is better than the next one.
        samples: what it rests on, for an analysis with another reference.
    """

    reference: str
    margins: Margins
    differences: list[Difference]
    leaders: dict[tuple[int, Column], Line]
    samples: "Samples"


class Samples:
    """Every line of a table on every column, whole and without each image."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.size: dict[str, tuple[int, int]] = {}  # benchmark -> units, images
        self._found: dict[tuple[Column, int], LeftOut] = {}
        for benchmark in table.shown:
            self._read(benchmark)

    def _read(self, benchmark: str) -> None:
        """All lines that answered the units which the first line answered."""
        clusters: list[str] | None = None
        columns = [c for c in self.table.columns if c.benchmark == benchmark]
        for line in self.table.lines:
            rows = line.rows.get(benchmark, [])
            if not rows or any(row.status != "done" or not row.clusters for row in rows):
                continue
            if clusters is None:
                clusters = rows[0].clusters
                _, members = np.unique(np.asarray(clusters), return_inverse=True)
                self.size[benchmark] = len(members), int(members.max()) + 1
            if all(row.clusters == clusters for row in rows):
                for column in columns:
                    found = {seed_of(row): left_out(column, row, members) for row in rows}
                    known = {seed: one for seed, one in found.items() if one is not None}
                    if len(known) == len(rows):
                        self._found[column, id(line)] = mean_of_seeds(known)

    def scale(self, column: Column) -> float:
        """The maximum of a column's benchmark."""
        return self.table.shown[column.benchmark].scale

    def estimate(self, line: Line, other: Line, column: Column) -> Estimate | None:
        """Line minus other; None where their documents or numbers do not allow it.

        Of the Average seeds are compared by their Averages: a seed may do the same to all columns.
        """
        pairs = self.pairs(line, other, column)
        if not pairs:
            return None
        if column is not AVERAGE:
            return _if_finite(paired(*pairs[0][1:]))
        return _if_finite(difference_of_means([each[1:] for each in pairs]))

    def pairs(
        self, line: Line, other: Line, column: Column
    ) -> list[tuple[Column, LeftOut, LeftOut, float]]:
        """What a difference is the mean of: column, line's number, other's number, their scale.

        Itself for a benchmark's column; for the Average each averaged column's percent of vanilla,
        whose own chance is part of it. Empty where their documents or numbers do not allow it.
        """
        if column is not AVERAGE:
            first, second = (self._found.get((column, id(one))) for one in (line, other))
            missing = first is None or second is None
            return [] if missing else [(column, first, second, self.scale(column))]  # type: ignore[list-item]
        parts = []
        for averaged in self.table.averaged:
            keys = [(averaged, id(one)) for one in (line, other, self.table.vanilla)]
            if any(key not in self._found for key in keys):
                return []
            own, their, base = (self._found[key] for key in keys)
            if not base.whole:
                return []
            shares = [
                LeftOut(
                    100 * one.whole / base.whole,
                    100 * one.without / base.without,
                    one.weight,
                    {seed: 100 * number / base.whole for seed, number in one.seeds.items()},
                )
                for one in (own, their)
            ]
            parts.append((averaged, *shares, 100 * self.scale(averaged) / base.whole))
        return parts  # type: ignore[return-value]

    def counts(self, column: Column) -> tuple[int, int]:
        """Units and images behind a column."""
        names = [c.benchmark for c in self.table.averaged] if column is AVERAGE else []
        sizes = [self.size[name] for name in names or [column.benchmark]]
        return sum(units for units, _ in sizes), sum(images for _, images in sizes)


def _if_finite(estimate: Estimate) -> Estimate | None:
    return estimate if isfinite(estimate.error) and isfinite(estimate.point) else None


def left_out(column: Column, row: Row, members: np.ndarray) -> LeftOut | None:
    """A row's number without each image; None unless its parts give the number it prints."""
    own = {"score": row.scores} | row.parts
    parts = [own.get(name) for name in column.aggregate.parts]
    if any(part is None or len(part) != len(members) for part in parts):
        return None
    strata = np.zeros_like(members)
    if column.aggregate.strata is not None:
        if row.strata is None:
            return None
        _, strata = np.unique(np.asarray(row.strata), return_inverse=True)
    found = leave_one_out(column.aggregate, np.array(parts, dtype=float), members, strata)
    printed = column.value(row)
    if printed is None or abs(found.whole - printed) > 1e-6 * max(1.0, abs(printed)):
        return None
    return found


def analyse(
    table: Table,
    reference: str | None = None,
    margins: Margins = MARGINS,
    samples: Samples | None = None,
) -> Analysis:
    """Every line against the reference of its budget, per column and on average.

    Args:
        table: one model, suite and protocol.
        reference: config name of a strategy, or ``best``; None: AgilePruner where it is in the
            table, else vanilla. Budgets without it fall back to vanilla.
        margins: within which lines are equivalent.
        samples: of this table, where they are there already.
    """
    samples = samples or Samples(table)
    names = {line.strategy for line in table.lines}
    if reference is None:
        reference = REFERENCE if REFERENCE in names else VANILLA
    pairs = [
        (group, line, against)
        for group in table.groups
        if (against := _reference(table, group, reference)) is not None
        for line in group.lines
        if line is not against and line is not table.vanilla
    ]
    found = against_each(samples, pairs, margins)
    return Analysis(reference, margins, found, _leaders(samples), samples)


def against_each(
    samples: Samples, lines: Iterable[tuple[Group, Line, Line]], margins: Margins
) -> list[Difference]:
    """Lines minus what each is held against, judged: the Averages, and the benchmarks' columns.

    Args:
        samples: of the table.
        lines: group, line and reference of each; together they are two families of comparisons.
        margins: within which lines are equivalent.
    """
    pairs = [each for three in lines for each in _against(samples, *three, margins)]
    judged: dict[int, Difference] = {}
    for kind in (True, False):  # the Averages, then the benchmarks: a family each
        chosen = [i for i, (d, _) in enumerate(pairs) if (d.column is AVERAGE) is kind]
        judged |= dict(zip(chosen, _judge([pairs[i] for i in chosen])))
    return [judged[i] for i in range(len(pairs))]


def _reference(table: Table, group: Group, name: str) -> Line | None:
    """The line of a group that the others are held against."""
    if name == BEST:
        return best_line(table, group)
    return next((line for line in group.lines if line.strategy == name), table.vanilla)


def best_line(table: Table, group: Group) -> Line | None:
    """The line with the highest Average; None when fewer than two lines have one."""
    averages = {id(line): table.average(line).value for line in group.lines}
    known = [line for line in group.lines if averages[id(line)] is not None]
    if len(known) < 2:
        return None
    return max(known, key=lambda line: averages[id(line)] or 0.0)


def _against(
    samples: Samples, group: Group, line: Line, reference: Line, margins: Margins
) -> Iterable[tuple[Difference, Estimate]]:
    """The differences of one line, without their corrections and verdicts."""
    table = samples.table
    for column in [*table.columns, AVERAGE]:
        estimate = samples.estimate(line, reference, column) if column.better else None
        if estimate is None:
            continue
        if column is AVERAGE:
            margin = margins.average
        else:
            margin = margins.benchmark / 100 * samples.scale(column)
        numbers = (estimate.point, *estimate.interval(), estimate.p)
        known = (margin, estimate.smallest(), *samples.counts(column))
        yield Difference(table, group, line, reference, column, *numbers, "", *known), estimate


def _judge(pairs: Sequence[tuple[Difference, Estimate]]) -> list[Difference]:
    """Verdicts of one family of comparisons."""
    found = judge(
        [estimate for _, estimate in pairs],
        [d.margin for d, _ in pairs],
        [d.column.better for d, _ in pairs],
    )
    return [
        replace(d, p=p, verdict=verdict, smallest=estimate.smallest(LEVEL / len(pairs)))
        for (d, estimate), (verdict, p) in zip(pairs, found)
    ]


def _leaders(samples: Samples) -> dict[tuple[int, Column], Line]:
    """The lines that are better than the next one of their budget, not just larger."""
    table = samples.table
    found: dict[tuple[int, Column], Line] = {}
    for columns in (table.columns, [AVERAGE]):  # a family each
        candidates = list(_candidates(samples, [c for c in columns if c.better]))
        corrected = holm([p for *_, p in candidates])
        found |= {(g, c): line for (g, c, line, _), p in zip(candidates, corrected) if p < LEVEL}
    return found


def _candidates(
    samples: Samples, columns: Sequence[Column]
) -> Iterable[tuple[int, Column, Line, float]]:
    """Group, column, the best line where two print different numbers, and p of best and next."""
    table = samples.table
    for g, group in enumerate(table.groups):
        for column in columns:
            ranked = sorted(
                (line for line in group.lines if table.cell(line, column).value is not None),
                key=lambda line: -column.better * (table.cell(line, column).value or 0.0),
            )
            if len(ranked) < 2:
                continue
            first, second = (table.cell(line, column).text(column.digits) for line in ranked[:2])
            estimate = samples.estimate(ranked[0], ranked[1], column)
            if estimate is not None and first != second:
                yield g, column, ranked[0], estimate.p

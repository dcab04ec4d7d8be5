"""Is one strategy better than another, are they equivalent, or can this n not tell?

Every comparison is of the numbers in the table: a benchmark's own aggregate (an accuracy, an F1,
points over subtasks, hallucinated mentions of all mentions) and the relative Average of them. Two
lines answer the same documents, so they are compared document by document; documents of one image
stand or fall together, so images are left out, not documents: the standard error is that of the
delete-one-image jackknife (Efron and Stein, Annals of Statistics 9, 1981), with t quantiles.

The jackknife sees no doubt where two lines disagree on nearly nothing, so the variance of three
units (documents) is added: with no disagreement on n documents a difference of about 3 / n stays
possible, as by the rule of three. That constant is our choice; ``scripts/calibrate_verdicts.py``
measures what it gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan, sqrt
from statistics import variance

import numpy as np
from scipy.special import stdtr, stdtrit

from agilepruner.report.lines import (
    AVERAGE,
    VANILLA,
    Aggregate,
    Column,
    Group,
    Line,
    Table,
    seed_of,
)
from agilepruner.runner.rows import BEST, Row

LEVEL = 0.05  # of every test; intervals are of 95 %
POWER = 0.8  # with which the smallest difference that n could have shown is shown
DOUBT = 3.0  # units of variance added to each difference
REFERENCE = "agilepruner"  # the default, where it is in the table; else vanilla
VERDICTS = ("better", "worse", "equivalent", "cannot tell")


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
class Estimate:
    """A difference with its standard error and degrees of freedom."""

    point: float
    error: float
    freedom: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided interval of 1 - ``level``."""
        half = self.error * float(stdtrit(self.freedom, 1 - level / 2))
        return self.point - half, self.point + half

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference."""
        return float(2 * stdtr(self.freedom, -abs(self.point) / self.error))

    def p_equivalent(self, margin: float) -> float:
        """p-value of a difference of ``margin`` or more (two one-sided tests)."""
        return float(stdtr(self.freedom, (abs(self.point) - margin) / self.error))

    def smallest(self, level: float = LEVEL) -> float:
        """The smallest true difference that is shown with ``POWER`` at ``level``."""
        quantiles = stdtrit(self.freedom, 1 - level / 2) + stdtrit(self.freedom, POWER)
        return self.error * float(quantiles)


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


@dataclass(frozen=True)
class LeftOut:
    """A column's number of one line, whole and without each image.

    Attributes:
        whole: the printed number. without: (C,) the number without image c.
        weight: what its sums are divided by: units, or the denominator of a ratio.
        seeds: seed -> the number of that seed, where it is the mean over several.
    """

    whole: float
    without: np.ndarray
    weight: float
    seeds: Mapping[float, float] = field(default_factory=dict)

    @property
    def between(self) -> float:
        """Variance of the mean over seeds; 0 with one seed."""
        return variance(self.seeds.values()) / len(self.seeds) if len(self.seeds) > 1 else 0.0


def combine(rule: Aggregate, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """An aggregate from sums over units.

    Args:
        rule: which one.
        sums: (..., S, P) sums of the P parts in each of S strata.
        counts: (..., S) units in each stratum.

    Returns:
        (...) numbers in units of the column; NaN where nothing is there to divide by.
    """
    if rule.strata is None:
        sums, counts = sums.sum(axis=-2, keepdims=True), counts.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        if rule.of == "mean":
            values = sums[..., 0] / counts
        elif rule.of == "ratio":
            values = sums[..., 0] / sums[..., 1]
        else:  # F1 of true positives, false positives, false negatives; 0 without any, as scored
            right = 2 * sums[..., 0]
            values = np.where(right > 0, right / (right + sums[..., 1] + sums[..., 2]), 0.0)
            values = np.where(counts > 0, values, nan)
    return rule.points * (values.sum(axis=-1) if rule.strata == "sum" else values.mean(axis=-1))


def leave_one_out(
    rule: Aggregate, parts: np.ndarray, members: np.ndarray, strata: np.ndarray
) -> LeftOut:
    """An aggregate, whole and without each cluster.

    Args:
        rule: which aggregate.
        parts: (P, U) what it is made of, per unit.
        members: (U,) index of each unit's cluster.
        strata: (U,) index of each unit's stratum.
    """
    c, s = int(members.max()) + 1, int(strata.max()) + 1
    place = members * s + strata
    sums = np.stack(
        [np.bincount(place, weights=part, minlength=c * s).reshape(c, s) for part in parts], axis=-1
    )  # (C, S, P)
    counts = np.bincount(place, minlength=c * s).reshape(c, s)
    whole, number = sums.sum(axis=0), counts.sum(axis=0)
    return LeftOut(
        float(combine(rule, whole, number)),
        combine(rule, whole - sums, number - counts),
        float(whole[:, 1].sum() if rule.of == "ratio" else number.sum()),
    )


def jackknife(without: np.ndarray) -> float:
    """Variance of a statistic from its (C,) values without each cluster."""
    count = len(without)
    return float((count - 1) / count * ((without - without.mean()) ** 2).sum())


@dataclass(frozen=True)
class Variances:
    """Where the chance of a difference comes from; each shrinks in its own way.

    Attributes:
        images: which images there are, by the jackknife: as 1 / images.
        doubt: disagreement that was not seen: as 1 / units^2.
        seeds: of a mean over seeds: not with documents.
    """

    images: float
    doubt: float
    seeds: float

    def at(self, factor: float) -> float:
        """The variance with ``factor`` times as many images of the same kind."""
        return self.images / factor + self.doubt / factor**2 + self.seeds


def variances(first: LeftOut, second: LeftOut, scale: float) -> Variances:
    """What the variance of first minus second is made of; arguments as of ``paired``."""
    return Variances(
        jackknife(first.without - second.without),
        DOUBT * (scale / min(first.weight, second.weight)) ** 2,
        first.between + second.between,
    )


def paired(first: LeftOut, second: LeftOut, scale: float) -> Estimate:
    """First minus second.

    Args:
        first: a number without each cluster.
        second: another one, on the same clusters.
        scale: the maximum of the number; over the weight, what one unit can move it by.
    """
    found = variances(first, second, scale)
    error, freedom = sqrt(found.images + found.doubt), max(len(first.without) - 1, 1)
    alone = Estimate(first.whole - second.whole, error, freedom)
    return between_seeds(between_seeds(alone, first.seeds), second.seeds)


def between_seeds(estimate: Estimate, seeds: Mapping[float, float]) -> Estimate:
    """An estimate of which one side is a mean over seeds: how they differ is part of its error.

    Leaving out images does not see what a seed does to all of them; what it does to one image is
    counted twice, which is on the safe side. Few seeds say little of their own variance: degrees of
    freedom are Welch and Satterthwaite's.
    """
    own, theirs = estimate.error**2, 0.0
    if len(seeds) > 1:
        theirs = variance(seeds.values()) / len(seeds)
    if not theirs:
        return estimate
    freedom = (own + theirs) ** 2 / (own**2 / estimate.freedom + theirs**2 / (len(seeds) - 1))
    return replace(estimate, error=sqrt(own + theirs), freedom=freedom)


def average_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates, with Welch and Satterthwaite's degrees of freedom.

    They are taken as independent: that some benchmarks show the same images is not used.
    """
    count = len(estimates)
    total = sum(e.error**2 for e in estimates)
    freedom = total**2 / sum(e.error**4 / e.freedom for e in estimates)
    return Estimate(sum(e.point for e in estimates) / count, sqrt(total) / count, freedom)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm, Scandinavian Journal of Statistics 1979)."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    corrected, highest = [1.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = highest
    return corrected


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
        apart = [(replace(a, seeds={}), replace(b, seeds={}), scale) for _, a, b, scale in pairs]
        found = average_of([paired(*each) for each in apart])
        for side in zip(*((first.seeds, second.seeds) for _, first, second, _ in pairs)):
            found = between_seeds(found, _mean_by_seed(side))
        return _if_finite(found)

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


def mean_of_seeds(found: Mapping[float, LeftOut]) -> LeftOut:
    """The mean over seeds of a number, whole and without each image."""
    if len(found) == 1:
        return next(iter(found.values()))
    seeds = {seed: one.whole for seed, one in found.items()}
    without = np.mean([one.without for one in found.values()], axis=0)
    weight = min(one.weight for one in found.values())
    return LeftOut(sum(seeds.values()) / len(seeds), without, weight, seeds)


def _mean_by_seed(columns: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Seed -> mean over columns, of the seeds that every column has."""
    common = set(columns[0]).intersection(*columns[1:])
    return {seed: sum(c[seed] for c in columns) / len(columns) for seed in sorted(common)}


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


def judge(
    estimates: Sequence[Estimate], margins: Sequence[float], better: Sequence[int]
) -> list[tuple[str, float]]:
    """Verdict and corrected p of each comparison of one family: no wrong word in 95 of 100.

    Args:
        estimates: the family's differences.
        margins: within which each is equivalent, in its own units.
        better: 1 where higher is better, -1 where lower is.

    Returns:
        one of ``VERDICTS`` and the p-value of no difference, Holm's correction applied, for each.
    """
    different = holm([estimate.p for estimate in estimates])
    alike = holm([one.p_equivalent(margin) for one, margin in zip(estimates, margins)])
    found = []
    for estimate, sign, p, p_alike in zip(estimates, better, different, alike):
        if p < LEVEL:
            verdict = "better" if estimate.point * sign > 0 else "worse"
        else:
            verdict = "equivalent" if p_alike < LEVEL else "cannot tell"
        found.append((verdict, p))
    return found


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

"""Differences of the numbers of a table, with their errors: paired, and clustered by image.

A number is a benchmark's own aggregate (an accuracy, an F1, points over subtasks, hallucinated
mentions of all mentions) or the relative Average of them. Documents of one image stand or fall
together, so images are left out, not documents: the standard error is that of the delete-one-image
jackknife (Efron and Stein, Annals of Statistics 9, 1981), with t quantiles.

The jackknife sees no doubt where two lines disagree on nearly nothing, so the variance of three
units (documents) is added: with no disagreement on n documents a difference of about 3 / n stays
possible, as by the rule of three. That constant is our choice; ``scripts/calibrate_verdicts.py``
measures what it gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan, sqrt
from statistics import variance

import numpy as np
from scipy.special import stdtr, stdtrit

from agilepruner.report.lines import Aggregate

LEVEL = 0.05  # of every test; intervals are of 95 %
POWER = 0.8  # with which the smallest difference that n could have shown is shown
DOUBT = 3.0  # units of variance added to each difference
VERDICTS = ("better", "worse", "equivalent", "cannot tell")


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


def mean_of_seeds(found: Mapping[float, LeftOut]) -> LeftOut:
    """The mean over seeds of a number, whole and without each image."""
    if len(found) == 1:
        return next(iter(found.values()))
    seeds = {seed: one.whole for seed, one in found.items()}
    without = np.mean([one.without for one in found.values()], axis=0)
    weight = min(one.weight for one in found.values())
    return LeftOut(sum(seeds.values()) / len(seeds), without, weight, seeds)


def difference_of_means(pairs: Sequence[tuple[LeftOut, LeftOut, float]]) -> Estimate:
    """The mean of several columns' differences; of each column the arguments of ``paired``.

    Seeds are compared by their means over the columns: one may do the same to all of them.
    """
    found = average_of(
        [paired(replace(a, seeds={}), replace(b, seeds={}), scale) for a, b, scale in pairs]
    )
    for side in zip(*((first.seeds, second.seeds) for first, second, _ in pairs)):
        found = between_seeds(found, _mean_by_seed(side))
    return found


def _mean_by_seed(columns: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Seed -> mean over columns, of the seeds that every column has."""
    common = set(columns[0]).intersection(*columns[1:])
    return {seed: sum(c[seed] for c in columns) / len(columns) for seed in sorted(common)}


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

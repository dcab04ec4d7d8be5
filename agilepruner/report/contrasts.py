"""Means and differences of documents' scores with intervals, where images are what is drawn.

The machinery is that of ``report.estimates``: documents of one image are left out together. Scores
are in [0, 1] and everything here is in percent.
"""

from collections.abc import Iterable, Sequence
from math import isnan, nan, sqrt

import numpy as np
import pandas as pd

from agilepruner.errors import UserError
from agilepruner.report.estimates import (
    Estimate,
    LeftOut,
    average_of,
    jackknife,
    judge,
    leave_one_out,
    paired,
)
from agilepruner.report.lines import Aggregate, signed

MEAN = Aggregate()
SCALE = 100.0
FEWEST = 3  # images that a mean needs for an interval
TINY = 1e-9  # the error of values that are all the same
MEASURED = {"better": "higher", "worse": "lower"}  # of a measurement that nobody wants high or low
UNRELATED = 0.1  # a correlation that explains 1 % of the variance
ALIKE = 2.0  # percent of a measurement's mean that do not matter, as of a benchmark's scale


def left_out(rule: Aggregate, frame: pd.DataFrame, parts: Sequence[str]) -> LeftOut:
    """An aggregate of a frame's columns, whole and without each image.

    Args:
        rule: which one.
        frame: a line per document, with ``image``.
        parts: columns that the aggregate is made of.
    """
    _, members = np.unique(frame["image"].to_numpy(dtype=str), return_inverse=True)
    values = frame[list(parts)].to_numpy(dtype=float).T
    return leave_one_out(rule, values, members, np.zeros_like(members))


def estimate(number: LeftOut, scale: float = SCALE) -> Estimate:
    """A number with its error."""
    nothing = LeftOut(0.0, np.zeros_like(number.without), number.weight)
    return paired(number, nothing, scale)


def difference(frame: pd.DataFrame, first: str, second: str) -> Estimate:
    """Mean of one column minus another's, on the same documents, in percent."""
    return paired(left_out(MEAN, frame, [first]), left_out(MEAN, frame, [second]), SCALE)


def wide(documents: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Scores side by side: a line per benchmark and document, a column per line of a table.

    Args:
        documents: of ``report.frames``.
        by: columns whose values, joined by ``@``, name a line: ``["strategy", "budget"]``.

    Returns:
        columns ``benchmark, benchmark_label, document, image`` and one per line; documents that
        every line has answered.
    """
    names = documents[list(by)].astype(str).agg("@".join, axis=1)
    about = ["benchmark", "benchmark_label", "document", "image"]
    named = documents.assign(line=names)
    table = named.pivot_table(index=about, columns="line", values="score", sort=False)
    return table.dropna().reset_index()


def over_benchmarks(scores: pd.DataFrame, first: str, second: str) -> Estimate:
    """Mean over benchmarks of the mean difference of two columns of ``wide``, in percent.

    Raises:
        UserError: no benchmark has ``FEWEST`` images; those with fewer are left out.
    """
    groups = [group for _, group in scores.groupby("benchmark", sort=False)]
    groups = [group for group in groups if group["image"].nunique() >= FEWEST]
    if not groups:
        raise UserError(f"No benchmark has {FEWEST} images, for an interval: raise the limit.")
    return average_of([difference(group, first, second) for group in groups])


def minus(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent estimates (Welch and Satterthwaite)."""
    return Estimate(first.point - second.point, *_added(first, second))


def _added(first: Estimate, second: Estimate) -> tuple[float, float]:
    """Error and degrees of freedom of a sum or difference of independent estimates."""
    squares = [one.error**2 for one in (first, second)]
    total = sum(squares)
    return sqrt(total), total**2 / sum(
        square**2 / one.freedom for square, one in zip(squares, (first, second))
    )


def interval_text(found: Estimate, digits: int = 1) -> str:
    """``+1.2 [−0.3, +2.7]``."""
    low, high = found.interval()
    return f"{signed(found.point, digits)} [{signed(low, digits)}, {signed(high, digits)}]"


def of_images(values: pd.Series) -> Estimate:
    """Mean of a measurement over images, a value each, with Student's t."""
    return Estimate(float(values.mean()), max(float(values.sem()), TINY), len(values) - 1)


def enough(*groups: pd.Series) -> bool:
    """Whether each has the images that an interval needs."""
    return all(len(one) >= FEWEST for one in groups)


def spread(values: pd.Series) -> tuple[float, float, float]:
    """Mean of a measurement over images, and its 95 % interval: NaN of fewer than ``FEWEST``."""
    if not enough(values):
        return float(values.mean()), nan, nan
    found = of_images(values)
    return found.point, *found.interval()


def spread_text(found: Iterable[float], digits: int = 1) -> str:
    """``45.2 [44.0, 46.4]`` of a mean and its interval; a mean alone where that is NaN."""
    found = tuple(found)
    if any(map(isnan, found)):
        return f"{found[0]:.{digits}f}".replace("-", "−")
    point, low, high = (f"{value:.{digits}f}".replace("-", "−") for value in found)
    return f"{point} [{low}, {high}]"


def judged(
    estimates: Sequence[Estimate], margins: Sequence[float], better: Sequence[int]
) -> list[tuple[str, float]]:
    """As ``report.estimates.judge``; where neither side is better (0) the words are ``MEASURED``.

    Args:
        estimates: one family of differences.
        margins: within which each is equivalent.
        better: 1 where higher is better, -1 where lower is, 0 where it is only higher.
    """
    found = judge(estimates, margins, [sign or 1 for sign in better])
    return [
        (verdict if sign else MEASURED.get(verdict, verdict), p)
        for (verdict, p), sign in zip(found, better)
    ]


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's correlation of (n,) and (n,), with the jackknife's error."""
    n, whole = len(x), np.array([x.sum(), y.sum(), x @ x, y @ y, x @ y])
    without = whole - np.stack([x, y, x * x, y * y, x * y], axis=1)  # (n, 5)

    def r(sums: np.ndarray, count: int) -> np.ndarray:
        sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        return (sxy - sx * sy / count) / np.sqrt((sxx - sx * sx / count) * (syy - sy * sy / count))

    error = sqrt(jackknife(r(without, n - 1)))
    return Estimate(float(r(whole, n)), error, n - 1)

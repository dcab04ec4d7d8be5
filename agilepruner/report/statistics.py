"""Is one strategy better than another, or is it chance? Paired, image-clustered bootstrap.

Two lines answer the same documents, so their scores are compared document by document; documents
of one image stand or fall together, so images are drawn, not documents. Every line of a benchmark
is resampled with the same draws. A 95 % interval that contains zero is called a tie.

Scores are per unit (a document, a pair, a question with its rotations) and higher is better, for
hallucination too (1: no hallucinated object). Where a benchmark prints an F1 or points, their mean
is an accuracy, and the average built on them differs slightly from the printed one. Intervals are
not corrected for the number of comparisons.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from agilepruner.report.lines import AVERAGE, Group, Line, Table
from agilepruner.report.sheets import Sheet, signed
from agilepruner.runner.rows import Row

DRAWS = 2000
SEED = 0
INTERVAL = (2.5, 97.5)  # percentiles of the draws: 95 %


@dataclass(frozen=True)
class Difference:
    """A line minus the best line of its budget, on one benchmark or the average.

    Attributes:
        benchmark: config name, or ``average`` for the relative average.
        difference, low, high: points (scores x ``Row.unit_points``) or points of the relative
            average.
        verdict: ``better``, ``worse`` or ``tie``.
        units: scores compared. images: clusters drawn.
    """

    table: Table
    group: Group
    line: Line
    best: Line
    benchmark: str
    difference: float
    low: float
    high: float
    verdict: str
    units: int
    images: int


@dataclass(frozen=True)
class Resampled:
    """Mean scores of every line of a benchmark, as measured and for each draw of its images.

    Attributes:
        lines: position of each line (by ``id``) in the arrays.
        means: (L,) as measured. draws: (D, L).
    """

    lines: dict[int, int]
    means: np.ndarray
    draws: np.ndarray
    units: int
    images: int


def resample(
    scores: np.ndarray, clusters: Sequence[str], seed: int = SEED, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores under resampling of whole clusters, the same draws for every line.

    Args:
        scores: (L, N) scores of L lines on the same N units.
        clusters: (N,) the image of each unit.
        seed: of the generator.
        draws: D, how often.

    Returns:
        The (L,) means as measured and the (D, L) means of the draws.
    """
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    sizes = np.bincount(members, minlength=count).astype(float)  # (C,)
    sums = np.stack([np.bincount(members, weights=own, minlength=count) for own in scores], axis=1)
    generator = np.random.default_rng(seed)
    means = np.empty((draws, len(scores)))
    for draw in range(draws):
        weights = np.bincount(generator.integers(count, size=count), minlength=count).astype(float)
        means[draw] = weights @ sums / (weights @ sizes)
    return scores.mean(axis=1), means


def paired_interval(
    first: Row, second: Row, seed: int = SEED, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Difference of two rows' mean scores (first minus second) and its 95 % interval.

    Raises:
        ValueError: the rows have no scores on the same units.
    """
    if first.scores is None or second.scores is None or first.clusters is None:
        raise ValueError(f"cells {first.id} and {second.id} have no scores per document")
    if first.clusters != second.clusters:
        raise ValueError(f"cells {first.id} and {second.id} answered different documents")
    scores = np.array([first.scores, second.scores])
    means, drawn = resample(scores, first.clusters, seed, draws)
    low, high = np.percentile(drawn[:, 0] - drawn[:, 1], INTERVAL)
    return float(means[0] - means[1]), float(low), float(high)


def differences(table: Table) -> list[Difference]:
    """Every line against the best of its budget (highest Average), per benchmark and on average."""
    sampled = {}
    for name in dict.fromkeys(column.benchmark for column in table.columns):
        sample = _sample(table, name)
        if sample is not None:
            sampled[name] = sample
    averaged = [c.benchmark for c in table.averaged]
    found: list[Difference] = []
    for group in table.groups:
        best = best_line(table, group)
        if best is None:
            continue
        for line in group.lines:
            if line is not best:
                found += _against(table, group, line, best, sampled, averaged)
    return found


def best_line(table: Table, group: Group) -> Line | None:
    """The line with the highest Average; None when fewer than two lines have one."""
    averages = {id(line): table.average(line).value for line in group.lines}
    known = [line for line in group.lines if averages[id(line)] is not None]
    if len(known) < 2:
        return None
    return max(known, key=lambda line: averages[id(line)] or 0.0)


def _sample(table: Table, benchmark: str) -> Resampled | None:
    """Resample all lines that answered the units most lines answered."""
    scores: list[np.ndarray] = []
    clusters: list[str] | None = None
    lines: dict[int, int] = {}
    for line in table.lines:
        own = _scores(line.rows.get(benchmark, []))
        if own is None or (clusters is not None and own[1] != clusters):
            continue
        clusters = own[1]
        lines[id(line)] = len(scores)
        scores.append(own[0])
    if clusters is None or not clusters:
        return None
    points = np.stack(scores) * table.shown[benchmark].unit_points
    means, draws = resample(points, clusters, zlib.crc32(f"{SEED} {benchmark}".encode()))
    return Resampled(lines, means, draws, len(clusters), len(set(clusters)))


def _scores(rows: Iterable[Row]) -> tuple[np.ndarray, list[str]] | None:
    """Scores per unit, mean over seeds, and their images; None without them."""
    known = [
        (row.scores, row.clusters)
        for row in rows
        if row.status == "done" and row.scores and row.clusters
    ]
    if not known or any(clusters != known[0][1] for _, clusters in known):
        return None
    return np.mean([scores for scores, _ in known], axis=0), known[0][1]


def _against(
    table: Table,
    group: Group,
    line: Line,
    best: Line,
    sampled: dict[str, Resampled],
    averaged: Sequence[str],
) -> list[Difference]:
    found = []
    for benchmark, sample in sampled.items():
        if id(line) in sample.lines and id(best) in sample.lines:
            own, other = sample.lines[id(line)], sample.lines[id(best)]
            point = sample.means[own] - sample.means[other]
            drawn = sample.draws[:, own] - sample.draws[:, other]
            size = (sample.units, sample.images)
            found.append(_difference(table, group, line, best, benchmark, point, drawn, *size))
    samples = [sampled[name] for name in averaged if name in sampled]
    needed = {id(line), id(best), id(table.vanilla)}
    if samples and len(samples) == len(averaged) and all(needed <= set(s.lines) for s in samples):
        plain = id(table.vanilla)
        point = np.mean([_ratio(s, s.means[None], line, best, plain) for s in samples])
        drawn = np.mean([_ratio(s, s.draws, line, best, plain) for s in samples], axis=0)
        size = (sum(s.units for s in samples), sum(s.images for s in samples))
        found.append(_difference(table, group, line, best, AVERAGE.benchmark, point, drawn, *size))
    return found


def _ratio(sample: Resampled, means: np.ndarray, line: Line, best: Line, plain: int) -> np.ndarray:
    """Percent of vanilla, line minus best, for each draw; NaN where vanilla's mean is 0."""
    own, other, base = (sample.lines[key] for key in (id(line), id(best), plain))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 100 * (means[:, own] - means[:, other]) / means[:, base]
    return np.where(means[:, base] == 0, np.nan, ratio)


def _difference(
    table: Table,
    group: Group,
    line: Line,
    best: Line,
    benchmark: str,
    point: float,
    drawn: np.ndarray,
    units: int,
    images: int,
) -> Difference:
    low, high = (float(p) for p in np.nanpercentile(drawn, INTERVAL))
    verdict = "better" if low > 0 else "worse" if high < 0 else "tie"
    numbers = (float(point), low, high, verdict, units, images)
    return Difference(table, group, line, best, benchmark, *numbers)


def difference_sheet(table: Table, found: Sequence[Difference]) -> Sheet | None:
    """Differences of the Average to the best strategy per budget, and how many benchmarks agree."""
    sections = []
    for group in table.groups:
        own = [d for d in found if d.group is group]
        lines = [_difference_texts(line, own, table) for line in group.lines]
        lines = [line for line in lines if line]
        if lines:
            sections.append((f"{group.heading}: best is {own[0].best.label}", lines))
    if not sections:
        return None
    head = ["Strategy", "Average", "95 % interval", "verdict", "worse on", "tie on", "better on"]
    notes = [
        f"95 % intervals: paired bootstrap over images ({DRAWS} draws), not corrected for the "
        "number of comparisons; tie: the interval contains zero. Computed from scores per "
        "document (accuracy where the column prints an F1 or points), so the difference is not "
        "exactly that of the printed averages. Per benchmark: differences.csv.",
    ]
    title = f"{table.name}: differences to the best strategy per budget"
    return Sheet(title, head, sections, notes)


def _difference_texts(line: Line, own: Sequence[Difference], table: Table) -> list[str]:
    mine = {d.benchmark: d for d in own if d.line is line}
    if not mine:
        return []
    average = mine.get(AVERAGE.benchmark)
    verdicts = [mine[c.benchmark].verdict for c in table.averaged if c.benchmark in mine]
    counts = [str(verdicts.count(verdict)) for verdict in ("worse", "tie", "better")]
    if average is None:
        return [line.label, "–", "–", "–", *counts]
    interval = f"[{signed(average.low, 2)}, {signed(average.high, 2)}]"
    return [line.label, signed(average.difference, 2), interval, average.verdict, *counts]

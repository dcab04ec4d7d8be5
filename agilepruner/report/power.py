"""How many documents a difference needs: from a run's own variance, before the GPU hours are spent.

A pilot says how far two lines' answers to the same documents go together, and how alike the
documents of one image are. More documents of that kind shrink each part of the variance in its own
way (``statistics.Variances``); the smallest number at which the difference is shown with the wanted
power is searched. The pilot's variance is itself an estimate: from few images the answer is rough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt

import numpy as np
from scipy.special import stdtrit

from agilepruner.report.contrasts import FEWEST
from agilepruner.report.estimates import LEVEL, Estimate, LeftOut, Variances, jackknife, variances
from agilepruner.report.lines import AVERAGE, Column, Line
from agilepruner.report.sheets import Sheet, signed
from agilepruner.report.statistics import Samples

MOST = 1e6  # times the pilot: more is as good as never
ROUGH = 30  # images of a pilot below which its variance is rough


@dataclass(frozen=True)
class Pilot:
    """What a run says of one difference.

    Attributes:
        variances: of each benchmark that the difference is the mean of.
        freedom: degrees of freedom of each.
        point: the difference that the pilot itself shows.
        correlation: of the two lines' numbers without each image; NaN where one never changes.
        documents: benchmark -> documents answered. units, images: behind the difference.
    """

    variances: list[Variances]
    freedom: list[int]
    point: float
    correlation: float
    documents: dict[str, int]
    units: int
    images: int

    def estimate(self, factor: float) -> Estimate:
        """The difference with ``factor`` times the images (Welch and Satterthwaite's freedom)."""
        parts = [one.at(factor) for one in self.variances]
        known = [max((freedom + 1) * factor - 1, 1.0) for freedom in self.freedom]
        total = sum(parts)
        freedom = total**2 / sum(part**2 / free for part, free in zip(parts, known))
        return Estimate(self.point, sqrt(total) / len(parts), freedom)

    def factor(self, difference: float, power: float, level: float = LEVEL) -> float:
        """Times as many documents as the pilot's that show a true difference.

        Args:
            difference: in units of the column.
            power: share of repetitions that shall show it.
            level: of the two-sided test.

        Returns:
            infinity where no number does (the chance of the seeds is too large).
        """

        def shown(factor: float) -> bool:
            one = self.estimate(factor)
            quantiles = stdtrit(one.freedom, 1 - level / 2) + stdtrit(one.freedom, power)
            return one.error * float(quantiles) <= difference

        if not shown(MOST):
            return inf
        low, high = FEWEST / min(freedom + 1 for freedom in self.freedom), MOST
        if shown(low):
            return low
        while high / low > 1.0001:
            middle = sqrt(low * high)
            low, high = (low, middle) if shown(middle) else (middle, high)
        return high


def pilot(samples: Samples, line: Line, other: Line, column: Column) -> Pilot | None:
    """What a table says of line minus other; None where it has no such difference."""
    pairs = samples.pairs(line, other, column)
    if not pairs or samples.estimate(line, other, column) is None:
        return None
    names = list(dict.fromkeys(found.benchmark for found, *_ in pairs))
    return Pilot(
        [variances(first, second, scale) for _, first, second, scale in pairs],
        [max(len(first.without) - 1, 1) for _, first, *_ in pairs],
        sum(first.whole - second.whole for _, first, second, _ in pairs) / len(pairs),
        correlation([(first, second) for _, first, second, _ in pairs]),
        {name: max(row.n for row in line.rows[name]) for name in names},
        *samples.counts(column),
    )


def correlation(pairs: Sequence[tuple[LeftOut, LeftOut]]) -> float:
    """How far two lines' chance goes together: 1 - var(first - second) / (var + var), summed."""
    together = sum(jackknife(first.without - second.without) for first, second in pairs)
    apart = sum(jackknife(first.without) + jackknife(second.without) for first, second in pairs)
    return 1 - together / apart if apart else float("nan")


@dataclass(frozen=True)
class Need:
    """One difference and the documents that show it.

    Attributes:
        factor: times the pilot's documents; infinite where no number does.
        documents: benchmark -> documents, rounded up.
        could_show: the smallest difference that the pilot itself shows with that power.
    """

    budget: int
    line: Line
    other: Line
    column: Column
    pilot: Pilot
    factor: float
    could_show: float

    @property
    def documents(self) -> dict[str, int]:
        if not np.isfinite(self.factor):
            return {}
        return {name: ceil(n * self.factor) for name, n in self.pilot.documents.items()}


def needs(
    samples: Samples,
    pairs: Sequence[tuple[Line, Line]],
    columns: Sequence[Column],
    difference: float,
    power: float,
    level: float = LEVEL,
) -> Iterator[Need]:
    """What each pair of lines needs in each column; nothing where a table cannot say."""
    for line, other in pairs:
        for column in columns:
            found = pilot(samples, line, other, column)
            if found is not None:
                now = found.estimate(1)
                quantiles = stdtrit(now.freedom, 1 - level / 2) + stdtrit(now.freedom, power)
                yield Need(
                    line.budget,
                    line,
                    other,
                    column,
                    found,
                    found.factor(difference, power, level),
                    now.error * float(quantiles),
                )


def sheet(
    samples: Samples,
    found: Sequence[Need],
    difference: float,
    power: float,
    level: float,
    sizes: dict[str, int],
) -> Sheet:
    """A line per difference; sizes: documents that the whole benchmarks have."""
    head = ["Difference", "seen", "± error", "correlation", "images", "documents", "could show"]
    head += ["needed", "times", "the whole"]
    sections: list[tuple[str, list[list[str]]]] = []
    for budget in dict.fromkeys(need.budget for need in found):
        own = [need for need in found if need.budget == budget]
        sections.append((f"{budget} tokens", [_texts(need, sizes) for need in own]))
    title = f"{samples.table.name}: documents that show a difference of {difference:g}"
    notes = [
        f"Paired by document, images left out together; two-sided test at {100 * level:.3g} %, "
        f"power {power:g}. needed: documents of this kind, in the same share per image; in the "
        "units of the column (points; the Average: percent of vanilla).",
        "error: of the difference that was seen. correlation: of the two lines over images; the "
        "higher, the more pairing saves. could show: the smallest true difference that the "
        "documents at hand show with that power.",
        "the whole: documents of the whole benchmark; for the Average, of the scarcest one.",
    ]
    if any(need.pilot.images < ROUGH for need in found):
        notes.append(f"Fewer than {ROUGH} images: the variance, and so the number, is rough.")
    if any(need.column is AVERAGE for need in found):
        notes.append("The Average needs that many times the documents of each of its benchmarks.")
    if any(not np.isfinite(need.factor) for need in found):
        notes.append("never: the spread over seeds alone is too large; add seeds.")
    return Sheet(title, head, sections, notes)


def _texts(need: Need, sizes: dict[str, int]) -> list[str]:
    seen, digits = need.pilot.estimate(1), need.column.digits
    now, wanted = sum(need.pilot.documents.values()), sum(need.documents.values())
    shares = {name: sizes[name] / n for name, n in need.documents.items() if name in sizes}
    scarce = min(shares, key=lambda name: shares[name], default="")
    return [
        f"{need.line.label} − {need.other.label}, {need.column.title}",
        signed(seen.point, digits),
        f"{seen.error:.{digits}f}",
        signed(need.pilot.correlation, 2),
        f"{need.pilot.images:,}",
        f"{now:,}",
        f"{need.could_show:.{digits}f}",
        f"{wanted:,}" if need.documents else "never",
        f"{need.factor:,.2f}" if need.documents else "–",
        f"{sizes[scarce]:,}{'' if shares[scarce] >= 1 else ', too few'}" if scarce else "–",
    ]

"""Do the verdicts of the report mean what they say? Measured on simulated answers.

    python scripts/calibrate_verdicts.py            (about ten minutes on one core)

Two strategies answer the same documents. Whether an answer is right depends on the image, on how
the strategy meets that image, on the document, and on chance; all four are drawn anew in every
simulation, so images matter as they do in the benchmarks. The report's own functions judge the
answers. Written to results/verdict_calibration.md: false positives where there is no difference,
coverage of 95 % intervals, wrong "equivalent" at a true difference of the margin, power at "could
show", and wrong words in a whole table.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from agilepruner.report.lines import Aggregate
from agilepruner.report.statistics import (
    LEVEL,
    MARGINS,
    Estimate,
    LeftOut,
    average_of,
    holm,
    leave_one_out,
    paired,
)

ROOT = Path(__file__).parents[1]
# Shares of the variance of how well a document is answered: image, strategy on that image,
# document; the rest is the strategy on the document.
IMAGE, MEETING, DOCUMENT = 0.2, 0.15, 0.35


@dataclass(frozen=True)
class Design:
    """A benchmark that is simulated.

    Attributes:
        images, questions: how many, and questions of each image.
        rule: its aggregate. scale: its maximum.
        parts: (U,) or (U, 2) right answers, and the index of each unit -> (P, U) parts.
        level: share of right answers.
    """

    name: str
    images: int
    questions: int
    rule: Aggregate
    scale: float
    parts: Callable[[np.ndarray], np.ndarray]
    level: float = 0.85
    pairs: bool = False
    subtasks: int = 1

    @property
    def units(self) -> int:
        return self.images * self.questions

    def members(self) -> np.ndarray:
        """(U,) the image of each unit."""
        return np.repeat(np.arange(self.images), self.questions)

    def strata(self) -> np.ndarray:
        """(U,) the subtask of each unit."""
        return self.members() % self.subtasks


def score(right: np.ndarray) -> np.ndarray:
    """An accuracy."""
    return right[None].astype(float)


def yes_no(right: np.ndarray) -> np.ndarray:
    """An F1: every other question is to be answered with yes."""
    yes = np.arange(len(right)) % 2 == 0
    return np.stack([yes & right, ~yes & ~right, yes & ~right]).astype(float)


def points(right: np.ndarray) -> np.ndarray:
    """MME's points of pairs of questions."""
    return (100 * right.mean(axis=1) + 100 * right.all(axis=1))[None]


def mentions(right: np.ndarray) -> np.ndarray:
    """CHAIR's mentions: five per caption and two more in every third; at most one is false."""
    count = 5.0 + 2.0 * (np.arange(len(right)) % 3 == 0)
    return np.stack([(~right).astype(float), count])


F1 = Aggregate("f1", ("right_yes", "wrong_yes", "wrong_no"))
RATIO = Aggregate("ratio", ("false_mentions", "mentions"))
POINTS = Aggregate("mean", ("points",), 1.0, "sum")
DESIGNS = (
    Design("accuracy, 100 documents", 100, 1, Aggregate(), 100, score),
    Design("accuracy, 500 images x 6", 500, 6, Aggregate(), 100, score),
    Design("accuracy, 398 images x 31 (GQA)", 398, 31, Aggregate(), 100, score, level=0.6),
    Design("F1, 17 images x 6 (demo POPE)", 17, 6, F1, 100, yes_no, level=0.9),
    Design("F1, 500 images x 18 (POPE)", 500, 18, F1, 100, yes_no),
    Design("points, 50 pairs, 5 subtasks", 50, 1, POINTS, 1000, points, pairs=True, subtasks=5),
    Design(
        "points, 1187 pairs, 14 subtasks", 1187, 1, POINTS, 2800, points, pairs=True, subtasks=14
    ),
    Design("ratio, 100 captions", 100, 1, RATIO, 100, mentions, level=0.8),
    Design("ratio, 500 captions (CHAIR)", 500, 1, RATIO, 100, mentions, level=0.5),
)


def answers(
    design: Design, levels: list[float], generator: np.random.Generator
) -> list[np.ndarray]:
    """Right or wrong answers of several strategies to the same new documents."""
    members = design.members()
    shape = (design.units, 2) if design.pairs else (design.units,)
    image = generator.standard_normal(design.images)[members]
    document = generator.standard_normal(shape)
    rest = np.sqrt(1 - IMAGE - MEETING - DOCUMENT)
    found = []
    for level in levels:
        meeting = generator.standard_normal(design.images)[members]
        common = np.sqrt(IMAGE) * image + np.sqrt(MEETING) * meeting
        common = common[:, None] if design.pairs else common
        own = common + np.sqrt(DOCUMENT) * document + rest * generator.standard_normal(shape)
        found.append(own < NormalDist().inv_cdf(level))
    return found


def left_out(design: Design, right: np.ndarray) -> LeftOut:
    """The design's number, whole and without each image."""
    return leave_one_out(design.rule, design.parts(right), design.members(), design.strata())


def compare(design: Design, levels: list[float], generator: np.random.Generator) -> Estimate:
    """The report's estimate of first minus second."""
    first, second = (left_out(design, right) for right in answers(design, levels, generator))
    return paired(first, second, design.scale)


@cache
def truth(design: Design, level: float) -> float:
    """The number that very many documents give."""
    many = Design(
        *(design.name, 84_000, 2 if not design.pairs else 1, design.rule, design.scale),
        *(design.parts, level, design.pairs, design.subtasks),
    )
    (right,) = answers(many, [level], np.random.default_rng(0))
    return left_out_whole(many, right)


def left_out_whole(design: Design, right: np.ndarray) -> float:
    """The design's number alone."""
    one_cluster = np.zeros(design.units, dtype=int)
    return leave_one_out(design.rule, design.parts(right), one_cluster, design.strata()).whole


def lower_by(design: Design, points_: float) -> float:
    """The level at which the number is so many points worse, by bisection."""
    target = truth(design, design.level)
    low, high = 0.01, design.level
    sign = 1 if truth(design, 0.9) > truth(design, 0.1) else -1
    for _ in range(20):
        middle = (low + high) / 2
        if sign * (target - truth(design, middle)) > points_:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def judge(design: Design, simulations: int, seed: int) -> list[str]:
    """One line of the report's table."""
    generator = np.random.default_rng(seed)
    same = [compare(design, [design.level] * 2, generator) for _ in range(simulations)]
    false = np.mean([e.p < LEVEL for e in same])
    could = float(np.median([e.smallest() for e in same]))
    level = lower_by(design, could)
    real = truth(design, design.level) - truth(design, level)
    moved = [compare(design, [design.level, level], generator) for _ in range(simulations)]
    inside = np.mean([e.interval()[0] <= real <= e.interval()[1] for e in moved])
    power = np.mean([e.p < LEVEL for e in moved])
    margin = MARGINS.benchmark / 100 * design.scale
    apart = lower_by(design, margin)
    edge = [compare(design, [design.level, apart], generator) for _ in range(simulations)]
    alike = np.mean([e.p_equivalent(margin) < LEVEL for e in edge])
    covered = np.mean([e.interval()[0] <= 0 <= e.interval()[1] for e in same])
    shares = [f"{100 * share:.1f}" for share in (false, covered, inside, alike, power)]
    return [design.name, *shares, f"{could:.1f}"]


def table(simulations: int, seed: int, lines: int = 15) -> tuple[float, float, float]:
    """Wrong words in a table of Averages without any difference between its lines.

    Nine benchmarks of 100 documents, a reference and ``lines`` others, all equally good.

    Returns:
        Share of tables with any better or worse; share of single comparisons with p < 5 %;
        coverage of the single intervals.
    """
    design = DESIGNS[0]
    generator = np.random.default_rng(seed)
    wrong, single, inside = 0, [], []
    for _ in range(simulations):
        parts: list[list[Estimate]] = [[] for _ in range(lines)]
        for _ in range(9):
            level = [0.92, *[design.level] * (lines + 1)]
            base, reference, *others = (
                left_out(design, right) for right in answers(design, level, generator)
            )
            scale = 100 * design.scale / base.whole

            def share(one: LeftOut, base: LeftOut = base) -> LeftOut:
                numbers = 100 * one.whole / base.whole, 100 * one.without / base.without
                return LeftOut(*numbers, one.weight)

            for own, other in zip(parts, others):
                own.append(paired(share(other), share(reference), scale))
        found = [average_of(own) for own in parts]
        wrong += min(holm([e.p for e in found])) < LEVEL
        single += [e.p < LEVEL for e in found]
        inside += [e.interval()[0] <= 0 <= e.interval()[1] for e in found]
    return wrong / simulations, float(np.mean(single)), float(np.mean(inside))


def only_loses(documents: int, simulations: int, seed: int) -> float:
    """Share of wrong "equivalent" where the second loses just the margin and gains nothing."""
    generator = np.random.default_rng(seed)
    design = Design("", documents, 1, Aggregate(), 100, score)
    wrong = 0
    for _ in range(simulations):
        first = generator.random(documents) < 0.9
        second = first & (generator.random(documents) >= MARGINS.benchmark / 100 / 0.9)
        estimate = paired(left_out(design, first), left_out(design, second), design.scale)
        wrong += estimate.p_equivalent(MARGINS.benchmark) < LEVEL
    return wrong / simulations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=4000, help="per design and condition")
    parser.add_argument("--to", type=Path, default=ROOT / "results" / "verdict_calibration.md")
    args = parser.parse_args()
    head = ["design", "false positives", "coverage, no difference", "coverage, a difference"]
    head += ["wrong equivalent at the margin", "power at could show", "could show"]
    rows = [judge(design, args.simulations, seed) for seed, design in enumerate(DESIGNS)]
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / args.simulations)
    tables = max(200, args.simulations // 4)
    family, single, inside = table(tables, seed=len(DESIGNS))
    lines = [
        "# Calibration of the verdicts",
        "",
        "`python scripts/calibrate_verdicts.py`: simulated answers, the report's own functions.",
        f"{args.simulations:,} simulations per design and condition; one standard error of a 5 % "
        f"share is {error:.1f}. Nominal: 5, 95, 95, at most 5, 80 (percent).",
        "",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
        *["| " + " | ".join(row) + " |" for row in rows],
        "",
        f"A table of 15 Averages (nine benchmarks of 100 documents, {tables:,} simulations) "
        f"without any difference has a wrong word in {100 * family:.1f} % of cases after Holm's "
        f"correction; single comparisons: {100 * single:.1f} % false positives, "
        f"{100 * inside:.1f} % coverage.",
        "",
        'A strategy that only loses, and just the margin, is wrongly "equivalent" in '
        + ", ".join(
            f"{100 * only_loses(n, args.simulations, n):.1f} % of cases at {n} documents"
            for n in (100, 200, 500, 2000)
        )
        + ".",
        "",
        "Could show: the median over simulations of the smallest difference that one comparison "
        "shows 4 times in 5 if answers vary as they do, in points of the column. The worse "
        "strategy of a real difference varies more, so power falls short of 80 where a small n "
        "needs a large difference.",
    ]
    args.to.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

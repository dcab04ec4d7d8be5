"""Do the verdicts of the report mean what they say? Measured on simulated answers.

    python scripts/calibrate_verdicts.py            (about ten minutes on one core)

Two strategies answer the same documents. Whether an answer is right depends on the image, on how
the strategy meets that image, on the document, and on chance; all four are drawn anew in every
simulation, so images matter as they do in the benchmarks. The report's own functions judge the
answers. Written to results/verdict_calibration.md: false positives where there is no difference,
coverage of 95 % intervals, wrong "equivalent" at a true difference of the margin, power at "could
show", wrong words in a whole table, and the line of Random, a mean over three seeds.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from statistics import NormalDist, stdev

import numpy as np

from agilepruner.report.estimates import (
    LEVEL,
    Estimate,
    LeftOut,
    average_of,
    difference_of_means,
    holm,
    leave_one_out,
    mean_of_seeds,
    paired,
)
from agilepruner.report.lines import Aggregate
from agilepruner.report.statistics import MARGINS

ROOT = Path(__file__).parents[1]
# Shares of the variance of how well a document is answered: image, strategy on that image,
# document; the rest is the strategy on the document.
IMAGE, MEETING, DOCUMENT = 0.2, 0.15, 0.35
SEEDS = 3
TOGETHER = 0.1  # standard deviation of what a seed does to all documents alike


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


def seeded(
    design: Design,
    levels: list[float],
    together: list[float],
    push: bool,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """As ``answers``; the last ``SEEDS`` are seeds of one strategy.

    With ``push`` a seed does something to all documents alike, ``together``, in standard deviations
    of how well a document is answered; over seeds the share of right answers is the level.
    """
    wide = sqrt(1 + TOGETHER**2) if push else 1.0
    cuts = [NormalDist().inv_cdf(level) for level in levels]
    cuts[-SEEDS:] = [cut * wide for cut in cuts[-SEEDS:]]
    pushed = [NormalDist().cdf(cut + each) for cut, each in zip(cuts, together)]
    return answers(design, pushed, generator)


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


def percent(one: LeftOut, base: LeftOut) -> LeftOut:
    """A number as a percentage of vanilla's, whose own chance is part of it."""
    return LeftOut(100 * one.whole / base.whole, 100 * one.without / base.without, one.weight)


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
            for own, other in zip(parts, others):
                own.append(paired(percent(other, base), percent(reference, base), scale))
        found = [average_of(own) for own in parts]
        wrong += min(holm([e.p for e in found])) < LEVEL
        single += [e.p < LEVEL for e in found]
        inside += [e.interval()[0] <= 0 <= e.interval()[1] for e in found]
    return wrong / simulations, float(np.mean(single)), float(np.mean(inside))


def random_line(design: Design, push: bool, simulations: int, seed: int) -> list[str]:
    """A mean over seeds against one strategy, equally good: one line of the table of seeds."""
    generator = np.random.default_rng(seed)
    found, spread = [], []
    for _ in range(simulations):
        together = [0.0, *pushes(push, generator)]
        first, *seeds = (
            left_out(design, right)
            for right in seeded(design, [design.level] * (1 + SEEDS), together, push, generator)
        )
        line = mean_of_seeds(dict(enumerate(seeds)))
        found.append(paired(line, first, design.scale))
        spread.append(stdev(line.seeds.values()))
    return seed_row(design.name, push, found, spread)


def random_average(push: bool, simulations: int, seed: int) -> list[str]:
    """The same of the Average of nine benchmarks of 100 documents; a push is of all nine."""
    generator, design = np.random.default_rng(seed), DESIGNS[0]
    found, spread = [], []
    for _ in range(simulations):
        together = [0.0, 0.0, *pushes(push, generator)]
        pairs = []
        for _ in range(9):
            levels = [0.92] + [design.level] * (1 + SEEDS)
            base, first, *seeds = (
                left_out(design, right)
                for right in seeded(design, levels, together, push, generator)
            )
            line = mean_of_seeds({i: percent(one, base) for i, one in enumerate(seeds)})
            pairs.append((line, percent(first, base), 100 * design.scale / base.whole))
        found.append(difference_of_means(pairs))
        means = [np.mean([line.seeds[i] for line, *_ in pairs]) for i in range(SEEDS)]
        spread.append(stdev(means))
    return seed_row("Average of nine, 100 documents each", push, found, spread)


def pushes(push: bool, generator: np.random.Generator) -> list[float]:
    """What each seed does to all documents alike."""
    return list(generator.standard_normal(SEEDS) * TOGETHER) if push else [0.0] * SEEDS


def seed_row(name: str, push: bool, found: list[Estimate], spread: list[float]) -> list[str]:
    false = 100 * np.mean([e.p < LEVEL for e in found])
    alike = "all documents alike" if push else "each image by itself"
    return [name, alike, f"{false:.1f}", f"{np.mean(spread):.1f}"]


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
    seeds = [
        random_line(design, push, args.simulations, 100 + 2 * number + push)
        for number, design in enumerate(DESIGNS)
        for push in (False, True)
    ]
    seeds += [random_average(push, tables, 200 + push) for push in (False, True)]
    head_of_seeds = ["design", "a seed changes", "false positives", "± over seeds"]
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
        f"Random is a mean over {SEEDS} seeds, held against a strategy that is equally good. A "
        "seed draws anew what it keeps of each image; where it changes all documents alike, it "
        f"also moves how well they are answered by {TOGETHER} standard deviations (in the Average "
        f"all nine benchmarks together; {tables:,} simulations of it). ±: mean standard deviation "
        "over the seeds, in points of the column.",
        "",
        "| " + " | ".join(head_of_seeds) + " |",
        "| --- | --- |" + " ---: |" * (len(head_of_seeds) - 2),
        *["| " + " | ".join(row) + " |" for row in seeds],
        "",
        "Random draws from the content of each image and its seed, so the first case is its own. "
        "The second is that of a strategy whose seed does something to all images, of which three "
        "seeds say little: there a test at 5 % is wrong more often than it says where "
        "documents are many.",
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

"""Attention wins on simple images, diversity on complex ones."""

from collections.abc import Iterator

from agilepruner.errors import UserError
from agilepruner.report.analyses.simple_and_complex import (
    ATTENTION,
    BY,
    DIVERSITY,
    THIRDS,
    mean_difference,
    side_by_side,
    split,
)
from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.statistics import MARGINS

SAYS = {THIRDS[0]: -1, THIRDS[2]: 1}


class SimpleAndComplex(Claim):
    """DivPrune minus FasterVLM on the simplest and on the most complex third of the images."""

    says = (
        "Attention wins on simple images and diversity on complex ones, whether erank or attention "
        "entropy says which are which."
    )
    source = "AgilePruner, Table 4 (second-hand); thirds of each benchmark's images are our choice"
    strategies = (ATTENTION, DIVERSITY)
    benchmarks = ("vqav2", "gqa", "scienceqa_img", "textvqa", "pope", "mme")

    def parts(self, measured: Measured) -> Iterator[Part]:
        documents = measured.documents(("vanilla", *self.strategies), self.benchmarks)
        for budget in measured.budgets:
            own = documents[documents["budget"].isin([budget, measured.table.full])]
            if not {"vanilla", *self.strategies} <= set(own["strategy"]):
                continue
            first, second = (f"{name}@{budget}" for name in (DIVERSITY, ATTENTION))
            for measure, name in BY.items():
                try:
                    thirds = split(side_by_side(own), measure)
                except UserError:  # too few images
                    continue
                for third, words in zip(thirds, THIRDS):
                    if words in SAYS:
                        yield Part(
                            f"DivPrune − FasterVLM, {words} images by {name}",
                            budget,
                            SAYS[words],
                            mean_difference(third, first, second),
                            MARGINS.benchmark,
                            len(third),
                            third["image"].nunique(),
                            "% of a full score",
                            strategy=DIVERSITY,
                            against=ATTENTION,
                            benchmark="+".join(dict.fromkeys(third["benchmark"])),
                        )

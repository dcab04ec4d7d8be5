"""AgilePruner ranks first at each budget."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.lines import AVERAGE

OWN = "agilepruner"
VARIANTS = ("agilepruner_constant", "agilepruner_entropy")  # its own ablations are no rivals
OTHERS = ("fastervlm", "prumergeplus", "visionzip", "vispruner", "divprune")


class BestOfEachBudget(Claim):
    """AgilePruner minus every other method of its budget, on the Average."""

    says = "AgilePruner has the highest Average of all methods at each budget."
    source = (
        "AgilePruner, its main tables; there VisionZip (NeXT, 640) and PDrop, SparseVLM (13B, 128) "
        "are above it"
    )
    strategies = (OWN, *OTHERS)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for line in measured.table.lines:
            rivals = line is not measured.table.vanilla and line.family != "baseline"
            if rivals and line.strategy not in (OWN, *VARIANTS):
                for own in measured.lines(OWN, line.budget):
                    yield from measured.compare(own, line, AVERAGE, 1)

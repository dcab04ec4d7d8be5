"""AgilePruner's adaptive threshold beats a constant one."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.lines import AVERAGE


class ConstantThreshold(Claim):
    """AgilePruner minus its variant with one threshold for all ranks and images."""

    says = "AgilePruner's threshold, which follows rank and erank, beats a constant one."
    source = "AgilePruner, its ablation (Table 12)"
    strategies = ("agilepruner", "agilepruner_constant")

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            for own in measured.lines("agilepruner", budget):
                for constant in measured.lines("agilepruner_constant", budget):
                    yield from measured.compare(own, constant, AVERAGE, 1)

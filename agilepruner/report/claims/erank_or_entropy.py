"""Erank guides no better than entropy."""

from collections.abc import Iterator

from agilepruner.report.claims import DOUBT, Claim, Measured, Part
from agilepruner.report.lines import AVERAGE


class ErankOrEntropy(Claim):
    """AgilePruner minus its variant that entropy guides."""

    says = "It makes no difference whether erank or attention entropy guides AgilePruner."
    source = "Doubt from the paper's Table 11 (98.13 and 98.06 at 128, 95.97 and 95.84 at 64)"
    kind = DOUBT
    strategies = ("agilepruner", "agilepruner_entropy")

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            for own in measured.lines("agilepruner", budget):
                for entropy in measured.lines("agilepruner_entropy", budget):
                    yield from measured.compare(own, entropy, AVERAGE, 0)

"""AgilePruner's lead over the strongest earlier methods is nothing."""

from collections.abc import Iterator

from agilepruner.report.claims import DOUBT, Claim, Measured, Part
from agilepruner.report.lines import AVERAGE

NEXT = ("vispruner", "divprune")  # second in the paper's tables, named before looking at ours


class NoBetterThanTheNext(Claim):
    """AgilePruner minus VisPruner and DivPrune, on the Average."""

    says = "AgilePruner and the strongest earlier methods (VisPruner, DivPrune) are equivalent."
    source = (
        "Doubt from our audit: leads of 0.03 (7B at 128 over VisPruner; Qwen at 512 over DivPrune) "
        "are too small for one run"
    )
    kind = DOUBT
    strategies = ("agilepruner", *NEXT)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            for own in measured.lines("agilepruner", budget):
                for other in [line for name in NEXT for line in measured.lines(name, budget)]:
                    yield from measured.compare(own, other, AVERAGE, 0)

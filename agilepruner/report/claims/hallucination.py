"""Diversity hallucinates more than attention, and sees more."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part

ATTENTION = ("fastervlm", "prumergeplus")  # VisPruner, which the paper counts here, does both
DIVERSITY = ("divprune", "fps")


class Hallucination(Claim):
    """Cs, Ci, Recall and Len of each diversity method minus each attention method."""

    says = (
        "Diversity-based pruning hallucinates more than attention-based (Cs, Ci), and finds and "
        "says more (Recall, Len)."
    )
    source = "AgilePruner, its CHAIR table; one of the claims that survive our audit"
    strategies = (*ATTENTION, *DIVERSITY)
    benchmarks = ("chair",)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            for diverse in [line for name in DIVERSITY for line in measured.lines(name, budget)]:
                for own in [line for name in ATTENTION for line in measured.lines(name, budget)]:
                    for column in measured.columns("chair"):
                        yield from measured.compare(diverse, own, column, 1)

"""Diversity-based pruning keeps less diversity than it could."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.claims.hallucination import DIVERSITY

REACHED = "greedy_erank"  # what can be reached is at least this much


class DiversityFallsShort(Claim):
    """Erank of what each diversity method keeps minus the best that was reached on the image."""

    says = (
        "Diversity-based pruning keeps less diversity than it intends: its tokens have a lower "
        "erank than other tokens of the same number and image."
    )
    source = (
        "AgilePruner, Table 1 (second-hand); what can be reached is our addition: greedy erank, "
        "which is no upper bound"
    )
    strategies = (*DIVERSITY, REACHED)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            for best in measured.lines(REACHED, budget):
                for line in [line for name in DIVERSITY for line in measured.lines(name, budget)]:
                    yield from measured.compare_erank(line, best, -1)

"""A share of attention that follows erank beats a fixed one."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.lines import AVERAGE

MIXTURES = ("bat", "vispruner", "fastervlm_divprune")


class GuidedShare(Claim):
    """Each mixture guided by erank minus the same with its fixed share, on the Average."""

    says = "A mixture whose share of attention follows the image's erank beats its fixed share."
    source = "AgilePruner, its two enhancement tables (GQA, SQA, POPE, MME)"
    strategies = tuple(name + end for name in MIXTURES for end in ("", "_erank"))

    def parts(self, measured: Measured) -> Iterator[Part]:
        yield from variants(measured, "_erank", 1)


def variants(measured: Measured, ending: str, says: int) -> Iterator[Part]:
    """A variant of each mixture minus the mixture, on the Average."""
    for budget in measured.budgets:
        for name in MIXTURES:
            for fixed in measured.lines(name, budget):
                for line in measured.lines(name + ending, budget):
                    yield from measured.compare(line, fixed, AVERAGE, says)

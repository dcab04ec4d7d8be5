"""Hallucination, recall and diversity fall as the share of attention rises."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.lines import Line


class ShareOfAttention(Claim):
    """FasterVLM with DivPrune: the largest share of attention minus the smallest."""

    says = (
        "The larger the share of tokens that attention chooses, the lower Cs, Ci, Recall, Len and "
        "the erank of what is kept."
    )
    source = "AgilePruner, Table 3 (second-hand)"
    strategies = ("fastervlm_divprune",)
    benchmarks = ("chair",)
    overrides = ("strategy.fastervlm_divprune.share=[0.0,0.25,0.5,0.75,1.0]",)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            lines = sorted(measured.lines(self.strategies[0], budget), key=_share)
            if len(lines) > 1 and _share(lines[0]) < _share(lines[-1]):
                for column in measured.columns("chair"):
                    yield from measured.compare(lines[-1], lines[0], column, -1)
                yield from measured.compare_erank(lines[-1], lines[0], -1, self.benchmarks)


def _share(line: Line) -> float:
    return float(line.parameters["share"])

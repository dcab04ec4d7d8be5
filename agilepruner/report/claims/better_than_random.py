"""Every method beats random tokens."""

from collections.abc import Iterator

from agilepruner.report.claims import DOUBT, Claim, Measured, Part
from agilepruner.report.claims.best_of_each_budget import OTHERS, OWN
from agilepruner.report.lines import AVERAGE


class BetterThanRandom(Claim):
    """Every method minus random selection, on the Average."""

    says = "Every method beats keeping random tokens, at each budget."
    source = (
        "Doubted by users (FasterVLM issue 4: below random on InternVL2's TextVQA) and by arXiv "
        "2512.07580"
    )
    kind = DOUBT
    strategies = ("random", OWN, *OTHERS)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for line in measured.table.lines:
            if line is not measured.table.vanilla and line.family != "baseline":
                for random in measured.lines("random", line.budget):
                    yield from measured.compare(line, random, AVERAGE, 1)

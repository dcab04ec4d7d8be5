"""Attention hallucinates less only because it says less."""

from collections.abc import Iterator

from agilepruner.report.claims import DOUBT, Claim, Measured, Part
from agilepruner.report.claims.hallucination import ATTENTION, DIVERSITY
from agilepruner.report.contrasts import SCALE, left_out
from agilepruner.report.estimates import paired
from agilepruner.report.lines import Aggregate

RULE = Aggregate("ratio")
PARTS = ("part.false_mentions", "part.length")
MARGIN = 0.1  # mentions per 100 tokens; the full model of the paper makes about one


class SaysLess(Claim):
    """False mentions per 100 tokens of each diversity method minus each attention method."""

    says = (
        "Attention hallucinates less only because it says less: per token there is no difference."
    )
    source = "Our doubt: in the paper's CHAIR table Len falls with Cs"
    kind = DOUBT
    strategies = (*ATTENTION, *DIVERSITY)
    benchmarks = ("chair",)

    def parts(self, measured: Measured) -> Iterator[Part]:
        for budget in measured.budgets:
            for diverse in [line for name in DIVERSITY for line in measured.lines(name, budget)]:
                for own in [line for name in ATTENTION for line in measured.lines(name, budget)]:
                    rows = [one.rows.get("chair", []) for one in (diverse, own)]
                    frames = [measured.documents_of(one) for one in rows]
                    if any(frame.empty for frame in frames):
                        continue
                    first, second = (left_out(RULE, frame, PARTS) for frame in frames)
                    if len(first.without) != len(second.without):
                        continue
                    yield Part(
                        f"{diverse.label} − {own.label}, false mentions per 100 tokens",
                        budget,
                        0,
                        paired(first, second, SCALE),
                        MARGIN,
                        len(frames[0]),
                        len(first.without),
                        "mentions per 100 tokens",
                        strategy=diverse.strategy,
                        against=own.strategy,
                        benchmark="chair",
                    )

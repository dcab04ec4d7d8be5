"""Attention-based pruning hallucinates less than the full model."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.claims.hallucination import ATTENTION


class FewerThanVanilla(Claim):
    """Cs and Ci of each attention method minus the full model's."""

    says = "Attention-based pruning hallucinates less than the model with all tokens (Cs, Ci)."
    source = (
        "AgilePruner; in its own CHAIR table Ci says so for FasterVLM alone: PruMerge+ and "
        "VisPruner are above the full model"
    )
    strategies = ATTENTION
    benchmarks = ("chair",)

    def parts(self, measured: Measured) -> Iterator[Part]:
        vanilla = measured.table.vanilla
        if vanilla is None:
            return
        columns = [column for column in measured.columns("chair") if column.better < 0]
        for budget in measured.budgets:
            for line in [line for name in ATTENTION for line in measured.lines(name, budget)]:
                for column in columns:
                    yield from measured.compare(line, vanilla, column, -1)

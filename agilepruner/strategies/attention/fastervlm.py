"""FasterVLM: keep what the CLS token looks at."""

from dataclasses import dataclass
from typing import ClassVar

from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, top


@dataclass(frozen=True)
class FasterVLM(Strategy):
    """Keep the patches that the CLS token attends to most.

    FasterVLM (arXiv 2412.01818v1): mean over heads of the penultimate ViT layer's CLS row, top-K;
    a higher score is a more important patch.
    """

    family: ClassVar = "attention"
    label: ClassVar = "FasterVLM"
    golden: ClassVar = "Theia-4869/FasterVLM"
    needs: ClassVar = {"attention"}
    paper: ClassVar = "2412.01818"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        scores = tokens.attention.float().mean(dim=1)  # (B, H, N) -> (B, N)
        return keep(top(scores, budget))

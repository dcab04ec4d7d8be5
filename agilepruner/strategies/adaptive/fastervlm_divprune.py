"""FasterVLM + DivPrune: a share by attention, the rest by diversity."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, phases_of, top
from agilepruner.strategies.diversity.divprune import most_isolated
from agilepruner.strategies.geometry import cosine_distances, farthest_first


@dataclass(frozen=True)
class FasterVLMDivPrune(Strategy):
    """Keep the most attended patches, then add patches far from all that are kept.

    The hybrid of AgilePruner's analysis (arXiv 2603.01236, Table 3); share 0 is DivPrune, share 1
    is FasterVLM.

    Attributes:
        share: of the budget, chosen by attention.
    """

    share: Annotated[float, Range(0, 1)] = 0.5

    family: ClassVar = "adaptive"
    label: ClassVar = "FasterVLM + DivPrune"
    needs: ClassVar = {"attention", "projected"}
    paper: ClassVar = "2603.01236"
    phases: ClassVar = ("attention", "diversity")
    choice: ClassVar = "DivPrune continues from the attention tokens; a fixed share is 0.5"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        attended = top(tokens.attention.float().mean(dim=1), int(budget * self.share))
        distances = cosine_distances(tokens.projected)
        start = attended if attended.shape[1] else most_isolated(distances)
        sizes = [attended.shape[1], budget - attended.shape[1]]
        return keep(farthest_first(distances, start, budget), phases_of(sizes))

"""DivPrune: keep tokens that are far from each other."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep
from agilepruner.strategies.geometry import cosine_distances, farthest_first


@dataclass(frozen=True)
class DivPrune(Strategy):
    """Greedy max-min diversity over the cosine distances of the projected tokens.

    DivPrune (arXiv 2503.02175): start at the token whose nearest neighbour is farthest, then
    repeatedly add the token whose nearest selected token is farthest.

    Differs from the released code: a selected token is never selected again, so with exact
    duplicates the budget is still met with distinct tokens; half-precision features are compared
    in float32.
    """

    family: ClassVar = "diversity"
    label: ClassVar = "DivPrune"
    golden: ClassVar = "vbdi/divprune"
    needs: ClassVar = {"projected"}
    paper: ClassVar = "2503.02175"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        distances = cosine_distances(tokens.projected)  # (B, N, N)
        return keep(farthest_first(distances, most_isolated(distances), budget))


def most_isolated(distances: torch.Tensor) -> torch.Tensor:
    """(B, 1) the token whose nearest other token is farthest; overwrites the diagonal."""
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return distances.amin(dim=2).argmax(dim=1, keepdim=True)

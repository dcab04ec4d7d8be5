"""DART before the language model: few strong tokens, and those least like them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, top
from agilepruner.strategies.geometry import unit


@dataclass(frozen=True)
class DartEmbedding(Strategy):
    """Keep the pivots, and for each pivot in turn the tokens with the lowest cosine to it.

    DART (arXiv 2502.11494) on the language model's input embeddings, as TensorRT-Edge-LLM has it
    ("embedding-level variant"): pivots are the tokens with the largest L1 norm, strongest first;
    each takes an equal share, rounded up, of what the budget still lacks. The published method,
    inside the language model, is ``dart``.

    Differs from TensorRT-Edge-LLM, which adds four text tokens as pivots behind the four of the
    image and keeps the positions of the tokens: strategies before the language model do not see
    the prompt's text, and positions are the model's (LLaVA: reset; Qwen: kept).

    Attributes:
        pivots: number of pivots.
    """

    pivots: Annotated[int, Range(1, 1000)] = 4

    family: ClassVar = "diversity"
    label: ClassVar = "DART (embeddings)"
    needs: ClassVar = {"projected"}
    paper: ClassVar = "2502.11494"
    choice: ClassVar = "image pivots alone: before the language model there is no text to see"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        x = tokens.projected.float()  # (B, N, D)
        pivots = top(x.abs().sum(dim=2), min(self.pivots, budget))  # (B, P)
        directions = unit(x)
        chosen = directions.gather(1, pivots[:, :, None].expand(-1, -1, x.shape[2]))
        taken = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        taken.scatter_(1, pivots, True)
        count = pivots.shape[1]
        shares, lacking = [], budget - count
        for waiting in range(count, 0, -1):
            shares.append(-(-lacking // waiting))
            lacking -= shares[-1]
        kept = least_similar(chosen @ directions.mT, taken, shares)
        return keep(kept.nonzero()[:, 1].view(tokens.batch, budget))

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """The pivots with all tokens."""
        return 2.0 * min(self.pivots, budget) * tokens * widths["projected"]


def least_similar(similarity: Tensor, taken: Tensor, shares: Sequence[int]) -> Tensor:
    """For each pivot in turn, take the tokens least similar to it that are not yet taken.

    Args:
        similarity: (B, P, N) of pivots and tokens.
        taken: (B, N) bool, tokens taken before; together with the shares, at most N.
        shares: (P,) how many tokens each pivot takes.

    Returns:
        (B, N) bool, all that are taken.
    """
    taken = taken.clone()
    for row, share in zip(similarity.unbind(dim=1), shares):
        distance = (-row).masked_fill(taken, -torch.inf)
        taken.scatter_(1, top(distance, share), True)
    return taken

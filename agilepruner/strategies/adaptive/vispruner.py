"""VisPruner: half by attention, half by removing similar patches."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, phases_of
from agilepruner.strategies.geometry import unit

PER_ROUND = 8  # tokens removed per round, hard-coded in the released code


@dataclass(frozen=True)
class VisPruner(Strategy):
    """Keep the most attended patches, then thin the others until the budget is met.

    VisPruner (arXiv 2412.01818): the others, in descending attention, are split alternately in two
    halves; the 8 of the first half most similar (cosine of the penultimate features) to any of the
    second half go, and the first half's remainder, most similar first, goes in front of the second
    for the next round.

    Differs from the released code where that fails: an odd number of others, and fewer than 8 to
    remove from. The rule is chaotic: a similarity off by one bit can change half of the diverse
    tokens, so equality with the released code holds in float32 on the same linear algebra, and
    equal similarities are ordered by the same unstable sort.

    Attributes:
        share: of the budget, chosen by attention.
    """

    share: Annotated[float, Range(0, 1)] = 0.5

    family: ClassVar = "adaptive"
    label: ClassVar = "VisPruner"
    golden: ClassVar = "Theia-4869/VisPruner"
    needs: ClassVar = {"attention", "features"}
    paper: ClassVar = "2412.01818"
    phases: ClassVar = ("attention", "diversity")

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        order = tokens.attention.float().mean(dim=1).argsort(dim=1, descending=True)  # (B, N)
        important = int(budget * self.share)
        attended, others = order[:, :important], order[:, important:]
        diverse = thin(tokens.features, others, budget - important)
        return keep(torch.cat([attended, diverse], 1), phases_of([important, budget - important]))


def thin(features: Tensor, others: Tensor, count: int) -> Tensor:
    """Rounds of removal: (B, N, C) features, (B, R) ranked patches -> (B, count) that stay."""
    if count == 0:
        return others[:, :0]
    directions = unit(features)
    cosines = directions @ directions.mT  # all rounds share it
    while (remove := min(PER_ROUND, others.shape[1] - count, (others.shape[1] + 1) // 2)) > 0:
        first, second = others[:, 0::2], others[:, 1::2]
        similar = _between(cosines, directions, first, second).amax(dim=2)
        ranked = similar.argsort(dim=1, descending=True)
        others = torch.cat([first.gather(1, ranked[:, remove:]), second], dim=1)
    return others


def _between(cosines: Tensor, directions: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(B, F, S) cosines of two groups of patches.

    Small products are computed as such: BLAS rounds them in another order than large ones, and
    the released code, which computes every round's product, is sensitive to that last bit.
    """
    batch = torch.arange(len(first), device=first.device)[:, None]
    if first.shape[1] <= 16:
        return directions[batch, first] @ directions[batch, second].mT
    return cosines[batch[:, :, None], first[:, :, None], second[:, None, :]]

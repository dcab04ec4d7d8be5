"""HoloV: every strip of the image gets its share of the budget."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, top
from agilepruner.strategies.groups import ranks_within


@dataclass(frozen=True)
class HoloV(Strategy):
    """Share the budget among strips by their mean attention; in each, keep the most attended.

    HoloV (NeurIPS 2025, arXiv 2510.02912), as its code computes it: strips are runs of the raster
    sequence (36 patches are one and a half rows), a strip's share is its score over the sum,
    rounded down, and what is left over goes one each to the heaviest. The score is the mean of
    1000 * attention + 0.09 * v * c with v the variance of the cosines in the strip, but c scales
    the second term to the mean of the first, so that it is 1090 * mean attention whatever the
    features are: they have no effect (short of strips whose cosines are all below a hundredth or
    so, where an epsilon counts). A strip of a single patch scores its attention, unscaled.

    Differs from the released code, which gives a strip no more than its patches and fills the
    rest of the budget with tokens of zeros: here the most attended patches left fill it. Output in
    raster order; the released code orders each strip by attention.

    Attributes:
        strips: number of strips; None: 1024 / 576 * N / budget rounded down, at least 1, which is
            16 at 64 of 576 tokens, the released setting.
    """

    strips: Annotated[int, Range(1, 10000)] | None = None

    family: ClassVar = "attention"
    label: ClassVar = "HoloV"
    needs: ClassVar = {"attention"}
    paper: ClassVar = "2510.02912"
    golden: ClassVar = "obananas/HoloV"
    choice: ClassVar = (
        "what a full strip cannot take goes to the most attended patches left; the number of "
        "strips follows the budget as in the released Qwen file"
    )
    equivariant: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        n = tokens.count
        attention = tokens.attention.float().mean(dim=1).double()  # (B, N)
        strips = min(self.strips or max(1, 1024 * n // (576 * budget)), n)
        number = torch.arange(strips, device=attention.device)
        sizes = n // strips + (number < n % strips).long()  # (P,)
        strip = number.repeat_interleave(sizes)  # (N,)

        total = attention.new_zeros(tokens.batch, strips).index_add_(1, strip, attention)
        score = total / sizes * torch.where(sizes > 1, 1090.0, 1.0)
        weight = score / (score.sum(dim=1, keepdim=True) + 1e-6)
        give = (weight * budget).floor().long()  # (B, P)
        over = budget - give.sum(dim=1, keepdim=True)
        give += top(weight, strips).argsort(dim=1) < over

        kept = ranks_within(attention, strip) < give[:, strip]  # (B, N), at most the budget
        return keep(top(attention.masked_fill(kept, torch.inf), budget))

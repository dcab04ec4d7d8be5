"""DART: after the first layers, keep few strong tokens and those least like them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.ranges import Range
from agilepruner.strategies.base import top
from agilepruner.strategies.decoder.schedule import DecoderStrategy, Stage, at_depths, solve
from agilepruner.strategies.diversity.dart_embedding import least_similar
from agilepruner.strategies.geometry import unit


@dataclass(frozen=True)
class DART(DecoderStrategy):
    """Keep pivots by the strength of their keys, then for each the tokens least similar to it.

    DART (EMNLP 2025, arXiv 2502.11494): before layer K, pivots are the image tokens and the tokens
    behind the image whose rotated keys of layer K - 1 have the largest L1 norm. Pivot after pivot
    takes its share of the image tokens, those with the lowest cosine to it between the outputs of
    that layer, behind the model's final norm. Pivots of the image stay; positions stay as they
    were. No attention is read. Pivots come in the order of a Python set of their positions, as in
    the released code: CPython's hash table decides it, and other orders change up to 16 tokens.

    Differs from the released code in how many tokens stay: that keeps 4 + 8 * floor(n / 8) for a
    setting of n, and counts neither the 4 nor the unpruned first layers. Here the number follows
    from the budget, an average over layers, and what the pivots cannot share equally goes one each
    to the first of them. With fewer tokens behind the image than pivots of the text, where the code
    fails, all of them are pivots. On LLaVA-NeXT all image tokens take part (the released
    evaluation prunes the first 576 only).

    Attributes:
        depth: K as a fraction of the layers.
        image_pivots: pivots among the image tokens.
        text_pivots: pivots among the tokens behind the image.
    """

    depth: Annotated[float, Range(0, 1)] = 2 / 32
    image_pivots: Annotated[int, Range(0, 1000)] = 4
    text_pivots: Annotated[int, Range(0, 1000)] = 4

    label: ClassVar = "DART"
    paper: ClassVar = "2502.11494"
    golden: ClassVar = "VTC-Bench's copy of DART"
    choice: ClassVar = (
        "K = 2 of 32 layers, the same fraction at other depths; the budget is an average over "
        "layers and met exactly, unequal shares going to the first pivots"
    )
    ranks: ClassVar = "states"
    positions: ClassVar = "keep"
    decoding: ClassVar = "original"

    def plan(self, layers: int, tokens: int, budget: int) -> tuple[Stage, ...]:
        (layer,) = at_depths([self.depth], layers)

        def build(ratio: float) -> tuple[Stage, ...]:
            return (Stage(layer, max(1, int(tokens * ratio))),)

        return solve(self.label, build, layers, tokens, budget)

    def choose(self, states: Tensor, keys: Tensor, first: int, count: int, keep: int) -> Tensor:
        pivots, kept = self.pivots(keys, first, count, keep)
        image = states[first : first + count]
        taken = torch.zeros(1, count, dtype=torch.bool, device=states.device)
        taken[0, kept] = True
        each, more = divmod(keep - len(kept), len(pivots))
        shares = [each + (number < more) for number in range(len(pivots))]
        similarity = unit(states[pivots]) @ unit(image).mT  # (P, V)
        return least_similar(similarity[None], taken, shares)[0].nonzero()[:, 0]

    def pivots(
        self, keys: Tensor, first: int, count: int, keep: int
    ) -> tuple[list[int], list[int]]:
        """Positions of all pivots in their order, and the numbers of those among the image."""
        strength = keys.float().abs().sum(dim=1)
        end = first + count
        image = top(strength[first:end], min(self.image_pivots, keep)).tolist()
        text = top(strength[end:], self.text_pivots).tolist()
        positions = [first + number for number in image] + [end + number for number in text]
        return list(set(positions)), image

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """The pivots with all image tokens."""
        return 2.0 * (self.image_pivots + self.text_pivots) * tokens * widths["projected"]

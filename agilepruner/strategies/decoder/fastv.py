"""FastV: after the first layers, keep what the last prompt token attends to."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from agilepruner.ranges import Range
from agilepruner.strategies.decoder.schedule import DecoderStrategy, Stage, at_depths, solve


@dataclass(frozen=True)
class FastV(DecoderStrategy):
    """Drop visual tokens once, before layer K, by the attention of layer K - 1.

    FastV (ECCV 2024, arXiv 2403.06764): score = attention of the last prompt token, mean over
    heads; positions stay as they were. Tokens kept after layer K follow from the budget:
    R = (layers * budget - K * tokens) / (layers - K), rounded down.

    Differs from the released scripts, which rank from one token later (36 instead of 35) and so
    always keep the first image token: here exactly the image tokens are ranked.

    Attributes:
        depth: K as a fraction of the layers.
    """

    depth: Annotated[float, Range(0, 1)] = 2 / 32

    label: ClassVar = "FastV"
    golden: ClassVar = "pkunlp-icler/FastV"
    paper: ClassVar = "2403.06764"
    choice: ClassVar = "K = 2 of 32 layers, the same fraction at other depths"
    ranks: ClassVar = "previous"
    positions: ClassVar = "keep"
    decoding: ClassVar = "original"

    def plan(self, layers: int, tokens: int, budget: int) -> tuple[Stage, ...]:
        (layer,) = at_depths([self.depth], layers)

        def build(ratio: float) -> tuple[Stage, ...]:
            return (Stage(layer, max(1, int(tokens * ratio))),)

        return solve(self.label, build, layers, tokens, budget)

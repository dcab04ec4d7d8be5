"""PyramidDrop: a fixed ratio of the visual tokens goes at each of several depths."""

from dataclasses import dataclass
from typing import ClassVar

from agilepruner.strategies.decoder.schedule import DecoderStrategy, Depths, Stage, at_depths, solve


@dataclass(frozen=True)
class PyramidDrop(DecoderStrategy):
    """Keep int(tokens * ratio^s) after stage s, by what the next layer's last token attends to.

    PyramidDrop (CVPR 2025, arXiv 2410.17247): score = softmax over the whole sequence of the last
    prompt token's query with the keys of the layer about to run, mean over heads; positions are
    reset, and generated tokens continue them per layer. The ratio follows from the budget: with
    the released depths, a budget of 270 of 576 gives the released ratio of 0.5.

    Attributes:
        depths: where the stages are, as fractions of the layers.
    """

    depths: Depths = (1 / 16, 3 / 8, 11 / 16)

    label: ClassVar = "PyramidDrop"
    golden: ClassVar = "Cooperx521/PyramidDrop"
    paper: ClassVar = "2410.17247"
    choice: ClassVar = (
        "stages at 1/16, 3/8 and 11/16 of the depth and one ratio solved for the budget: the "
        "released depths 1/4, 1/2 and 3/4 cannot go below a quarter of the tokens on average"
    )
    ranks: ClassVar = "next"
    positions: ClassVar = "reset"
    decoding: ClassVar = "compact"

    def plan(self, layers: int, tokens: int, budget: int) -> tuple[Stage, ...]:
        at = at_depths(self.depths, layers)

        def build(ratio: float) -> tuple[Stage, ...]:
            return tuple(
                Stage(layer, max(1, int(tokens * ratio**power)))
                for power, layer in enumerate(at, 1)
            )

        return solve(self.label, build, layers, tokens, budget)

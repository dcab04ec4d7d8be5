"""VScan, both stages: merged before the language model, and pruned again in the middle of it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from agilepruner.ranges import Range
from agilepruner.strategies.attention.vscan import VScan
from agilepruner.strategies.base import Selection, VisualTokens
from agilepruner.strategies.decoder.schedule import DecoderStrategy, Stage, solve


@dataclass(frozen=True)
class VScanFull(DecoderStrategy):
    """One and a half budgets enter the language model; half a budget is left in its second half.

    VScan (TMLR 2026, arXiv 2505.22654): the first stage is ``vscan``; the second, after half of the
    layers, keeps the tokens that the last prompt token's query would attend to most in the next
    one, mean over heads, as PyramidDrop does; positions are reset. 96 tokens that become 32 average
    64, the released setting.

    Differs from the released scripts for LLaVA-NeXT, which rank the first 96 image tokens only, by
    the query of an image token, and keep all others: here all are ranked, by the last prompt token.

    Attributes:
        window, global_ratio: of the first stage, see ``VScan``.
        depth: where the second stage is, as a fraction of the layers, rounded down.
        enters: tokens that enter, in budgets.
    """

    window: Annotated[int, Range(1, 100)] = 6
    global_ratio: Annotated[float, Range(0, 1)] = 0.5
    depth: Annotated[float, Range(0, 1)] = 16 / 32
    enters: Annotated[float, Range(1.1, 10)] = 1.5

    label: ClassVar = "VScan"
    needs: ClassVar = VScan.needs
    merges: ClassVar = True
    paper: ClassVar = "2505.22654"
    golden: ClassVar = "Tencent/SelfEvolvingAgent"
    choice: ClassVar = (
        "the released ratios, 3/2 and 1/2 of the budget around half of the depth, at every budget; "
        "local tokens shared out over windows as in the released Qwen file"
    )
    ranks: ClassVar = "next"
    positions: ClassVar = "reset"
    decoding: ClassVar = "compact"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        first = VScan(self.window, self.global_ratio)
        return first(tokens, self.entering(tokens.count, budget))

    def entering(self, tokens: int, budget: int) -> int:
        return min(tokens, int(self.enters * budget))

    def plan(self, layers: int, tokens: int, budget: int) -> tuple[Stage, ...]:
        tokens = self.entering(tokens, budget)
        layer = min(max(1, int(self.depth * layers)), layers - 1)

        def build(ratio: float) -> tuple[Stage, ...]:
            return (Stage(layer, max(1, int(tokens * ratio))),)

        return solve(self.label, build, layers, tokens, budget)

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """Those of the first stage."""
        return VScan().flops(tokens, widths, self.entering(tokens, budget))

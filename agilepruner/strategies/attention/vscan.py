"""VScan: attended patches of every window and of the whole image; the others join them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, top
from agilepruner.strategies.geometry import unit
from agilepruner.strategies.groups import ranks_within


@dataclass(frozen=True)
class VScan(Strategy):
    """Half of the budget by shallow attention, spread over windows; half by deep attention.

    VScan (TMLR 2026, arXiv 2505.22654), its first stage, before the language model: local tokens
    are the most attended of each window at a shallow layer (the 6th of 24), global ones the most
    attended of the others at the layer of the features. Every dropped token joins the kept one
    with the highest cosine, AFTER the projector, and a kept token becomes the mean of itself and
    its joiners. The second stage, inside the language model, is in ``vscan_full``.

    A window gives at most its share of the local tokens, rounded up, and the most attended of these
    come first: the rule of the released Qwen file. Differs from the LLaVA file where that rounds
    down (98 tokens of 100, an error below 32), and counts kept tokens twice among attention of
    exactly 0: here the budget is met.

    Attributes:
        window: side of a window in tokens; what does not fill one belongs to the last.
        global_ratio: share of the budget for global tokens.
    """

    window: Annotated[int, Range(1, 100)] = 6
    global_ratio: Annotated[float, Range(0, 1)] = 0.5

    family: ClassVar = "attention"
    label: ClassVar = "VScan (stage 1)"
    needs: ClassVar = {"attention", "attention_local", "projected"}
    merges: ClassVar = True
    paper: ClassVar = "2505.22654"
    golden: ClassVar = "Tencent/SelfEvolvingAgent"
    choice: ClassVar = (
        "local tokens shared out over windows as in the released Qwen file, which meets every "
        "budget; the shallow layer is at 1/4 of the tower's depth"
    )
    equivariant: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        kept = self.patches(tokens, budget)  # (B, K)
        directions = unit(tokens.projected)
        chosen = directions.gather(1, kept[:, :, None].expand(-1, -1, directions.shape[2]))
        joins = (directions @ chosen.mT).argmax(dim=2)  # (B, N) which kept token
        own = torch.arange(budget, device=kept.device).expand_as(kept)
        member = torch.nn.functional.one_hot(joins.scatter(1, kept, own), budget).mT.float()
        return Selection(kept, member / member.sum(dim=2, keepdim=True), projected=True)

    def patches(self, tokens: VisualTokens, budget: int) -> Tensor:
        """(B, K) patches that stay, in raster order."""
        shallow = tokens.attention_local.float().mean(dim=1)  # (B, N)
        deep = tokens.attention.float().mean(dim=1)
        window = windows(tokens.grid, self.window).to(deep.device)  # (N,)
        wanted = int(budget * (1 - self.global_ratio))
        share = -(-wanted // (int(window.max()) + 1))
        strongest = ranks_within(shallow, window) < share
        order = top(shallow.masked_fill(~strongest, -torch.inf), wanted)
        local = torch.zeros_like(strongest).scatter_(1, order, True) & strongest
        return top(deep.masked_fill(local, torch.inf), budget).sort(dim=1).values

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """Kept with all tokens, and the mixing, both after the projector."""
        return 2 * 2.0 * min(budget, tokens) * tokens * widths["projected"]


def windows(grid: tuple[int, int], side: int) -> Tensor:
    """(N,) window of each token of a grid; rows and columns left over belong to the last one."""
    down, across = (max(1, length // side) for length in grid)
    row = (torch.arange(grid[0]) // side).clamp_max(down - 1)
    column = (torch.arange(grid[1]) // side).clamp_max(across - 1)
    return (row[:, None] * across + column).flatten()

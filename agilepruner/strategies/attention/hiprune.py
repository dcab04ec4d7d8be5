"""HiPrune: objects by a middle layer, with their neighbours; the rest by a deep one."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, phases_of, top


@dataclass(frozen=True)
class HiPrune(Strategy):
    """Keep anchors and the patches around them, and fill up with what deep layers attend to.

    HiPrune (arXiv 2508.00553): anchors are the round(budget * alpha / 5) patches that receive most
    attention at the object layer, the 9th of 24; buffers the patches left, right, above and below
    each anchor; registers the patches that receive most at the layer of the features.

    Differs from the released code where an anchor is at the edge of the image: its neighbours are
    those that exist, while the code, which counts patches in one line and clamps to [0, 575], takes
    the first patch of the next row, and the first or last patch of the image (``wrap`` does the
    same). Grids other than 24 x 24 get their own neighbours; the code keeps 24 and 575. Anchors and
    buffers that exceed the budget are cut, anchors first, then the buffers of the strongest; the
    code fails. Its Qwen file, which may count anchors twice, keeps fewer tokens than asked for.

    Attributes:
        alpha: share of the budget for anchors and buffers.
        wrap: take the neighbours as the released code does.
    """

    alpha: Annotated[float, Range(0, 1)] = 0.1
    wrap: bool = False

    family: ClassVar = "attention"
    label: ClassVar = "HiPrune"
    needs: ClassVar = {"received_object", "received_deep"}
    paper: ClassVar = "2508.00553"
    golden: ClassVar = "Danielement321/HiPrune"
    choice: ClassVar = (
        "neighbours end at the image's edge (the released code wraps to the next row); the object "
        "layer is at 3/8 of the tower's depth"
    )
    equivariant: ClassVar = False
    phases: ClassVar = ("anchor", "buffer", "register")

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        count = round(budget * self.alpha / 5)
        anchors = top(tokens.received_object.float(), count).tolist()
        registers = top(tokens.received_deep.float(), tokens.count).tolist()
        rows, phases = [], []
        for image, ranked in zip(anchors, registers):
            around = [near for anchor in image for near in self._neighbours(anchor, tokens.grid)]
            first = list(dict.fromkeys([*image, *around]))[:budget]
            taken = set(first)
            rows.append(first + [p for p in ranked if p not in taken][: budget - len(first)])
            phases.append(phases_of([count, len(first) - count, budget - len(first)]))
        return keep(torch.tensor(rows, device=tokens.device), torch.stack(phases))

    def _neighbours(self, patch: int, grid: tuple[int, int]) -> list[int]:
        """Left, right, above and below."""
        rows, columns = grid
        if self.wrap:
            last = rows * columns - 1
            steps = (-1, 1, -columns, columns)
            return [min(max(patch + step, 0), last) for step in steps]
        row, column = divmod(patch, columns)
        inside = {
            -1: column > 0,
            1: column < columns - 1,
            -columns: row > 0,
            columns: row < rows - 1,
        }
        return [patch + step for step, exists in inside.items() if exists]

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """The attention maps of two layers, which fused attention does not keep."""
        return 2 * 2.0 * (tokens + 1) ** 2 * widths["features"]

"""Average pooling: every patch counts, in fewer tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from agilepruner.strategies.base import Selection, Strategy, VisualTokens
from agilepruner.strategies.baseline.tiling import tiling


@dataclass(frozen=True)
class Pooling(Strategy):
    """Average the features of each of ``budget`` near-equal cells of the grid.

    With a square budget that divides the grid this is ``avg_pool2d``.
    """

    family: ClassVar = "baseline"
    label: ClassVar = "Average pooling"
    needs: ClassVar = {"features"}
    merges: ClassVar = True
    choice: ClassVar = (
        "before the projector, over a near-square tiling with as many cells as tokens"
    )
    equivariant: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        rows, columns = tokens.grid
        weights = torch.zeros(budget, rows, columns)
        centres = []
        for cell, (r, c) in zip(weights, tiling(tokens.grid, budget)):
            cell[r.start : r.stop, c.start : c.stop] = 1 / (len(r) * len(c))
            centres.append(r[len(r) // 2] * columns + c[len(c) // 2])
        indices = torch.tensor(centres, device=tokens.device).expand(tokens.batch, -1)
        weights = weights.view(budget, -1).to(tokens.device)
        return Selection(indices, weights.expand(tokens.batch, -1, -1))

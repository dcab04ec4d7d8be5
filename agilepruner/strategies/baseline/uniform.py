"""Uniform grid: evenly spaced patches."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep
from agilepruner.strategies.baseline.tiling import tiling


@dataclass(frozen=True)
class Uniform(Strategy):
    """Keep the patch at the centre of each of ``budget`` near-equal cells of the grid."""

    family: ClassVar = "baseline"
    label: ClassVar = "Uniform grid"
    choice: ClassVar = "centre patches of a near-square tiling with exactly as many cells as tokens"
    equivariant: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        columns = tokens.grid[1]
        cells = tiling(tokens.grid, budget)
        centres = [rows[len(rows) // 2] * columns + cols[len(cols) // 2] for rows, cols in cells]
        return keep(torch.tensor(centres, device=tokens.device).expand(tokens.batch, -1))

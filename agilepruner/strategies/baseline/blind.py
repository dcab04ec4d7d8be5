"""Blind: what the language model answers without seeing the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep_all


@dataclass(frozen=True)
class Blind(Strategy):
    """Replace all N visual tokens by the projector's answer to zero features.

    Measures how much of a score is language prior: a strategy that is no better than this one has
    kept nothing of use. The prompt keeps its full length, so only the content is gone.
    """

    family: ClassVar = "baseline"
    label: ClassVar = "Blind (no image)"
    merges: ClassVar = True
    choice: ClassVar = (
        "all N tokens kept in number, their features set to zero before the projector"
    )
    budgeted: ClassVar = False
    drops: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        every = keep_all(tokens).indices  # (B, N)
        zero = torch.zeros(1, device=every.device)
        return Selection(every, zero.expand(*every.shape, tokens.count))  # (B, N, N), one number

    def promise(self, tokens: int, budget: int, layers: int) -> list[int]:
        return [tokens] * layers

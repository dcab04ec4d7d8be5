"""Vanilla: the unpruned model, the reference of every table."""

from dataclasses import dataclass
from typing import ClassVar

from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep_all


@dataclass(frozen=True)
class Vanilla(Strategy):
    """Keep every visual token, whatever the budget."""

    family: ClassVar = "baseline"
    label: ClassVar = "Vanilla"
    budgeted: ClassVar = False
    drops: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        return keep_all(tokens)

    def promise(self, tokens: int, budget: int, layers: int) -> list[int]:
        return [tokens] * layers

"""Resized image: the vision tower itself gives about as many tokens as the budget."""

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from agilepruner.strategies.base import Selection, Strategy, VisualTokens


@dataclass(frozen=True)
class Resize(Strategy):
    """Encode a smaller image and keep all of its tokens.

    The plainest way to fewer tokens, and ahead of many pruning methods on common benchmarks
    (VTC-Bench, arXiv 2510.07143). It saves the tower's work too, as no pruning behind it does.

    Of an image whose own grid is R x C tokens, the smaller grid is sqrt(budget R / C) by
    sqrt(budget C / R), both rounded down: 11 x 11 for 128 of 24 x 24. Where an image is cut into
    tiles, that is done to each, with its share of the budget.
    """

    family: ClassVar = "baseline"
    label: ClassVar = "Resized image"
    needs: ClassVar = {"resolution"}
    choice: ClassVar = (
        "the largest grid of the image's shape within the budget, so that some budgets keep fewer "
        "tokens; tiles are resized one by one; position embeddings of the tower interpolated as "
        "transformers does"
    )
    drops: ClassVar = False
    equivariant: ClassVar = False

    def grid(self, own: tuple[int, int], budget: int) -> tuple[int, int]:
        rows, columns = own
        if budget >= rows * columns:
            return own
        smaller = max(1, isqrt(budget * rows // columns)), max(1, isqrt(budget * columns // rows))
        return min(smaller[0], budget // smaller[1]) or 1, min(smaller[1], budget)

    def promise(self, tokens: int, budget: int, layers: int) -> list[int]:
        """As ``Strategy``, for a square image; ``score.audit`` knows the grid of each."""
        return [tokens if budget >= tokens else isqrt(budget) ** 2] * layers

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        raise ValueError(
            f"{tokens.count} tokens for a budget of {budget}: the image was not encoded at the "
            "grid that this strategy asks for"
        )

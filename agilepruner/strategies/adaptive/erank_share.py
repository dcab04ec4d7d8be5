"""Erank-guided share: any hybrid strategy, its attention share set per image."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from agilepruner.complexity import effective_rank
from agilepruner.strategies.base import Selection, Strategy, VisualTokens


@dataclass(frozen=True)
class ErankShare(Strategy):
    """Give complex images more diversity: share = clip(centre + slope * (1 - erank / erank_avg)).

    The erank-guided enhancement of AgilePruner's analysis (arXiv 2603.01236), of which only "linear
    mapping" is published. A negative slope is the paper's "inverse" control.

    Attributes:
        inner: a strategy with a ``share`` of the budget chosen by attention.
        erank_avg: mean effective rank of the model's projected tokens over typical images.
        centre: share of an image of average effective rank.
        slope: how much a doubled effective rank lowers the share; negative for the inverse.
        low: least share.
        high: largest share.
    """

    inner: Any
    erank_avg: float = 90.0
    centre: float = 0.5
    slope: float = 0.5
    low: float = 0.1
    high: float = 0.9

    family: ClassVar = "adaptive"
    paper: ClassVar = "2603.01236"

    @property
    def label(self) -> str:  # type: ignore[override]
        """The inner strategy's name and the direction."""
        return f"{self.inner.label} + {'erank' if self.slope > 0 else 'inverse erank'}"

    @property
    def needs(self) -> set[str]:  # type: ignore[override]
        """What the inner strategy needs, and the tokens whose effective rank guides it."""
        return {*self.inner.needs, "projected"}

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """As the inner strategy."""
        return self.inner.merges

    @property
    def choice(self) -> str:  # type: ignore[override]
        """The mapping's constants, and the inner strategy's own choices."""
        own = (
            f"attention share = clip({self.centre} + {self.slope} * (1 - erank / {self.erank_avg}),"
            f" {self.low}, {self.high})"
        )
        return f"{own}; {self.inner.choice}" if self.inner.choice else own

    def share(self, tokens: VisualTokens) -> torch.Tensor:
        """(B,) attention share of each image."""
        complexity = effective_rank(tokens.projected) / self.erank_avg
        return (self.centre + self.slope * (1 - complexity)).clamp(self.low, self.high)

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        picked = [
            replace(self.inner, share=share).select(tokens[image], budget)
            for image, share in enumerate(self.share(tokens).tolist())
        ]
        indices = torch.cat([selection.indices for selection in picked])
        weights = [selection.weights for selection in picked if selection.weights is not None]
        return Selection(indices, torch.cat(weights) if weights else None)

"""Erank-guided share: any hybrid strategy, its attention share set per image."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch

from agilepruner.complexity import effective_rank
from agilepruner.errors import UserError
from agilepruner.ranges import Range, Rule
from agilepruner.strategies.base import Selection, Strategy, VisualTokens
from agilepruner.strategies.wrapping import Wrapping

hybrid = Rule(
    "a strategy with a share of the budget chosen by attention",
    lambda inner: isinstance(inner, Strategy) and hasattr(inner, "share"),
)


@dataclass(frozen=True)
class ErankShare(Wrapping):
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

    inner: Annotated[Any, hybrid]
    erank_avg: Annotated[float, Range(1, 10_000)] = 90.0
    centre: Annotated[float, Range(-10, 10)] = 0.5
    slope: Annotated[float, Range(-10, 10)] = 0.5
    low: Annotated[float, Range(0, 1)] = 0.1
    high: Annotated[float, Range(0, 1)] = 0.9

    family: ClassVar = "adaptive"
    paper: ClassVar = "2603.01236"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise UserError(
                f"ErankShare.low={self.low} is more than high={self.high}; no share is between."
            )

    @property
    def label(self) -> str:  # type: ignore[override]
        """The inner strategy's name and the direction."""
        direction = "erank" if self.slope > 0 else "inverse erank" if self.slope else "fixed share"
        return f"{self.inner.label} + {direction}"

    @property
    def needs(self) -> set[str]:  # type: ignore[override]
        """What the inner strategy needs, and the tokens whose effective rank guides it."""
        return {*self.inner.needs, "projected"}

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
        rank = tokens.once("effective rank", lambda: effective_rank(tokens.projected))
        complexity = rank / self.erank_avg
        return (self.centre + self.slope * (1 - complexity)).clamp(self.low, self.high)

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        picked = [
            replace(self.inner, share=share).select(tokens[image], budget)
            for image, share in enumerate(self.share(tokens).tolist())
        ]
        indices = torch.cat([selection.indices for selection in picked])
        weights = [selection.weights for selection in picked if selection.weights is not None]
        phases = [selection.phases for selection in picked if selection.phases is not None]
        return Selection(
            indices,
            torch.cat(weights) if weights else None,
            phases=torch.cat(phases) if phases else None,
        )

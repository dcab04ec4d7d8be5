"""A mean budget, spread over a benchmark's images by their complexity. Ours."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Annotated, Any, ClassVar, Literal

import torch

from agilepruner.errors import UserError
from agilepruner.ranges import Range, Rule
from agilepruner.strategies.base import Selection, Strategy, VisualTokens
from agilepruner.strategies.wrapping import Wrapping

budgeted = Rule(
    "a strategy that prunes before the language model and meets its budget",
    lambda inner: isinstance(inner, Strategy) and inner.budgeted and not inner.inside,
)
MEASURES = {"erank": "erank_input", "entropy": "entropy"}


@dataclass(frozen=True)
class SpreadBudget(Wrapping):
    """Give complex images more tokens and simple ones fewer, at the same mean.

    Why should the number of tokens be fixed? AgilePruner's Table 13 (arXiv 2603.01236) varies it;
    by which rule is not published, so this one is ours. The budget is a mean over the documents of
    a benchmark. Each image starts at ``floor``; the tokens left are handed out one by one, the next
    one to the image whose complexity ** power is largest per token that it has (Webster's method of
    apportionment), until it is at ``ceiling``, or has all its tokens, or the mean is reached.

    So the budgets of a benchmark are known, before the first answer, from the complexity of all its
    images. Guaranteed, of the tokens of a tile (and ``inner.extra`` on top):

    * mean: never above the budget, and below it by less than one token of the documents that share
      an image or a complexity: with one document per complexity it is the budget. (Images that are
      smaller than the budget may leave more unspent.)
    * floor and ceiling: no image has less than ceil(floor * budget) tokens, or more than
      floor(ceiling * budget), or more than it has.
    * monotone: of two images of one size the one with more complexity ** power never has fewer
      tokens; equal complexity has equal budgets.

    Attributes:
        inner: what chooses the tokens of an image at its own budget.
        by: effective rank of all projected tokens, or entropy of the CLS attention.
        power: 1: in proportion to complexity; 0: the same for all; negative: the inverse control.
        floor: least tokens of an image, as a share of the budget.
        ceiling: most tokens of an image, as a multiple of the budget.
    """

    inner: Annotated[Any, budgeted]
    by: Literal["erank", "entropy"] = "erank"
    power: Annotated[float, Range(-8, 8)] = 1.0
    floor: Annotated[float, Range(0, 1)] = 0.5
    ceiling: Annotated[float, Range(1, 1000)] = 2.0

    family: ClassVar = "adaptive"
    paper: ClassVar = "2603.01236"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner.apportions:
            raise UserError("SpreadBudget.inner is one itself: a budget is spread once.")

    @property
    def label(self) -> str:  # type: ignore[override]
        """The inner strategy's name and what its budget follows."""
        inverse = "inverse " if self.power < 0 else ""
        return f"{self.inner.label}, budget by {inverse}{self.by}"

    @property
    def needs(self) -> set[str]:  # type: ignore[override]
        """What the inner strategy needs, and what the complexity is of."""
        return {*self.inner.needs, "projected" if self.by == "erank" else "attention"}

    @property
    def apportions(self) -> str:  # type: ignore[override]
        """The measure of complexity, as journals name it."""
        return MEASURES[self.by]

    @property
    def choice(self) -> str:  # type: ignore[override]
        """The rule, and the inner strategy's own choices."""
        own = (
            f"tokens per image in proportion to {self.by} ** {self.power:g}, from {self.floor:g} "
            f"to {self.ceiling:g} of the budget, which is the mean over a benchmark's documents"
        )
        return f"{own}; {self.inner.choice}" if self.inner.choice else own

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        selection: Selection = self.inner.select(tokens, budget)
        return selection

    def budgets(
        self,
        complexity: Sequence[float],
        weights: Sequence[int],
        room: Sequence[int],
        budget: int,
    ) -> list[int]:
        """Tokens to keep of each image; see the class for what is guaranteed."""
        alike: dict[tuple[float, int], int] = defaultdict(int)  # (complexity, room) -> weight
        for value, most, weight in zip(complexity, room, weights):
            alike[value, most] += weight
        groups = sorted(alike, key=lambda group: (-self._claim(group[0]), group[1]))
        size = torch.tensor([alike[group] for group in groups])
        least = max(1, ceil(self.floor * budget))
        low = [min(least, most) for _, most in groups]
        high = [min(max(least, floor(self.ceiling * budget)), most) for _, most in groups]
        left = budget * int(size.sum()) - sum(a * int(b) for a, b in zip(low, size))

        step = torch.arange(min(low) + 1, max(high) + 1)[:, None]  # the token handed out
        claims = torch.tensor([self._claim(value) for value, _ in groups], dtype=torch.float64)
        priority = claims / (step - 0.5)  # (steps, groups)
        open_ = (step > torch.tensor(low)) & (step <= torch.tensor(high))
        # Of equal priorities the lower step and then the larger claim comes first.
        order = priority.flatten().argsort(descending=True, stable=True)
        order = order[open_.flatten()[order]]
        who = order % len(groups)
        given = who[size[who].cumsum(0) <= left]
        more = torch.bincount(given, minlength=len(groups)).tolist()
        found = {group: a + b for group, a, b in zip(groups, low, more)}
        return [found[group] for group in zip(complexity, room)]

    def _claim(self, value: float) -> float:
        """What an image's tokens are in proportion to."""
        return max(float(value), 1e-6) ** self.power

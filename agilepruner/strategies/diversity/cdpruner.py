"""CDPruner: tokens that are diverse given the question."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.linalg import gram, greedy_map
from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep
from agilepruner.strategies.geometry import unit

ALONE, JOINT = frozenset({"projected"}), frozenset({"image_embeds", "text_embeds"})
QUESTION = "relevance to the task's question with its instructions"


@dataclass(frozen=True)
class CDPruner(Strategy):
    """Greedy MAP of a determinantal point process, conditioned on the question.

    CDPruner (arXiv 2506.10967): kernel_ij = r_i cos(x_i, x_j) r_j over the projected tokens, with
    r the relevance of a patch to the question, the mean over text segments of MINUS its CLIP
    cosine (the sign of the released code), scaled to [0, 1]. Needs the CLIP text tower of the
    vision tower's own checkpoint (``models/clip.py``).

    Differs from the released code: once the kernel's rank is used up (more tokens than feature
    dimensions) the most relevant tokens fill the budget instead of NaN.

    Attributes:
        relevance_weight: w of the kernel cos(x_i, x_j) (w r_i r_j + 1 - w), as OpenVINO GenAI has
            it; 1 is the paper's. 0 is diversity alone: it needs no question and no joint space, so
            that every model can run it.
        joint_range: scale relevance over all rows of the batch together, as the released code
            does over the tiles of one image; False scales each row by itself.
    """

    relevance_weight: Annotated[float, Range(0, 1)] = 1.0
    joint_range: bool = False

    family: ClassVar = "diversity"
    golden: ClassVar = "Theia-4869/CDPruner"
    paper: ClassVar = "2506.10967"

    @property
    def choice(self) -> str:  # type: ignore[override]
        """Which text the patches are relevant to, where one counts."""
        return QUESTION if self.relevance_weight else ""

    @property
    def label(self) -> str:  # type: ignore[override]
        """The method's name, and that it does not see the question where it does not."""
        return self._named("CDPruner")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The joint space only where the question counts."""
        return ALONE | JOINT if self.relevance_weight else ALONE

    def _named(self, *words: str) -> str:
        """``CDPruner (by halves, no question)``."""
        name, *more = words
        more += [] if self.relevance_weight else ["no question"]
        return f"{name} ({', '.join(more)})" if more else name

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        return keep(self._diverse(unit(tokens.projected), self._relevance(tokens), budget))

    def _diverse(self, x: Tensor, relevance: Tensor | None, count: int) -> Tensor:
        """Tokens (B, count) from (B, N, D) unit rows and their (B, N) relevance, if it counts."""
        kernel = gram(x)  # (B, N, N)
        if relevance is None:  # rounding must not choose the first among equals
            kernel.diagonal(dim1=1, dim2=2).round_()
        else:
            weight, first, second = self.relevance_weight, relevance[:, :, None], relevance[:, None]
            if weight == 1:  # the products in the released code's order
                kernel.mul_(first).mul_(second)
            else:
                kernel.mul_(weight * first * second + (1 - weight))
        return greedy_map(kernel, count)

    def _relevance(self, tokens: VisualTokens) -> Tensor | None:
        """(B, N) in about [0, 1]; equal everywhere gives 1. None: it does not count."""
        if not self.relevance_weight:
            return None
        image, text = unit(tokens.image_embeds), unit(tokens.text_embeds)  # (B, N, E), (B, M, E)
        relevance = -(image @ text.mT).mean(dim=-1)
        over = (0, 1) if self.joint_range else (1,)
        low, high = relevance.amin(over, keepdim=True), relevance.amax(over, keepdim=True)
        scaled = (relevance - low + 1e-6) / (high - low)
        return torch.where(high > low, scaled, torch.ones_like(scaled))


@dataclass(frozen=True)
class CDPrunerHalves(CDPruner):
    """CDPruner on each half of the raster by itself, with half the budget each.

    What OpenVINO GenAI runs by default (its documentation of visual token pruning): the kernel is
    cut into two blocks that are searched in parallel, an equal number of tokens from each, and the
    selections are joined. As it says, not equivalent to CDPruner: the best tokens of one half
    cannot take the place of the other's.

    Differs from OpenVINO's pipeline in the relevance, which is CDPruner's here: OpenVINO, for Qwen
    alone, compares with the language model's embeddings of the prompt, scales each half by itself,
    and its samples weigh it by 0.5. It rounds odd budgets up.
    """

    equivariant: ClassVar = False

    @property
    def choice(self) -> str:  # type: ignore[override]
        """CDPruner's, and who has what cannot be halved."""
        odd = "odd budgets and odd numbers of tokens: one more for the first half"
        return f"{QUESTION}, scaled over the whole image; {odd}" if self.relevance_weight else odd

    @property
    def label(self) -> str:  # type: ignore[override]
        """As CDPruner's."""
        return self._named("CDPruner", "by halves")

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        x, middle = unit(tokens.projected), (tokens.count + 1) // 2
        relevance = self._relevance(tokens)
        halves = [slice(0, middle), slice(middle, None)]
        parts = [
            self._diverse(x[:, half], None if relevance is None else relevance[:, half], count)
            for half, count in zip(halves, ((budget + 1) // 2, budget // 2))
            if count
        ]
        parts[1:] = [middle + part for part in parts[1:]]
        return keep(torch.cat(parts, dim=1))

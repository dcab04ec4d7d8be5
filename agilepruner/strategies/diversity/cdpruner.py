"""CDPruner: tokens that are diverse given the question."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agilepruner.linalg import gram
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep
from agilepruner.strategies.geometry import greedy_map, unit


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
        joint_range: scale relevance over all rows of the batch together, as the released code
            does over the tiles of one image; False scales each row by itself.
    """

    joint_range: bool = False

    family: ClassVar = "diversity"
    label: ClassVar = "CDPruner"
    golden: ClassVar = "Theia-4869/CDPruner"
    needs: ClassVar = {"projected", "image_embeds", "text_embeds"}
    paper: ClassVar = "2506.10967"
    choice: ClassVar = "relevance to the task's question with its instructions"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        relevance = self._relevance(tokens.image_embeds, tokens.text_embeds)  # (B, N)
        return keep(diverse(unit(tokens.projected), relevance, budget))

    def _relevance(self, image: Tensor, text: Tensor) -> Tensor:
        """(B, N, E), (B, M, E) -> (B, N) in about [0, 1]; equal everywhere gives 1."""
        relevance = -(unit(image) @ unit(text).mT).mean(dim=-1)
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

    Differs from OpenVINO's pipeline in the relevance, which is CDPruner's here.
    """

    label: ClassVar = "CDPruner (by halves)"
    choice: ClassVar = (
        "relevance to the task's question with its instructions, scaled over the whole image; odd "
        "budgets and odd numbers of tokens: one more for the first half"
    )
    equivariant: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        relevance = self._relevance(tokens.image_embeds, tokens.text_embeds)  # (B, N)
        x, middle = unit(tokens.projected), (tokens.count + 1) // 2
        first = diverse(x[:, :middle], relevance[:, :middle], (budget + 1) // 2)
        if budget == 1:
            return keep(first)
        second = diverse(x[:, middle:], relevance[:, middle:], budget // 2)
        return keep(torch.cat([first, middle + second], dim=1))


def diverse(x: Tensor, relevance: Tensor, count: int) -> Tensor:
    """Tokens (B, count) that are diverse and relevant: (B, N, D) unit rows, (B, N) relevance."""
    kernel = gram(x)  # (B, N, N)
    kernel.mul_(relevance[:, :, None]).mul_(relevance[:, None, :])
    return greedy_map(kernel, count)

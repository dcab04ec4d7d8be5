"""CDPruner: tokens that are diverse given the question."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agilepruner.linalg import gram
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, top
from agilepruner.strategies.geometry import unit


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
        kernel = gram(unit(tokens.projected))  # (B, N, N)
        kernel.mul_(relevance[:, :, None]).mul_(relevance[:, None, :])
        return keep(greedy_map(kernel, budget))

    def _relevance(self, image: Tensor, text: Tensor) -> Tensor:
        """(B, N, E), (B, M, E) -> (B, N) in about [0, 1]; equal everywhere gives 1."""
        relevance = -(unit(image) @ unit(text).mT).mean(dim=-1)
        over = (0, 1) if self.joint_range else (1,)
        low, high = relevance.amin(over, keepdim=True), relevance.amax(over, keepdim=True)
        scaled = (relevance - low + 1e-6) / (high - low)
        return torch.where(high > low, scaled, torch.ones_like(scaled))


def greedy_map(kernel: Tensor, count: int) -> Tensor:
    """Greedy MAP inference of a DPP (Chen et al. 2018), (B, N, N) kernel -> (B, count) in order.

    Keeps, per token, its variance given the selected ones (the squared last entry of a growing
    Cholesky factor): each step takes the largest and updates the rest by one factor row. Where no
    variance is left, the largest kernel diagonals fill up. The order of the float32 operations is
    the released code's; no synchronisation with the device until the end.
    """
    batch, n, _ = kernel.shape
    quality = kernel.diagonal(dim1=1, dim2=2)
    with torch.inference_mode():  # less overhead per operation
        rows = kernel.reshape(batch * n, n)
        first_row = torch.arange(batch, device=kernel.device) * n  # where each image begins
        variance = quality.clone()  # (B, N)
        by_token = variance.view(-1)
        factors = kernel.new_empty(count, batch, n)
        columns, blocks = factors.view(count, -1), factors.transpose(0, 1)
        gains = kernel.new_empty(count, batch)
        order = torch.empty(count, batch, dtype=torch.long, device=kernel.device)
        at = torch.empty_like(first_row)
        for step, (chosen, factor) in enumerate(zip(order.unbind(), factors.unbind())):
            torch.argmax(variance, dim=1, out=chosen)
            torch.add(chosen, first_row, out=at)
            gain = torch.index_select(by_token, 0, at, out=gains[step])
            torch.index_select(rows, 0, at, out=factor)  # (B, N)
            if step:
                own = columns[:step].index_select(1, at).T[:, None]  # (B, 1, step)
                factor -= torch.bmm(own, blocks[:, :step])[:, 0]
            factor /= gain.sqrt()[:, None]
            variance -= factor.square()
            by_token.index_fill_(0, at, -torch.inf)
    order = order.T.clone()
    if not bool((gains > 0).all()):
        for chosen, gain, value in zip(order, gains.T, quality):
            sound = int((gain > 0).long().cumprod(0).sum())
            left = value.index_fill(0, chosen[:sound], -torch.inf)
            chosen[sound:] = top(left, count - sound)
    return order

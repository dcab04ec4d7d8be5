"""OTPrune: tokens whose similarities to all others span the most."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from agilepruner.linalg import gram, greedy_map
from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep


@dataclass(frozen=True)
class OTPrune(Strategy):
    """Greedy maximum of log det(I + gamma S S^T) over the projected tokens.

    OTPrune (CVPR 2026, arXiv 2602.20205): each CHANNEL is scaled to length 1 over the tokens, S
    is the Gram matrix of the tokens then, and the determinant grows by CDPruner's greedy step.

    Differs from the released code, which passes the tokens on in the iteration order of a Python
    set (mostly ascending, by accident) and chooses for the first image of a batch only: here
    raster order, each image by itself. A channel that is 0 for every token stays 0; the released
    code divides by it and keeps the first tokens of the image.

    Attributes:
        gamma: weight of the similarities against the identity.
    """

    gamma: Annotated[float, Range(1e-06, 100)] = 0.01

    family: ClassVar = "diversity"
    label: ClassVar = "OTPrune"
    needs: ClassVar = {"projected"}
    paper: ClassVar = "2602.20205"
    golden: ClassVar = "xiwenc1/OTPrune"
    choice: ClassVar = "raster order (the released code's is that of a Python set)"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        x = tokens.projected.float()
        length = x.square().sum(dim=1, keepdim=True).sqrt()  # (B, 1, D)
        similarity = gram(x / length.clamp_min(torch.finfo(torch.float32).tiny))  # (B, N, N)
        kernel = gram(similarity, self.gamma)  # gamma S S^T, as S is symmetric
        kernel.diagonal(dim1=1, dim2=2).add_(1)
        return keep(greedy_map(kernel, budget))

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """Two Gram matrices: of the tokens, and of their similarities."""
        return 2.0 * tokens**2 * (widths["projected"] + tokens)

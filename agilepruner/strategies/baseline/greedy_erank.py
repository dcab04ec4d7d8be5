"""Greedy effective rank: how diverse a selection of that size can be, whatever it is good for."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.linalg import centred, gram, one_core
from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep

TINY = 1e-6  # share of the largest variance below which a direction is rounding


@dataclass(frozen=True)
class GreedyErank(Strategy):
    """Add the patch that leaves the kept ones with the highest effective rank, one after the other.

    A yardstick for the diversity of other selections, no method: it takes k spectra for k tokens.
    Nobody knows the best subset; on the demo model comparing every patch at each step instead of a
    shortlist gained 0.5 % at 32 tokens. In seconds per image on one core: 0.04 at 32 tokens, 0.1 at
    64, 0.7 at 128.

    With the kept tokens' covariance in its eigenbasis, one more token adds b b^T to it (b has one
    more direction, out of their span). The diagonal of the sum is the spectrum to first order; the
    ``shortlist`` of patches that are best by it are compared by their exact spectra.

    Attributes:
        shortlist: patches compared exactly at each step.
    """

    shortlist: Annotated[int, Range(1, 10_000)] = 8

    family: ClassVar = "baseline"
    label: ClassVar = "Greedy erank"
    needs: ClassVar = {"projected"}
    choice: ClassVar = "starts from the patch farthest from the mean; 8 patches compared per step"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        products = gram(centred(tokens.projected))  # (B, N, N)
        lengths = products.diagonal(dim1=1, dim2=2)
        chosen = lengths.argmax(dim=1, keepdim=True)  # (B, 1)
        while chosen.shape[1] < budget:
            best = _next(products, lengths, chosen, self.shortlist)
            chosen = torch.cat([chosen, best[:, None]], dim=1)
        return keep(chosen)


def _next(products: Tensor, lengths: Tensor, chosen: Tensor, shortlist: int) -> Tensor:
    """The patch to add: (B, N, N) Gram, (B, N) its diagonal, (B, k) chosen -> (B,)."""
    n, k = products.shape[1], chosen.shape[1]
    rows = products.gather(1, chosen[:, :, None].expand(-1, -1, n))  # (B, k, N)
    own = rows.gather(2, chosen[:, None].expand(-1, k, -1))  # (B, k, k)
    level, mean = own.mean(dim=2, keepdim=True), own.mean(dim=(1, 2))[:, None]  # of the chosen
    across = rows.mean(dim=1)  # (B, N): inner products with the mean of the chosen
    inner = rows - across[:, None] - level + mean[:, None]  # of chosen and patch, minus that mean
    spread = (lengths - 2 * across + mean).scatter(1, chosen, -torch.inf)  # (B, N)
    if k == 1:
        return spread.argmax(dim=1)
    with one_core():
        variances, axes = torch.linalg.eigh(own - level - level.mT + mean[:, None])
    variances, axes = variances[:, 1:].clamp_min(0), axes[:, :, 1:]  # without the mean's own zero
    sound = variances > TINY * variances[:, -1:]
    scale = torch.where(sound, variances.clamp_min(1e-30).rsqrt(), 0)[:, :, None]
    weight = k / (k + 1)
    added = weight**0.5 * scale * (axes.mT @ inner)  # (B, k - 1, N)
    outside = (weight * spread - added.square().sum(dim=1)).clamp_min(0)
    added = torch.cat([added, outside.sqrt()[:, None]], dim=1)  # (B, k, N)
    variances = torch.cat([variances, torch.zeros_like(mean)], dim=1)[:, None]  # (B, 1, k)
    first_order = _entropy(variances + added.mT.square()).scatter(1, chosen, -torch.inf)
    listed = first_order.topk(min(shortlist, n - k), dim=1).indices  # (B, m)
    added = added.gather(2, listed[:, None].expand(-1, k, -1)).mT  # (B, m, k)
    whole = torch.diag_embed(variances) + added[..., None] * added[..., None, :]
    with one_core():
        exact = _entropy(torch.linalg.eigvalsh(whole))
    return listed.gather(1, exact.argmax(dim=1, keepdim=True))[:, 0]


def _entropy(variances: Tensor) -> Tensor:
    """Log of the effective rank, (..., k) -> (...)."""
    singular = variances.clamp_min(1e-12).sqrt()
    return torch.special.entr(singular / singular.sum(dim=-1, keepdim=True)).sum(dim=-1)

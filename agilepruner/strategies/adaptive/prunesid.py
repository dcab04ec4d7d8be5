"""PruneSID: groups of patches by principal component, the most attended of each that differ."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from agilepruner.linalg import gram, one_core
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, top
from agilepruner.strategies.geometry import unit

ROUNDING = 1e-12  # of weights, and of variances as a share of the largest


@dataclass(frozen=True)
class PruneSID(Strategy):
    """Share the budget among semantic groups; inside each, suppress what resembles better patches.

    PruneSID (ICLR 2026, arXiv 2603.09480): a patch belongs to the principal component, of a quarter
    as many as the budget, in which it weighs most (channels are samples, patches are variables, of
    the sigmoid of the penultimate features). In a group patches go by attention, those more similar
    to a better one than a threshold last; the threshold is the mean cosine of all pairs, times
    budget / 32. The number of patches that are not suppressed decides the shares. Output as
    released: the CLS token, then group after group, each in its order.

    Differs from the released code, whose components are random (``torch.pca_lowrank`` draws from
    the global generator: a fifth to half of the patches change with the seed): here they are exact.
    Budgets below 4, at which the code fails, have one group.
    """

    family: ClassVar = "adaptive"
    label: ClassVar = "PruneSID"
    needs: ClassVar = {"attention", "features", "cls"}
    merges: ClassVar = True
    paper: ClassVar = "2603.09480"
    golden: ClassVar = "ZhengyaoFang/PruneSID (with an exact SVD)"
    choice: ClassVar = "exact principal components (the released code's are random)"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        attention = tokens.attention.float().sum(dim=1)  # (B, N)
        weights = tokens.once("component weights", lambda: component_weights(tokens.features))
        groups = components(weights, max(1, budget // 4))
        cosines = gram(unit(tokens.features))  # (B, N, N)
        rows = [choose(g, a, c, budget) for g, a, c in zip(groups, attention, cosines)]
        indices = torch.tensor([[tokens.count, *row] for row in rows], device=tokens.device)
        return Selection(indices, torch.nn.functional.one_hot(indices, tokens.count + 1).float())

    def flops(self, tokens: int, widths: dict[str, int], budget: int) -> float:
        """Two Gram matrices, and about 9 N^3 for the components."""
        return 4.0 * tokens**2 * widths["features"] + 9.0 * tokens**3


def component_weights(features: Tensor) -> Tensor:
    """How much each patch weighs in each principal component, the strongest component first.

    Right singular vectors of the (C, N) samples, centred per patch, are eigenvectors of the
    patches' N x N Gram matrix. In double precision: rounding would move patches between groups.
    What is rounding all the same weighs nothing: a component without variance, and a patch whose
    channels are all equal, which so is in the first group.

    Args:
        features: (B, N, C).

    Returns:
        (B, N, M): absolute weights; M is a quarter of N (no budget asks for more), at most C.
    """
    x = features.float().sigmoid().double()
    products = gram(x - x.mean(dim=2, keepdim=True))
    with one_core():
        variances, vectors = torch.linalg.eigh(products)  # columns, weakest first
    count = min(max(1, features.shape[1] // 4), features.shape[2])
    weights = vectors.abs().masked_fill(vectors.abs() < ROUNDING, 0)
    there = variances > ROUNDING * variances[..., -1:]
    return (weights * there[..., None, :]).flip(-1)[..., :count]


def components(weights: Tensor, count: int) -> Tensor:
    """The component in which each patch weighs most, among the ``count`` strongest.

    Args:
        weights: (B, N, M) of ``component_weights``.
        count: how many components; there are no more than M.

    Returns:
        (B, N), long; 0 is the strongest.
    """
    return weights[..., :count].argmax(dim=2)


def choose(group: Tensor, attention: Tensor, cosine: Tensor, budget: int) -> list[int]:
    """Patches of one image in the order of the output, budget - 1 of them (CLS is the other).

    Args:
        group: (N,) number of each patch's group.
        attention: (N,) sum over heads.
        cosine: (N, N) of the penultimate features.
        budget: tokens to keep, CLS included.
    """
    n = len(group)
    pairs = cosine.double().triu(diagonal=1).sum() / (n * (n - 1) / 2)
    threshold = float(budget / 32 * pairs)
    number = group.tolist()
    members, first = suppress(number, attention, cosine > threshold)
    sizes = torch.tensor([len(each) for each in members])
    kept = torch.tensor(first)
    take = shares(sizes, kept, budget)
    return [patch for each, some in zip(members, take) for patch in each[:some]][: budget - 1]


def suppress(
    group: list[int], attention: Tensor, close: Tensor
) -> tuple[list[list[int]], list[int]]:
    """Non-maximum suppression by attention inside each group.

    Args:
        group: (N,) number of each patch's group.
        attention: (N,).
        close: (N, N) bool, which pairs resemble each other too much.

    Returns:
        per group its patches, those not suppressed first, each part by descending attention; and
        how many are not suppressed. Patches without attention never win.
    """
    order, looks = top(attention, len(group)).tolist(), attention.tolist()
    rows = close.cpu().numpy()
    winners: list[list[int]] = [[] for _ in range(max(group) + 1)]
    losers: list[list[int]] = [[] for _ in winners]
    for patch in order:
        mine = winners[group[patch]]
        if looks[patch] > 0 and not rows[patch, mine].any():
            mine.append(patch)
        else:
            losers[group[patch]].append(patch)
    return [a + b for a, b in zip(winners, losers)], [len(a) for a in winners]


def shares(sizes: Tensor, kept: Tensor, budget: int) -> list[int]:
    """Tokens of each group, budget - 1 in all: one each, the rest by what was not suppressed.

    Args:
        sizes: (G,) patches of each group.
        kept: (G,) those of them that are not suppressed.
        budget: tokens to keep, CLS included.
    """
    least = sizes.clamp_max(1)
    most = torch.minimum(sizes, kept).clamp_max(5 * ceil(budget / 64))
    while int(most.sum()) < budget:
        most = torch.minimum(most + 1, sizes)
    left = max(0, budget - int(least.sum()) - 1)
    # Float32 with sums in double, as the released code's on a CPU: rounding decides single tokens.
    share = (kept / kept.sum().clamp_min(1)).double().cumsum(dim=0).float()
    bounds = (share * left).round().long()
    take = torch.minimum(bounds.diff(prepend=bounds[:1] * 0) + least, most)
    missing = left + int(least.sum()) - int(take.sum())
    for number in kept.argsort(descending=True, stable=True).tolist():
        more = min(missing, int(most[number] - take[number]))
        take[number] += more
        missing -= more
    return take.tolist()

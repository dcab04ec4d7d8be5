"""Ranks of tokens within groups of tokens: strips, windows."""

import torch
from torch import Tensor

from agilepruner.strategies.base import top


def ranks_within(scores: Tensor, group: Tensor) -> Tensor:
    """Rank of each token in its own group, 0 for the highest score; of equals, the lowest index.

    Args:
        scores: (B, N).
        group: (N,) number of each token's group, from 0.

    Returns:
        (B, N), long.
    """
    order = top(scores, scores.shape[1])  # (B, N)
    member = torch.nn.functional.one_hot(group[order], int(group.max()) + 1)  # (B, N, groups)
    rank = (member.cumsum(dim=1) * member).sum(dim=2) - 1  # in the order of the scores
    return torch.empty_like(rank).scatter_(1, order, rank)

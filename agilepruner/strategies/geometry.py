"""Similarities between tokens, from one Gram matrix, and the greedy walks that spread over them."""

import torch
from torch import Tensor

from agilepruner.linalg import gram


def unit(x: Tensor) -> Tensor:
    """Rows of (..., N, D) scaled to length 1, in float32; zero rows stay zero."""
    x = x.float()
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def cosine_distances(x: Tensor) -> Tensor:
    """1 - cos of all pairs: (B, N, D) -> (B, N, N), float32."""
    return gram(unit(x)).neg_().add_(1)


def farthest_first(distances: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Greedy max-min: repeatedly add the token whose nearest chosen token is farthest.

    Chosen tokens are never chosen again, also among exact duplicates; of equals the lowest index
    wins. One pass per token over one row of ``distances``, no synchronisation with the device.

    Args:
        distances: (B, N, N), overwritten on the diagonal.
        chosen: (B, S) the tokens to start from, S >= 1.
        count: how many tokens to have in the end, at most N.

    Returns:
        (B, count) in the order of choice, starting with ``chosen``.
    """
    batch, n, _ = distances.shape
    distances.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    with torch.inference_mode():  # less overhead per operation
        rows = distances.reshape(batch * n, n)
        first_row = torch.arange(batch, device=rows.device) * n  # where each image begins
        starts = (chosen + first_row[:, None]).flatten()
        nearest = rows.index_select(0, starts).view(batch, -1, n).amin(dim=1)  # (B, N)
        order = torch.empty(count, batch, dtype=torch.long, device=rows.device)
        order[: chosen.shape[1]] = chosen.T
        row, at = torch.empty_like(nearest), torch.empty_like(first_row)
        for farthest in order[chosen.shape[1] :].unbind():
            torch.argmax(nearest, dim=1, out=farthest)
            torch.index_select(rows, 0, torch.add(farthest, first_row, out=at), out=row)
            torch.minimum(nearest, row, out=nearest)
    return order.T.clone()  # an ordinary tensor again

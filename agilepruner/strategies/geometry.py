"""Similarities between tokens, from one Gram matrix, and the greedy walks that spread over them."""

import torch
from torch import Tensor

from agilepruner.linalg import gram
from agilepruner.strategies.base import top


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


def greedy_map(kernel: Tensor, count: int) -> Tensor:
    """Greedy MAP inference of a DPP (Chen et al. 2018), (B, N, N) kernel -> (B, count) in order.

    Keeps, per token, its variance given the selected ones (the squared last entry of a growing
    Cholesky factor): each step takes the largest and updates the rest by one factor row. Where no
    variance is left, the largest kernel diagonals fill up. The float32 operations are those of
    CDPruner's and OTPrune's code; no synchronisation with the device until the end.
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
        steps = zip(order.unbind(), factors.unbind(), gains.unbind())
        for step, (chosen, factor, gain) in enumerate(steps):
            torch.argmax(variance, dim=1, out=chosen)
            torch.add(chosen, first_row, out=at)
            torch.index_select(by_token, 0, at, out=gain)
            torch.index_select(rows, 0, at, out=factor)  # (B, N)
            if step:
                own = columns[:step].index_select(1, at)  # (step, B)
                if batch == 1:  # half the time of the general product
                    torch.addmv(factor[0], columns[:step].T, own[:, 0], alpha=-1, out=factor[0])
                else:
                    row = factor[:, None]
                    torch.baddbmm(row, own.T[:, None], blocks[:, :step], alpha=-1, out=row)
            factor /= gain.sqrt()[:, None]
            variance.addcmul_(factor, factor, value=-1)
            by_token.index_fill_(0, at, -torch.inf)
    order = order.T.clone()
    if not bool((gains > 0).all()):
        for chosen, gain, value in zip(order, gains.T, quality):
            sound = int((gain > 0).long().cumprod(0).sum())
            left = value.index_fill(0, chosen[:sound], -torch.inf)
            chosen[sound:] = top(left, count - sound)
    return order

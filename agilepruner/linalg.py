"""Linear algebra that both the strategies and the complexity measures stand on."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

STRIPS = 6  # of rows; more would be slower again: products too small for BLAS


def gram(x: Tensor, scale: float = 1.0) -> Tensor:
    """Inner products of all pairs of rows, (..., N, D) -> (..., N, N), times ``scale``.

    On a CPU only the upper triangle is multiplied out, strip by strip, and mirrored: a third less
    time than one product. On an accelerator it is one product.
    """
    if x.device.type != "cpu":
        return (x if scale == 1 else scale * x) @ x.mT
    *batch, n, _ = x.shape
    out = x.new_empty(*batch, n, n)
    height = -(-n // STRIPS)
    for start in range(0, n, height):
        strip = slice(start, start + height)
        left = x[..., strip, :] if scale == 1 else scale * x[..., strip, :]
        out[..., strip, start:] = left @ x[..., start:, :].mT
        out[..., start + height :, strip] = out[..., strip, start + height :].mT
    return out


def centred(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tokens minus their mean over the image, (..., N, D)."""
    x = x.to(dtype)
    return x - x.mean(dim=-2, keepdim=True)


@contextmanager
def one_core() -> Iterator[None]:
    """Compute with one core meanwhile: on small matrices, threads mostly wait for each other.

    Where other processes have the cores they wait long: effective ranks of eight images took over
    twenty times the processor time of one thread, and twenty times as long (a full two-core CPU).
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def greedy_map(kernel: Tensor, count: int) -> Tensor:
    """Greedy MAP inference of a DPP (Chen et al. 2018), (B, N, N) kernel -> (B, count) in order.

    Keeps, per token, its variance given the selected ones (the squared last entry of a growing
    Cholesky factor): each step takes the largest and updates the rest by one factor row. Where no
    variance is left, the largest kernel diagonals fill up. Float32, as CDPruner's and OTPrune's
    code; the kernel crosses to the CPU once, where a step is a few microseconds.
    """
    orders = [_most_variance(image.numpy(), count) for image in kernel.cpu()]
    return torch.tensor(orders, device=kernel.device)


def _most_variance(kernel: np.ndarray, count: int) -> list[int]:
    """``greedy_map`` of one image."""
    quality = kernel.diagonal()
    variance = quality.copy()
    factors = np.empty((count, len(kernel)), kernel.dtype)
    order: list[int] = []
    for step, row in enumerate(factors):
        token = int(variance.argmax())
        if not variance[token] > 0:
            break
        # Not BLAS: its threads cost more than these products.
        known = np.einsum("k,kn->n", factors[:step, token], factors[:step])
        np.subtract(kernel[token], known, out=row)
        row /= np.sqrt(variance[token])
        variance -= row * row
        variance[token] = -np.inf
        order.append(token)
    left = quality.copy()
    left[order] = -np.inf
    return order + np.argsort(-left, kind="stable")[: count - len(order)].tolist()

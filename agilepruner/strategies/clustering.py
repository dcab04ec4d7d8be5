"""Density-peak clustering of tokens, as token-merging methods use it."""

import torch
from torch import Tensor


def density_peaks(
    x: Tensor, clusters: int, neighbours: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Centres that are dense and far from denser tokens; every token joins the nearest centre.

    DPC-KNN as in TCFormer and SparseVLM: density = exp(-mean squared distance to the nearest
    tokens, itself included), peak = density * distance to the nearest denser token.

    Args:
        x: (M, D) tokens.
        clusters: how many centres, at most M.
        neighbours: how many distances the density averages.
        noise: (M,) added to the density to break ties; None: the lower index counts as denser.

    Returns:
        (C,) centres in descending order of peak, (M,) cluster of each token.
    """
    x = x.float()
    distances = torch.cdist(x[None], x[None])[0] / x.shape[1] ** 0.5
    nearest = distances.topk(min(neighbours, len(x)), dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    if noise is not None:
        density = density + noise
    denser = density[None, :] > density[:, None]
    if noise is None:
        index = torch.arange(len(x), device=x.device)
        denser |= (density[None, :] == density[:, None]) & (index[None, :] < index[:, None])
    apart = torch.where(denser, distances, distances.max()).amin(dim=1)
    peaks = apart * density
    centres = peaks.argsort(descending=True, stable=True)[:clusters]
    assigned = distances[:, centres].argmin(dim=1)
    assigned[centres] = torch.arange(len(centres), device=x.device)
    return centres, assigned

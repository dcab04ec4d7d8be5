"""VisionZip: dominant tokens by attention, the rest merged into a few contextual ones."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, phases_of, top
from agilepruner.strategies.geometry import unit


@dataclass(frozen=True)
class VisionZip(Strategy):
    """Keep CLS and the most attended patches; merge the others into evenly spaced targets.

    VisionZip (arXiv 2412.04467): of the budget, ``contextual_share`` are contextual tokens, the
    rest dominant ones, of which one is the CLS token itself. Every other patch joins the target
    with the most similar keys, and a target becomes itself PLUS the mean of its members (the sum
    of the released code, not an average). Output order: CLS, dominant patches in raster order,
    contextual tokens in raster order of their targets.

    Attributes:
        contextual_share: share of the budget for contextual tokens; 10 of 64 as published.
    """

    contextual_share: Annotated[float, Range(0, 1)] = 10 / 64

    family: ClassVar = "attention"
    label: ClassVar = "VisionZip"
    golden: ClassVar = "dvlab-research/VisionZip"
    needs: ClassVar = {"attention", "keys", "features", "cls"}
    merges: ClassVar = True
    paper: ClassVar = "2412.04467"
    equivariant: ClassVar = False
    phases: ClassVar = ("CLS", "dominant", "contextual")

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        batch, n = tokens.batch, tokens.count
        contextual = min(round(budget * self.contextual_share), budget - 1)
        patches = budget - contextual - 1
        dominant = top(tokens.attention.float().sum(dim=1), patches).sort(dim=1).values  # (B, P)

        free = torch.ones(batch, n, dtype=torch.bool, device=tokens.device)
        free.scatter_(1, dominant, False)
        rest = free.nonzero()[:, 1].view(batch, -1)  # (B, M) raster order
        at = torch.arange(contextual, device=tokens.device)
        targets = rest[:, at * max(1, rest.shape[1] // max(1, contextual))]  # (B, C)

        weights = torch.zeros(batch, budget, n + 1, device=tokens.device)  # columns: patches, CLS
        weights[:, 0, n] = 1
        weights[:, 1:].scatter_(2, torch.cat([dominant, targets], 1)[:, :, None], 1)
        if contextual:
            keys = unit(tokens.keys)
            chosen = keys.gather(1, targets[:, :, None].expand(-1, -1, keys.shape[2]))
            nearest = (keys @ chosen.mT).argmax(dim=2)  # (B, N) target of each patch
            member = free.scatter(1, targets, False)
            joins = (nearest[:, None] == at[:, None]) & member[:, None]  # (B, C, N)
            mean = joins / joins.sum(dim=2, keepdim=True).clamp_min(1)
            weights[:, -contextual:, :n] += mean
        cls = torch.full((batch, 1), n, device=tokens.device)
        phases = phases_of([1, patches, contextual]).to(tokens.device).expand(batch, -1)
        return Selection(torch.cat([cls, dominant, targets], dim=1), weights, phases=phases)

"""BAT: attentive patches matched, inattentive ones clustered. Our port."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, top
from agilepruner.strategies.clustering import density_peaks
from agilepruner.strategies.geometry import unit

NEIGHBOURS = 5  # of the density, as in the paper's reference for clustering (DPC-KNN)


@dataclass(frozen=True)
class BAT(Strategy):
    """Split patches by CLS attention; merge look-alikes among the attended, cluster the others.

    Beyond Attentive Tokens (CVPR 2023, arXiv 2211.11315) prunes inside a ViT that it fine-tunes
    and has released no code; how AgilePruner applies it to an LVLM is not published. This port
    acts once, after the vision tower and without training: the most attended patches, a quarter
    more than their share of the budget, are matched in two alternating halves and the most similar
    pairs merged; all others form density-peak clusters, each merged. Similarity is the cosine
    of the penultimate features, a merged token the attention-weighted mean of its patches. Output
    in raster order of the patches that stand for them.

    Attributes:
        share: of the budget, for attentive tokens.
        matched: pairs to merge, as a share of the attentive tokens.
    """

    share: Annotated[float, Range(0, 1)] = 0.5
    matched: Annotated[float, Range(0, 1)] = 0.25

    family: ClassVar = "adaptive"
    label: ClassVar = "BAT (our port)"
    needs: ClassVar = {"attention", "features"}
    merges: ClassVar = True
    paper: ClassVar = "2211.11315"
    choice: ClassVar = (
        "our port: once after the vision tower, no training; pairs of attentive patches and "
        "density-peak clusters of the others become attention-weighted means"
    )

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        attention = tokens.attention.float().mean(dim=1).clamp_min(1e-12)  # (B, N)
        order = top(attention, tokens.count)
        groups = [self._groups(f, o, budget) for f, o in zip(unit(tokens.features), order)]
        indices = torch.stack([stands for stands, _ in groups])
        members = torch.stack([group for _, group in groups])  # (B, N) output row of each patch
        weights = torch.nn.functional.one_hot(members, budget).mT * attention[:, None]  # (B, K, N)
        return Selection(indices, weights / weights.sum(dim=2, keepdim=True))

    def _groups(self, x: Tensor, order: Tensor, budget: int) -> tuple[Tensor, Tensor]:
        """(K,) patches that stand for the groups, ascending; (N,) group of each patch."""
        attentive = min(int(budget * self.share), budget - 1)  # one token stands for the others
        pairs = min(int(attentive * self.matched), len(order) - budget)
        stands = torch.arange(len(order), device=order.device)  # patch that stands for each patch
        attended, others = order[: attentive + pairs], order[attentive + pairs :]
        if pairs:
            first, second = attended[0::2], attended[1::2]
            similarity, partner = (x[first] @ x[second].T).max(dim=1)
            merged = top(similarity, pairs)
            stands[first[merged]] = second[partner[merged]]
        others = others.sort().values
        centres, cluster = density_peaks(x[others], budget - attentive, NEIGHBOURS)
        stands[others] = others[centres[cluster]]
        kept, groups = stands.unique(return_inverse=True)  # ascending
        return kept, groups

"""SparseVLM: text tokens that look at the image rate it; part of what is dropped is recycled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agilepruner.errors import UserError
from agilepruner.strategies.clustering import density_peaks
from agilepruner.strategies.decoder.schedule import DecoderStrategy, Depths, Stage, at_depths, solve

RELEASED = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
RELEASED_LAYERS = (3, 7, 16)  # dropped after layers 2, 6 and 15


@dataclass(frozen=True)
class SparseVLM(DecoderStrategy):
    """Drop by the raters' attention at three depths, and merge the best of the dropped.

    SparseVLM (ICML 2025, arXiv 2410.04417, released version 1.5): raters are the text tokens after
    the image with more than average similarity to it (see ``raters``); score = attention of the
    layer just run, mean over heads and raters. Of the dropped, the 30 % with the highest scores
    are clustered by density peaks into a tenth as many tokens, each the mean of its members.
    Positions are reset; generated tokens continue the original ones.

    Differs from the released code: no random noise breaks ties between densities.

    Attributes:
        depths: where the stages are, as fractions of the layers.
        released: use the released token counts and layers for budgets 192, 128, 96 and 64 of 576
            tokens. They average 206.5, 145.4, 114.1 and 82.3 tokens over 32 layers: the released
            code counts each layer after its drop.
    """

    depths: Depths = (3 / 32, 7 / 32, 16 / 32)
    released: bool = False

    label: ClassVar = "SparseVLM"
    golden: ClassVar = "Gumpest/SparseVLMs"
    merges: ClassVar = True
    paper: ClassVar = "2410.04417"
    choice: ClassVar = (
        "one ratio between stages solved for the budget as a true average over layers (the "
        "released schedules exceed theirs); no random tie-breaking"
    )
    ranks: ClassVar = "previous"
    queries: ClassVar = "raters"
    positions: ClassVar = "reset"
    decoding: ClassVar = "original"

    def plan(self, layers: int, tokens: int, budget: int) -> tuple[Stage, ...]:
        if self.released:
            if budget not in RELEASED or tokens != 576 or layers <= max(RELEASED_LAYERS):
                raise UserError(
                    f"SparseVLM has released schedules for budgets {sorted(RELEASED)} of 576 "
                    f"tokens in more than 16 layers, not for {budget} of {tokens} in {layers}. "
                    "Set released=false to have one computed."
                )
            return self._stages(RELEASED_LAYERS, RELEASED[budget], tokens)
        at = at_depths(self.depths, layers)

        def build(ratio: float) -> tuple[Stage, ...]:
            counts = [int(tokens * ratio**power) for power in range(1, len(at) + 1)]
            return self._stages(at, counts, tokens)

        return solve(self.label, build, layers, tokens, budget)

    def _stages(self, at: Sequence[int], counts: Sequence[int], tokens: int) -> tuple[Stage, ...]:
        stages = []
        for layer, count in zip(at, counts):
            kept = max(1, min(count, tokens - 1))
            stages.append(Stage(layer, kept, recycled(tokens - kept)[1]))
            tokens = stages[-1].visual
        return tuple(stages)

    def recycle(self, dropped: Tensor, scores: Tensor, noise: Tensor | None = None) -> Tensor:
        """(M, D) dropped hidden states in raster order, (M,) scores -> (C, D) merged tokens."""
        best, clusters = recycled(len(dropped))
        if clusters == 0:
            return dropped
        chosen = dropped[scores.argsort(descending=True, stable=True)[:best].sort().values]
        _, cluster = density_peaks(chosen, clusters, neighbours=clusters, noise=noise)
        member = torch.nn.functional.one_hot(cluster, clusters).T.float()  # (C, best)
        mean = (member / member.sum(dim=1, keepdim=True)) @ chosen.float()
        return mean.to(dropped.dtype)


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Text tokens that rate: (V, D) and (T, D) input embeddings -> (T,) bool.

    Each visual token spreads a softmax over the text tokens by inner product; a rater gets more
    than the mean share. With one text token, or equal shares, all of them rate.
    """
    share = (visual @ text.T).float().softmax(dim=1).mean(dim=0)
    chosen = share > share.mean()
    return chosen if bool(chosen.any()) else torch.ones_like(chosen)


def recycled(dropped: int) -> tuple[int, int]:
    """Of so many dropped tokens: how many are clustered, and into how many."""
    if dropped == 0:
        return 0, 0
    best = int(dropped * 0.3) + 1
    return best, int(best / 10) + 1

"""Random: the baseline that every strategy must beat."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep


@dataclass(frozen=True)
class Random(Strategy):
    """Keep patches drawn without replacement, the same ones every time an image is seen.

    The draw depends on the image's own seed and on ``seed`` alone, not on its place in a batch;
    a smaller budget keeps a subset of what a larger one keeps.

    Attributes:
        seed: run several and report their mean and spread.
    """

    seed: Annotated[int, Range(0, 2**32 - 1)] = 0

    family: ClassVar = "baseline"
    label: ClassVar = "Random"
    needs: ClassVar = {"seeds"}
    equivariant: ClassVar = False

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        assert tokens.seeds is not None  # checked by the caller
        draws = [self._permutation(seed, tokens.count) for seed in tokens.seeds]
        return keep(torch.stack(draws)[:, :budget].to(tokens.device))

    def _permutation(self, image_seed: int, count: int) -> torch.Tensor:
        # Odd multiplier: image 1 with seed 0 and image 0 with seed 1 draw differently.
        mixed = (image_seed * 6364136223846793005 + self.seed) % 2**63
        return torch.randperm(count, generator=torch.Generator().manual_seed(mixed))

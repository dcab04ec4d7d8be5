"""SCOPE: attended tokens that cover what is not covered yet."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from agilepruner.linalg import gram
from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep
from agilepruner.strategies.geometry import unit

UNIT = 2.0**24  # of similarities: as whole numbers their sums are exact in double precision
MANY = 8  # one in so many tokens covered anew: adding up is faster than taking away


@dataclass(frozen=True)
class SCOPE(Strategy):
    """Repeatedly add the token with the largest gain in coverage times CLS attention ^ alpha.

    SCOPE (NeurIPS 2025, arXiv 2510.24214): the coverage of a token is its highest cosine to a
    selected one, at least 0, on the penultimate features; the gain of a candidate is what it would
    add to the coverage of all tokens, itself included. Attention is summed over heads.

    Differs from the released code, which does not run as shipped (it imports from its author's
    home), in precision: sums are exact here and so do not depend on their order; half-precision
    features are compared in float32. A row of zeros covers nothing; the released code divides by
    its length and keeps the first tokens of the image.

    Attributes:
        alpha: exponent of the attention; 0 leaves coverage alone.
    """

    alpha: Annotated[float, Range(0, 10)] = 1.0

    family: ClassVar = "adaptive"
    label: ClassVar = "SCOPE"
    needs: ClassVar = {"attention", "features"}
    paper: ClassVar = "2510.24214"
    golden: ClassVar = "kinredon/SCOPE"

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        weights = tokens.attention.float().sum(dim=1).double() ** self.alpha  # (B, N)
        similarities = gram(unit(tokens.features))  # (B, N, N)
        return keep(torch.stack([cover(s, w, budget) for s, w in zip(similarities, weights)]))


def cover(similarity: Tensor, weight: Tensor, count: int) -> Tensor:
    """Greedy coverage: (N, N) cosines, overwritten, (N,) weights -> (count,) in order of choice.

    A pick changes the coverage of few tokens, after k picks of about N / k, and the gains only
    through these: the first gains are added up anew, later ones lose what is covered since. The
    matrix crosses to the CPU once.
    """
    cosines, factor = similarity.mul_(UNIT).round_().cpu(), weight.cpu().numpy()
    rows, covered = cosines.numpy(), torch.zeros(len(cosines))
    by_token = covered.numpy()
    gain = _added(cosines, covered)
    chosen: list[int] = []
    for _ in range(count):
        score = gain * factor
        score[chosen] = -torch.inf
        chosen.append(int(score.argmax()))
        row = rows[chosen[-1]]
        closer = (row > by_token).nonzero()[0]
        before, by_token[closer] = by_token[closer, None], row[closer]
        if MANY * len(closer) > len(rows):
            gain = _added(cosines, covered)
        else:
            lost = rows[closer].clip(before, row[closer, None]) - before
            gain = gain - lost.sum(axis=0, dtype=float)
    return torch.tensor(chosen, device=similarity.device)


def _added(cosines: Tensor, covered: Tensor) -> Any:
    """What each token would add to a coverage (N,), in double precision; (N, N) is symmetric."""
    return (cosines - covered).clamp_min_(0).sum(dim=1, dtype=torch.float64).numpy()

"""AgilePruner: attention order, thinned by a distance threshold that grows with erank."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agilepruner.complexity import attention_entropy, effective_rank_of_gram
from agilepruner.linalg import gram
from agilepruner.ranges import Range
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep, top

PHASES = ("walk", "fallback")


@dataclass(frozen=True)
class AgilePruner(Strategy):
    """Walk the patches by attention; each one kept suppresses the patches too close to it.

    AgilePruner (arXiv 2603.01236). The patch of attention rank r (1 = highest, suppressed patches
    keep their rank) suppresses patches at cosine distance below
    tau = min(r * erank / erank_avg * slope, tau_max): low ranks and complex images spread more.
    A budget not filled by the walk is filled with the highest-attention patches left.

    Differs from the released code, which takes one image at a time and compares half-precision
    features in half precision: here batches, always in float32. Effective rank is the released one,
    with the rounding of its N x N spectrum, which its thresholds include.

    Attributes:
        erank_avg: mean effective rank of the model's projected tokens over typical images.
        tau_max: largest threshold, a cosine distance.
        slope: threshold per rank, for an image of average effective rank.
    """

    erank_avg: Annotated[float, Range(1, 10_000)] = 90.0
    tau_max: Annotated[float, Range(0, 2)] = 0.25
    slope: Annotated[float, Range(0, 2)] = 0.01

    family: ClassVar = "adaptive"
    label: ClassVar = "AgilePruner"
    golden: ClassVar = "cvsp-lab/AgilePruner, transcribed"
    needs: ClassVar = {"attention", "projected"}
    paper: ClassVar = "2603.01236"
    phases: ClassVar = PHASES

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        products, distances = centred_gram_and_distances(tokens.projected)
        rank = tokens.once("effective rank", lambda: effective_rank_of_gram(products))
        scale = rank / self.erank_avg  # (B,)
        rank = torch.arange(1, tokens.count + 1, device=scale.device)
        tau = (rank * scale[:, None] * self.slope).clamp_max(self.tau_max)  # (B, N), by rank
        return keep(*thin_by_attention(tokens.attention, distances, tau, budget))


@dataclass(frozen=True)
class AgilePrunerConstant(Strategy):
    """AgilePruner with one threshold for all ranks and images (the paper's Table 12).

    Attributes:
        tau: the threshold, a cosine distance; 0 suppresses nothing and leaves FasterVLM.
    """

    tau: Annotated[float, Range(0, 2)] = 0.1

    family: ClassVar = "adaptive"
    label: ClassVar = "AgilePruner (constant threshold)"
    golden: ClassVar = "cvsp-lab/AgilePruner, transcribed"
    needs: ClassVar = {"attention", "projected"}
    paper: ClassVar = "2603.01236"
    phases: ClassVar = PHASES

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        _, distances = centred_gram_and_distances(tokens.projected)
        tau = distances.new_tensor(self.tau).expand(tokens.batch, tokens.count)
        return keep(*thin_by_attention(tokens.attention, distances, tau, budget))


@dataclass(frozen=True)
class AgilePrunerEntropy(Strategy):
    """AgilePruner driven by attention entropy instead of effective rank (the paper's Table 11).

    Attributes:
        entropy_avg: attention entropy (nats) at which the threshold grows by ``slope`` per rank.
        tau_max: largest threshold, a cosine distance.
        slope: threshold per rank, for an image of average entropy.
    """

    entropy_avg: Annotated[float, Range(0.1, 20)] = 4.72
    tau_max: Annotated[float, Range(0, 2)] = 0.25
    slope: Annotated[float, Range(0, 2)] = 0.01

    family: ClassVar = "adaptive"
    label: ClassVar = "AgilePruner (entropy)"
    needs: ClassVar = {"attention", "projected"}
    paper: ClassVar = "2603.01236"
    phases: ClassVar = PHASES
    choice: ClassVar = (
        "tau = min(rank * entropy / entropy_avg * slope, tau_max); entropy_avg = 4.72 is where "
        "erank is 90 on the line through the paper's eight (entropy, erank) pairs"
    )

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        _, distances = centred_gram_and_distances(tokens.projected)
        scale = attention_entropy(tokens.attention) / self.entropy_avg  # (B,)
        rank = torch.arange(1, tokens.count + 1, device=scale.device)
        tau = (rank * scale[:, None] * self.slope).clamp_max(self.tau_max)
        return keep(*thin_by_attention(tokens.attention, distances, tau, budget))


def centred_gram_and_distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gram of the mean-centred tokens and cosine distances of the tokens, from one product.

    With x = c + m, x_i . x_j = c_i . c_j + c_i . m + c_j . m + m . m, so the centred Gram gives
    the spectrum and, with one product of c and the mean, the raw inner products.

    Args:
        x: (B, N, D).

    Returns:
        (B, N, N) Gram and (B, N, N) distances 1 - cos, both float32.
    """
    x = x.float()
    mean = x.mean(dim=1, keepdim=True)
    centre = x - mean
    products = gram(centre)
    shift = centre @ mean.mT + mean.square().sum(dim=-1, keepdim=True) / 2  # (B, N, 1)
    inner = products + shift
    inner += shift.mT
    length = inner.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt() + 1e-8  # as released
    cosines = inner.div_(length[:, :, None]).div_(length[:, None, :])
    return products, cosines.neg_().add_(1)


def thin_by_attention(
    attention: Tensor, distances: Tensor, tau: Tensor, budget: int
) -> tuple[Tensor, Tensor]:
    """The walk, and the fallback where it ends early.

    Which patches each patch would suppress is worked out on the device and crosses to the CPU once;
    the walk itself is a few boolean rows.

    Args:
        attention: (B, H, N) of the CLS token.
        distances: (B, N, N) cosine distances of the tokens.
        tau: (B, N) threshold of each attention rank.
        budget: patches to choose, K.

    Returns:
        (B, K) patches and (B, K) which of ``PHASES`` chose each.
    """
    order = top(attention.float().mean(dim=1), attention.shape[-1])  # (B, N), rank -> patch
    reach = torch.empty_like(tau).scatter_(1, order, tau)  # (B, N), by patch
    close = (distances < reach[:, :, None]).cpu().numpy()
    chosen, walked = [], []
    for suppresses, patches in zip(close, order.tolist()):
        kept: list[int] = []
        suppressed = suppresses[0] & False
        for patch in patches:
            if len(kept) == budget:
                break
            if not suppressed[patch]:
                kept.append(patch)
                suppressed |= suppresses[patch]
        taken = set(kept)
        walked.append(len(kept))
        kept += [patch for patch in patches if patch not in taken][: budget - len(kept)]
        chosen.append(kept)
    fallback = torch.arange(budget) >= torch.tensor(walked)[:, None]
    return torch.tensor(chosen, device=distances.device), fallback.long()

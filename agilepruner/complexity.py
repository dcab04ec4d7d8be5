"""How complex an image is: effective rank of its tokens, entropy of its attention."""

import torch
from torch import Tensor

from agilepruner.linalg import centred, gram, one_core

EQUAL = 1e-6  # tokens that differ by less of their own size are equal: float32 resolves no more


def effective_rank(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Effective rank of each image's tokens, (B, N, D) -> (B,).

    erank = exp(-sum p log p), p = the singular values of the mean-centred tokens over their sum
    (Roy and Vetterli 2007; AgilePruner, arXiv 2603.01236), by the eigenvalues of the Gram matrix
    as in the released code. In float32 that is exact to the SVD within 1e-3 relative as long as
    the tokens have full rank N - 1; with more tokens than dimensions (N > D) the rounding of the
    null space adds up to a few percent, which the released thresholds include. ``dtype=float64``
    is exact in every case, at about twice the time.
    """
    return effective_rank_of_gram(gram(centred(x, dtype)))


def effective_rank_small(x: Tensor) -> Tensor:
    """The same number from the smaller of the two Gram matrices, (B, N, D) -> (B,).

    With more tokens than dimensions this leaves out the null space: faster, and closer to the SVD
    than the released code. Rows report this one; AgilePruner's threshold uses the released one.

    Equal tokens (the blind baseline's, a single one) have rank 1, one direction, by our convention:
    the definition is 0 / 0 there, and what rounding leaves would count as full rank.
    """
    centre = centred(x)
    size = x.float().square().sum(dim=(-2, -1))
    equal = centre.square().sum(dim=(-2, -1)) <= EQUAL**2 * size  # (B,)
    centre = centre.masked_fill(equal[:, None, None], 0.0)
    rank = effective_rank_of_gram(gram(centre if x.shape[-2] <= x.shape[-1] else centre.mT))
    return rank.masked_fill(equal, 1.0)


def effective_rank_of_gram(products: Tensor) -> Tensor:
    """Effective rank from the Gram matrix of mean-centred tokens, (B, N, N) -> (B,).

    As released: equal tokens, whose matrix is all zero or rounding, come out as about N.
    """
    with one_core():
        singular = torch.linalg.eigvalsh(products).clamp_min(1e-12).sqrt()
    p = singular / (singular.sum(dim=-1, keepdim=True) + 1e-12)
    return torch.exp(-(p * torch.log(p + 1e-12)).sum(dim=-1))


def attention_entropy(attention: Tensor) -> Tensor:
    """Entropy in nats of the head-averaged CLS attention over the patches, (B, H, N) -> (B,).

    H = -sum p log p, p = attention averaged over heads, renormalised without the CLS column
    (AgilePruner, arXiv 2603.01236). At most log N.
    """
    p = attention.float().mean(dim=1)
    p = p / p.sum(dim=-1, keepdim=True)
    return torch.special.entr(p).sum(dim=-1)


def attention_kept(attention: Tensor, indices: Tensor) -> Tensor:
    """Mean CLS attention of the kept patches, (B, H, N) and (B, K) -> a number.

    Attention is averaged over heads, as the softmax over all N + 1 keys gave it. A merged token
    counts as the patch that it stands for (``Selection.indices``), padding and the CLS row not at
    all. All of N patches have at most 1 / N.
    """
    kept = (indices >= 0) & (indices < attention.shape[-1])
    seen = attention.float().mean(dim=1).gather(1, indices.where(kept, 0))
    return (seen * kept).sum() / kept.sum()

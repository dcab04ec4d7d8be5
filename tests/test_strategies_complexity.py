"""Effective rank and attention entropy are what their definitions say."""

import math

import pytest
import torch

from agilepruner.complexity import (
    attention_entropy,
    attention_kept,
    effective_rank,
    effective_rank_small,
)
from agilepruner.linalg import gram, one_core
from agilepruner.runner.work import in_threads
from agilepruner.strategies.base import VisualTokens
from agilepruner.strategies.baseline.greedy_erank import GreedyErank
from agilepruner.strategies.diversity.divprune import DivPrune


def by_svd(x):
    """Effective rank by its definition, in double precision."""
    centred = x.double() - x.double().mean(dim=-2, keepdim=True)
    p = torch.linalg.svdvals(centred)
    p = p / p.sum(dim=-1, keepdim=True)
    return torch.special.entr(p).sum(dim=-1).exp()


def correlated(n, d, rank):
    """Tokens of decaying spectrum around a common mean."""
    torch.manual_seed(0)
    scale = 0.9 ** torch.arange(rank)
    return torch.randn(3, n, rank) * scale @ torch.randn(rank, d) + 3 * torch.randn(d)


@pytest.mark.parametrize("shape", [(1, 3), (2, 5, 8), (3, 7, 4), (2, 37, 16), (576, 64)])
def test_the_gram_matrix_is_all_inner_products(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = gram(x)
    torch.testing.assert_close(products, x @ x.mT)
    torch.testing.assert_close(gram(x.mT), x.mT @ x)


@pytest.mark.parametrize(("n", "d"), [(64, 80), (576, 1024), (576, 4096), (144, 256)])
def test_effective_rank_is_the_svd_within_a_thousandth(n, d):
    x = torch.randn(3, n, d, generator=torch.Generator().manual_seed(0)) + 2
    exact = by_svd(x)
    torch.testing.assert_close(effective_rank(x).double(), exact, rtol=1e-3, atol=0)
    torch.testing.assert_close(effective_rank_small(x).double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("n", "d", "rank"), [(576, 64, 64), (300, 400, 20), (50, 8, 8)])
def test_double_precision_is_exact_beyond_full_rank(n, d, rank):
    x = correlated(n, d, rank)
    exact = effective_rank(x, torch.float64)
    torch.testing.assert_close(exact, by_svd(x), rtol=1e-3, atol=0)
    if n > d:
        torch.testing.assert_close(effective_rank_small(x).double(), by_svd(x), rtol=1e-3, atol=0)


def test_effective_rank_of_known_spectra():
    n = 16
    simplex = torch.eye(n)[None]  # centred: n - 1 equal singular values
    assert effective_rank(simplex).item() == pytest.approx(n - 1, rel=1e-3)
    line = torch.arange(n).float()[None, :, None] * torch.ones(5)
    assert effective_rank(line, torch.float64).item() == pytest.approx(1, rel=1e-3)
    assert effective_rank(torch.randn(1, 1, 5)).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("shape", [(2, 256, 64), (2, 64, 256), (2, 1, 8), (2, 576, 1)])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 1.0, 1e4])
def test_equal_tokens_have_rank_one(shape, size):
    """Also when they are equal but for rounding, as a projector leaves them."""
    draw = torch.Generator().manual_seed(0)
    b, n, d = shape
    equal = size * torch.randn(b, 1, d, generator=draw).expand(b, n, d)
    assert effective_rank_small(equal).tolist() == [1.0] * b
    noisy = equal * (1 + 1e-7 * torch.randn(b, n, d, generator=draw))
    assert effective_rank_small(noisy).tolist() == [1.0] * b
    mixed = torch.cat([equal, torch.randn(b, n, d, generator=draw)])
    assert torch.equal(effective_rank_small(mixed)[b:], effective_rank_small(mixed[b:]))
    assert effective_rank_small(mixed).isfinite().all()


@pytest.mark.parametrize(("n", "d"), [(64, 80), (256, 64)])
def test_tokens_that_differ_a_little_keep_their_rank(n, d):
    x = torch.randn(2, n, d, generator=torch.Generator().manual_seed(0))
    near = 1 + 1e-4 * x
    torch.testing.assert_close(effective_rank_small(near).double(), by_svd(x), rtol=1e-2, atol=0)


def test_entropy_of_known_attention():
    n = 20
    uniform = torch.full((1, 4, n), 0.3 / n)  # 0.7 went to the CLS token
    assert attention_entropy(uniform).item() == pytest.approx(math.log(n), rel=1e-6)
    single = torch.zeros(1, 4, n)
    single[..., 3] = 0.5
    assert attention_entropy(single).item() == 0
    heads = torch.zeros(1, 2, n)
    heads[0, 0, 0] = heads[0, 1, 1] = 0.9  # averaged over heads first, then entropy
    assert attention_entropy(heads).item() == pytest.approx(math.log(2), rel=1e-6)


def test_attention_kept_is_the_mean_over_patches():
    attention = torch.tensor([[[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], [[0.1, 0, 0], [0.5, 0.1, 0]]])
    assert attention_kept(attention[:1], torch.tensor([[0, 1]])) == pytest.approx(0.2)
    # patch 0 of the second image; the CLS row (3) and the padding are no patches
    ids = torch.tensor([[0, 2, 3], [0, -1, -1]])
    assert attention_kept(attention, ids) == pytest.approx((0.2 + 0.2 + 0.3) / 3)


def test_the_greedy_search_finds_more_diversity_than_divprune():
    x = correlated(60, 24, 24)
    tokens = VisualTokens((6, 10), projected=x, features=x)
    image = torch.arange(3)[:, None]

    def kept(strategy):
        return effective_rank_small(x[image, strategy(tokens, 12).indices])

    greedy, every = kept(GreedyErank()), kept(GreedyErank(shortlist=60))
    assert (greedy > kept(DivPrune())).all()
    assert (greedy > 0.98 * every).all()
    # Each step of the full search is the best one: no other last patch does better. By the SVD: in
    # float32 the direction that centring took away is left with rounding, whose root counts as
    # singular value and adds up to 1e-3 to effective_rank_small.
    chosen = GreedyErank(shortlist=60)(tokens, 5).indices[0]
    before = set(GreedyErank(shortlist=60)(tokens, 4).indices[0].tolist())
    assert before < set(chosen.tolist())
    others = [x[:1, [*before, j]] for j in range(60) if j not in before]
    best = max(float(by_svd(other)) for other in others)
    assert float(by_svd(x[:1, chosen])) == pytest.approx(best, rel=1e-9)


def test_small_matrices_have_one_core_whoever_asks():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(in_threads(lambda _: torch.get_num_threads(), [0], workers=1)) == [1]
        with one_core():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

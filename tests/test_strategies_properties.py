"""What every strategy before the language model promises, for each YAML in configs/strategy."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategy_configs import ALL, BEFORE_LLM, FOLDER, NAMES, random_tokens

from agilepruner.errors import UserError
from agilepruner.strategies.base import FAMILIES, NEEDS, SHAPES
from agilepruner.strategies.geometry import cosine_distances

each = pytest.mark.parametrize("name", BEFORE_LLM)
cases = given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    budget=st.integers(1, 70),
)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much])


def output(selection, n):
    """(B, K, N + 1) mixing weights of any selection, CLS last."""
    if selection.weights is None:
        return torch.nn.functional.one_hot(selection.indices, n + 1).float()
    missing = n + 1 - selection.weights.shape[2]
    return torch.nn.functional.pad(selection.weights, (0, missing))


def starts_with_a_tie(x):
    """Two patches that are each other's nearest and the most isolated: either may come first."""
    distances = cosine_distances(x)
    distances.diagonal(dim1=1, dim2=2).fill_(2.0)
    isolation = distances.amin(dim=2).sort(dim=1).values
    return x.shape[1] > 1 and bool((isolation[:, -1] - isolation[:, -2] < 1e-6).any())


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name):
    strategy = ALL[name]
    assert strategy.family in FAMILIES
    assert strategy.label
    assert set(strategy.needs) <= set(NEEDS)
    assert (FOLDER / f"{name}.yaml").read_text().startswith(f"# @package strategy.{name}\n")
    hash(strategy)


@each
@few
@cases
def test_keeps_what_it_was_asked_for(name, seed, batch, grid, budget):
    strategy, tokens = BEFORE_LLM[name], random_tokens(seed, batch, grid)
    selection, n = strategy(tokens, budget), tokens.count
    indices = selection.indices
    if not strategy.budgeted:
        assert indices.shape[0] == batch
        assert (selection.counts >= 1).all()
    elif budget >= n:
        assert selection.weights is None
        assert indices.tolist() == [list(range(n))] * batch
    else:
        assert indices.shape == (batch, budget + strategy.extra)
    if not strategy.merges:
        assert selection.weights is None
        for row in indices.tolist():
            assert row == sorted(set(row))
            assert set(row) <= set(range(n))
    elif selection.weights is not None:
        assert torch.isfinite(selection.weights).all()
        assert (selection.weights[indices < 0] == 0).all()


@each
@few
@cases
def test_a_batch_is_its_images_one_at_a_time(name, seed, batch, grid, budget):
    strategy, tokens = BEFORE_LLM[name], random_tokens(seed, batch, grid)
    together = strategy(tokens, budget)
    for image in range(batch):
        alone = strategy(tokens[image], budget)
        kept = int(alone.counts[0])
        assert torch.equal(together.indices[image, :kept], alone.indices[0])
        assert int(together.counts[image]) == kept
        if alone.weights is not None:
            torch.testing.assert_close(together.weights[image, :kept], alone.weights[0])


@pytest.mark.parametrize("name", [n for n, s in BEFORE_LLM.items() if s.equivariant])
@few
@cases
def test_reordering_the_patches_reorders_the_selection(name, seed, batch, grid, budget):
    strategy, tokens = BEFORE_LLM[name], random_tokens(seed, batch, grid)
    n = tokens.count
    assume(not starts_with_a_tie(tokens.projected))
    if name.startswith("bat"):  # two or three patches left to cluster are equally dense
        assume(n - budget >= 8)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    moved = {
        field: getattr(tokens, field)[:, order]
        for field in ("features", "projected", "keys", "image_embeds")
    }
    moved["attention"] = tokens.attention[:, :, order]
    moved["last_keys"] = tokens.last_keys[:, torch.cat([torch.zeros(1).long(), order + 1])]
    before, after = strategy(tokens, budget), strategy(replace(tokens, **moved), budget)

    back = torch.empty(n + 1, dtype=torch.long)
    back[torch.cat([order, torch.tensor([n])])] = torch.arange(n + 1)
    seen = output(after, n)[:, :, back]  # columns in the original order
    original = torch.cat([order, torch.tensor([n, -1])])[after.indices]
    for image in range(batch):
        rows, moved_rows = before.indices[image].argsort(), original[image].argsort()
        assert torch.equal(before.indices[image, rows], original[image, moved_rows])
        torch.testing.assert_close(
            output(before, n)[image, rows], seen[image, moved_rows], atol=1e-5, rtol=1e-4
        )


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accepted(name, dtype):
    strategy, tokens = BEFORE_LLM[name], random_tokens(1, 2, (6, 6))
    half = {field: getattr(tokens, field).to(dtype) for field in SHAPES}
    selection = strategy(replace(tokens, **half), 9)
    if strategy.budgeted:
        assert selection.counts.tolist() == [9 + strategy.extra] * 2


@each
def test_duplicates_and_zeros_still_meet_the_budget(name):
    strategy, tokens = BEFORE_LLM[name], random_tokens(2, 1, (6, 6))
    flat = {
        field: torch.zeros_like(getattr(tokens, field)).index_fill(1, torch.arange(3), 1.0)
        for field in ("features", "projected", "keys", "last_keys", "image_embeds")
    }
    selection = strategy(replace(tokens, **flat), 9)
    if strategy.budgeted:
        assert selection.counts.tolist() == [9 + strategy.extra]
    if not strategy.merges and strategy.budgeted:
        assert selection.indices.unique().numel() == 9


@each
def test_nan_and_wrong_shapes_are_refused_with_the_shape(name):
    strategy, tokens = BEFORE_LLM[name], random_tokens(3, 1, (4, 5))
    for field in sorted(set(strategy.needs) - {"seeds"}):
        value = getattr(tokens, field)
        with pytest.raises(UserError, match=f"'{field}' holds NaN"):
            strategy(replace(tokens, **{field: value * torch.nan}), 3)
        with pytest.raises(UserError, match=rf"'{field}' has shape \(1, 1, .*expected \(B="):
            strategy(replace(tokens, **{field: value[:, None]}), 3)
        with pytest.raises(UserError, match=f"'{field}' is needed"):
            strategy(replace(tokens, **{field: None}), 3)


@each
@pytest.mark.parametrize("budget", [0, -1, 2.0, True])
def test_impossible_budgets_are_refused(name, budget):
    with pytest.raises(UserError, match="budget"):
        BEFORE_LLM[name](random_tokens(4, 1, (3, 3)), budget)

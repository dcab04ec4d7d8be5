"""Each strategy selects exactly what its authors' released code selects."""

import pytest
import torch
from golden_cases import CASES, cases, indices, inputs, outputs, visual_tokens

from agilepruner.complexity import effective_rank
from agilepruner.linalg import greedy_map
from agilepruner.strategies.adaptive.agilepruner import AgilePruner, AgilePrunerConstant
from agilepruner.strategies.adaptive.vispruner import VisPruner
from agilepruner.strategies.attention.fastervlm import FasterVLM
from agilepruner.strategies.attention.prumerge import (
    PruMerge,
    PruMergeAdaptive,
    PruMergePlus,
    PruMergePlusAdaptive,
)
from agilepruner.strategies.attention.visionzip import VisionZip
from agilepruner.strategies.base import VisualTokens
from agilepruner.strategies.diversity.cdpruner import CDPruner
from agilepruner.strategies.diversity.divprune import DivPrune


@cases("fastervlm")
def test_fastervlm(case):
    selection = FasterVLM()(visual_tokens(**inputs(case)), case["params"]["visual_token_num"])
    assert torch.equal(selection.indices, indices(outputs(case)["mask"]))


@cases("divprune")
def test_divprune(case):
    features = inputs(case)["features"].reshape(1, -1, inputs(case)["features"].shape[-1])
    budget, order = case["params"]["K"], outputs(case)["order"]
    kept = DivPrune()(visual_tokens(features), budget).indices[0]
    assert kept.unique().numel() == budget
    if order.unique().numel() < budget:  # the official code repeats tokens among duplicates
        assert set(order.tolist()) <= set(kept.tolist())
    else:
        assert torch.equal(kept, order.sort().values)


def agilepruner(params):
    if "static_tau" in params:
        return AgilePrunerConstant(tau=params["static_tau"])
    return AgilePruner(params.get("erank_avg", 90.0), params.get("tau_max", 0.25))


@cases("agilepruner")
def test_agilepruner(case):
    params = case["params"]
    budget = params.get("max_tokens") or params["visual_token_num"]
    selection = agilepruner(params)(visual_tokens(**inputs(case)), budget)
    expected = indices(outputs(case)["mask"])
    if case["id"] == "agilepruner/tie/T64":  # equal attention: official order is undefined
        shared = set(selection.indices[0].tolist()) & set(expected[0].tolist())
        assert len(shared) >= budget - 2
    else:
        assert torch.equal(selection.indices, expected)


@cases("agilepruner", where=lambda case: "scalars" in case and "cast" not in case["params"])
def test_effective_rank_is_the_released_one(case):
    """In half precision the released code has no scalar of its own."""
    features = inputs(case)["features"]
    kept = features[indices(outputs(case)["mask"])[0]]
    scalars = case["scalars"]
    # With more tokens than dimensions the float32 spectrum's null space is rounding noise, which
    # differs by up to a percent between thread counts and LAPACK builds.
    noisy = {True: 1.5e-2, False: 2e-3}
    bound = noisy[features.shape[-2] > features.shape[-1]]
    assert effective_rank(features).item() == pytest.approx(scalars["erank_input"], rel=bound)
    bound = noisy[kept.shape[-2] > kept.shape[-1]]
    assert effective_rank(kept).item() == pytest.approx(scalars["erank_selected"], rel=bound)


@cases("agilepruner", fails=True)
def test_agilepruner_takes_the_batches_its_code_refuses(case):
    tokens = visual_tokens(**inputs(case))
    together = AgilePruner()(tokens, case["params"]["visual_token_num"]).indices
    alone = [AgilePruner()(tokens[i], 64).indices for i in range(tokens.batch)]
    assert torch.equal(together, torch.cat(alone))


def vispruner(case):
    return VisPruner(share=case["params"]["important_ratio"])


@cases("vispruner")
def test_vispruner(case):
    """Exact on CPUs like the one that made the vectors: last bits of sums decide its near-ties."""
    selection = vispruner(case)(visual_tokens(**inputs(case)), case["params"]["visual_token_num"])
    expected = indices(outputs(case)["mask"])
    assert selection.indices.shape == expected.shape
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert torch.equal(selection.indices, expected)
    for kept, official in zip(selection.indices.tolist(), expected.tolist()):
        assert len(set(kept) & set(official)) >= 0.9 * len(official)


@cases("vispruner", fails=True)
def test_vispruner_meets_the_budgets_its_code_crashes_at(case):
    """Odd numbers of tokens left after the attended ones, and rounds with fewer than 8."""
    budget, tokens = case["params"]["visual_token_num"], visual_tokens(**inputs(case))
    kept = vispruner(case)(tokens, budget).indices[0].tolist()
    attended = FasterVLM()(tokens, budget // 2).indices[0].tolist()
    assert len(set(kept)) == budget
    assert set(attended) <= set(kept)


@cases("cdpruner")
def test_cdpruner(case):
    given = inputs(case)
    embeds = {name: given.pop(name)[None] for name in ("image_embeds", "text_embeds")}
    tokens = visual_tokens(**given, **embeds)
    selection = CDPruner()(tokens, case["params"]["visual_token_num"])
    assert torch.equal(selection.indices, indices(outputs(case)["mask"]))


def test_cdpruner_beyond_the_rank_of_the_kernel():
    """Where the released code takes the root of a negative number, ours still keeps the budget."""
    x = torch.randn(1, 20, 4)
    order = greedy_map(x @ x.mT, 12)[0]
    assert order.unique().numel() == 12


def test_cdpruner_scales_relevance_per_row_or_jointly():
    torch.manual_seed(0)
    image = torch.randn(2, 16, 8) + torch.tensor([0.0, 9.0])[:, None, None]
    tokens = VisualTokens(
        (4, 4),
        projected=torch.randn(2, 16, 8) + 1,
        image_embeds=image,
        text_embeds=torch.ones(2, 1, 8),
    )
    alone = [CDPruner()(tokens[i], 6).indices for i in range(2)]
    assert torch.equal(CDPruner()(tokens, 6).indices, torch.cat(alone))
    assert not torch.equal(CDPruner(joint_range=True)(tokens, 6).indices, torch.cat(alone))


def mixed(selection, hidden):
    """Merged tokens from (B, N + 1, C) hidden states with CLS first."""
    hidden = hidden.roll(-1, dims=1)  # CLS last, as in Selection.weights
    return selection.weights @ hidden[:, : selection.weights.shape[2]]


@cases("visionzip")
def test_visionzip(case):
    given = {k: v if v.dim() == 3 else v[None] for k, v in inputs(case).items()}
    hidden, keys = given["hidden"], given["metric"][:, 1:]
    tokens = visual_tokens(hidden[:, 1:], given["attention"], keys=keys, cls=hidden[:, 0])
    dominant, contextual = case["params"]["dominant"], case["params"]["contextual"]
    strategy = VisionZip(contextual_share=contextual / (dominant + contextual))
    selection = strategy(tokens, dominant + contextual)
    expected = outputs(case)
    patches = expected["all_indices"][:, 1:].sort().values - 1
    assert torch.equal(selection.indices[:, 1:dominant], patches)
    torch.testing.assert_close(mixed(selection, hidden), expected["tokens"], atol=1e-4, rtol=1e-4)


def prumerge_tokens(case):
    given = inputs(case)
    return given["hidden"][None], visual_tokens(
        given["hidden"][1:], last_query=given["q"][:1], last_keys=given["k"][None]
    )


@cases("prumerge")
def test_prumerge(case):
    hidden, tokens = prumerge_tokens(case)
    selection = PruMergeAdaptive()(tokens, 1)
    expected = outputs(case)
    assert selection.indices[0].tolist() == [*expected["idx"][0].tolist(), 576]
    torch.testing.assert_close(mixed(selection, hidden), expected["tokens"], atol=1e-4, rtol=1e-4)
    if (kept := expected["idx"].shape[1]) > 0:  # the fixed budget is the same rule
        fixed = PruMerge()(tokens, kept)
        assert torch.equal(fixed.indices, selection.indices)
        assert torch.equal(fixed.weights, selection.weights)


@cases("prumergeplus")
def test_prumergeplus(case):
    hidden, tokens = prumerge_tokens(case)
    expected = outputs(case)
    fixed = not case["params"]["if_adaptive"]
    budget = expected["idx"].shape[1] if fixed else 1
    selection = (PruMergePlus() if fixed else PruMergePlusAdaptive())(tokens, budget)
    assert selection.indices[0].tolist() == [*expected["idx"][0].tolist(), 576]
    torch.testing.assert_close(mixed(selection, hidden), expected["tokens"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [c for c in CASES if c["id"] == "prumerge/none/adaptive"])
def test_prumergeplus_without_outliers_takes_the_most_attended_patch_as_one(case):
    """The released code divides by zero here."""
    _, tokens = prumerge_tokens(case)
    kept = PruMergePlusAdaptive()(tokens, 1).indices[0].tolist()
    strongest = PruMerge()(tokens, 1).indices[0, 0].item()
    assert kept == [strongest, *sorted({0, 192, 384} - {strongest}), 576]


@pytest.mark.parametrize("budget", [1, 2, 5, 50, 100, 333, 575])
def test_prumergeplus_meets_budgets_its_spacing_misses(budget):
    _, tokens = prumerge_tokens(next(c for c in CASES if c["id"] == "prumerge/a/adaptive"))
    assert PruMergePlus()(tokens, budget).counts.tolist() == [budget + 1]

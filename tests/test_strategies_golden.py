"""Each strategy selects exactly what its authors' released code selects."""

import pytest
import torch
from golden_cases import cases, indices, inputs, outputs, visual_tokens

from agilepruner.complexity import effective_rank
from agilepruner.strategies.adaptive.agilepruner import AgilePruner, AgilePrunerConstant
from agilepruner.strategies.attention.fastervlm import FasterVLM
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


@cases("agilepruner")
def test_effective_rank_is_the_released_one(case):
    if "cast" in case["params"] or "scalars" not in case:
        pytest.skip("half precision: the released code has no scalar of its own here")
    features = inputs(case)["features"]
    kept = features[indices(outputs(case)["mask"])[0]]
    scalars = case["scalars"]
    assert effective_rank(features).item() == pytest.approx(scalars["erank_input"], rel=2e-3)
    assert effective_rank(kept).item() == pytest.approx(scalars["erank_selected"], rel=2e-3)


@cases("agilepruner", fails=True)
def test_agilepruner_takes_the_batches_its_code_refuses(case):
    tokens = visual_tokens(**inputs(case))
    together = AgilePruner()(tokens, case["params"]["visual_token_num"]).indices
    alone = [AgilePruner()(tokens[i], 64).indices for i in range(tokens.batch)]
    assert torch.equal(together, torch.cat(alone))

"""The methods of 2026 select exactly what their authors' released code selects (golden_2026)."""

import pytest
import torch
from golden_cases import CASES, cases, inputs, outputs, visual_tokens

from agilepruner.strategies.adaptive.scope import SCOPE
from agilepruner.strategies.attention.holov import HoloV
from agilepruner.strategies.base import VisualTokens
from agilepruner.strategies.diversity.cdpruner import CDPruner, CDPrunerHalves
from agilepruner.strategies.diversity.dart_embedding import DartEmbedding
from agilepruner.strategies.diversity.otprune import OTPrune


def one(case_id):
    """A test of a single case."""
    return pytest.mark.parametrize("case", [c for c in CASES if c["id"] == case_id])


def sets(rows):
    """A set per row, without padding."""
    return [set(row) - {-1} for row in rows.tolist()]


# SCOPE


@cases("scope")
def test_scope(case):
    params, given = case["params"], inputs(case)
    tokens = visual_tokens(given["features"], given["attention"])
    budget = params.get("per_image") or params["num_selected_token"]
    kept = SCOPE(alpha=params.get("alpha", 1.0))(tokens, budget).indices
    expected = outputs(case)["order"].sort(dim=1).values.long()
    if case["id"] == "scope/dup/T64":  # of two equal patches, the one whose gain rounds higher
        kept, expected = (x.remainder(288).sort(dim=1).values for x in (kept, expected))
    if case["id"] == "scope/zero/T64":  # the released code divides by the length of a zero row
        assert expected.tolist() == [list(range(64))]
        assert 100 not in kept
    elif "cast" in params:  # its arithmetic in bfloat16, ours in float32
        assert len(sets(kept)[0] & sets(expected)[0]) >= budget - 3
    else:
        assert torch.equal(kept, expected)


@cases("scope", fails=True)
def test_scope_keeps_everything_where_its_code_fails(case):
    given = inputs(case)
    tokens = visual_tokens(given["features"], given["attention"])
    kept = SCOPE()(tokens, case["params"]["per_image"]).indices
    assert kept.tolist() == [list(range(tokens.count))]


def test_scope_among_copies_takes_each_distinct_row_first():
    """Once all are covered gains are exactly zero, and the lowest indices follow."""
    features = torch.eye(8)[None, [0, 1, 2, 3] * 4]
    attention = torch.full((1, 2, 16), 1 / 20)
    tokens = VisualTokens((4, 4), features=features, attention=attention)
    assert SCOPE()(tokens, 4).indices.tolist() == [[0, 1, 2, 3]]
    assert SCOPE()(tokens, 7).indices.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


# HoloV


@cases("holov")
def test_holov(case):
    params, given, expected = case["params"], inputs(case), outputs(case)
    attention = given["attention"][..., 1:]
    if "candidates" in expected:  # LLaVA-NeXT: the patches of all tiles, in the mosaic's order
        attention = attention.transpose(0, 1).flatten(1)[:, expected["candidates"].long()]
    attention = attention if attention.dim() == 3 else attention[None]
    budget, strips = params["new_image_token_num"], params["num_patches"]
    tokens = VisualTokens((1, attention.shape[2]), attention=attention)
    if budget == tokens.count:
        pytest.skip("a budget of all tokens keeps all; the released code drops 153 of them")
    kept = HoloV(strips)(tokens, budget).indices
    if "candidates" in expected:
        assert set(expected["candidates"][kept[0]].tolist()) == set(expected["ids"].tolist())
        return
    official = expected.get("positions_lowest", expected["positions"])
    for ours, theirs in zip(sets(kept), sets(official)):
        if len(theirs) < budget:  # the rest are tokens of zeros
            assert theirs < ours
        else:
            assert ours == theirs


def test_holov_has_16_strips_at_the_released_budget_and_in_proportion_elsewhere():
    attention = torch.rand(1, 2, 576, generator=torch.Generator().manual_seed(0))
    tokens = VisualTokens((24, 24), attention=attention)
    for budget, strips in ((32, 32), (64, 16), (128, 8), (192, 5)):
        rule, fixed = HoloV()(tokens, budget), HoloV(strips)(tokens, budget)
        assert torch.equal(rule.indices, fixed.indices)
    assert not torch.equal(HoloV()(tokens, 128).indices, HoloV(16)(tokens, 128).indices)


# OTPrune


def otprune_tokens(case):
    features = inputs(case)["projected"]
    return visual_tokens(features.repeat(1, case["params"]["repeat_channels"]))


@cases("otprune")
def test_otprune(case):
    kept = OTPrune()(otprune_tokens(case), case["params"]["K"]).indices[0]
    order = outputs(case)["order"].long()
    if case["id"] == "otprune/zerocol/K64_D64":  # the released code divides by a channel's length
        assert order.tolist() == list(range(64))
        assert kept.tolist() != order.tolist()
    else:
        assert torch.equal(kept, order.sort().values)


@one("otprune/zerocol/K64_D64")
def test_otprune_as_if_a_channel_of_zeros_were_not_there(case):
    tokens = otprune_tokens(case)
    full = tokens.projected[..., tokens.projected.abs().sum(dim=(0, 1)) > 0]
    assert full.shape[2] == 63
    without = VisualTokens(tokens.grid, projected=full)
    assert torch.equal(OTPrune()(tokens, 64).indices, OTPrune()(without, 64).indices)


# CDPruner by halves


@pytest.mark.parametrize(("side", "budget"), [((4, 6), 8), ((5, 5), 8), ((5, 5), 9), ((5, 5), 1)])
def test_cdpruner_by_halves_is_cdpruner_on_each_half(side, budget):
    """One relevance for the whole image, two searches; the first half has one more of odd ones."""
    make = torch.Generator().manual_seed(0)
    n = side[0] * side[1]
    projected, image = (torch.randn(2, n, 40, generator=make) for _ in range(2))
    text = torch.randn(2, 1, 40, generator=make)
    middle = -(-n // 2)
    cut = {"image_embeds": image, "text_embeds": text}
    tokens = VisualTokens(side, projected=projected, **cut)
    relevance = CDPruner()._relevance(image, text)
    kept = CDPrunerHalves()(tokens, budget).indices
    for picture in range(2):
        x = torch.nn.functional.normalize(projected[picture].double(), dim=1)
        x = x * relevance[picture].double()[:, None]
        expected = most_volume(x[:middle], -(-budget // 2))
        expected += [middle + i for i in most_volume(x[middle:], budget // 2)]
        assert kept[picture].tolist() == sorted(expected)


def most_volume(x, count):
    """The greedy walk by definition: each step the row that makes the Gram determinant largest."""
    chosen = []
    for _ in range(count):
        rest = [i for i in range(len(x)) if i not in chosen]
        volumes = [torch.logdet(x[[*chosen, i]] @ x[[*chosen, i]].T) for i in rest]
        chosen.append(rest[int(torch.stack(volumes).argmax())])
    return chosen


# DART on embeddings


@pytest.mark.parametrize("budget", [1, 3, 4, 5, 17, 34])
def test_dart_on_embeddings_is_what_tensorrt_edge_llm_describes(budget):
    """Its documentation in plain words; no vectors of its code were at hand."""
    x = torch.randn(2, 35, 24, generator=torch.Generator().manual_seed(0))
    kept = DartEmbedding()(VisualTokens((5, 7), projected=x), budget).indices
    for rows, ours in zip(x.double(), kept.tolist()):
        strongest = sorted(range(35), key=lambda i: -float(rows[i].abs().sum()))[: min(4, budget)]
        chosen = list(strongest)
        for waiting, pivot in zip(range(len(strongest), 0, -1), strongest):
            free = [i for i in range(35) if i not in chosen]
            cosine = {i: float(torch.cosine_similarity(rows[pivot], rows[i], dim=0)) for i in free}
            chosen += sorted(free, key=cosine.get)[: -(-(budget - len(chosen)) // waiting)]
        assert ours == sorted(chosen)

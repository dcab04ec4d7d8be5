"""The methods of 2026 select exactly what their authors' released code selects (golden_2026)."""

import pytest
import torch
from golden_cases import CASES, cases, indices, inputs, outputs, visual_tokens
from strategy_configs import random_tokens

from agilepruner.models.taps import QueryKeyTap
from agilepruner.strategies.adaptive.prunesid import PruneSID, choose, component_weights, components
from agilepruner.strategies.adaptive.scope import SCOPE
from agilepruner.strategies.attention.hiprune import HiPrune
from agilepruner.strategies.attention.holov import HoloV
from agilepruner.strategies.attention.vscan import VScan, windows
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


def test_prunesid_takes_no_group_from_rounding():
    """Patches of equal channels are in the first group; a component without variance has none."""
    x = random_tokens(0, 1, (6, 6), dim=80).features
    x[:, 7] = 0.0
    weights = component_weights(x)
    assert weights.shape == (1, 36, 9)
    assert components(weights, 9)[0, 7] == 0
    assert components(weights, 9).max() > 0
    assert int(components(component_weights(x[:, :1].expand(-1, 36, -1)), 9).max()) == 0
    assert not component_weights(torch.zeros(1, 36, 80)).any()


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
    relevance = CDPruner()._relevance(tokens)
    kept = CDPrunerHalves()(tokens, budget).indices
    for picture in range(2):
        x = torch.nn.functional.normalize(projected[picture].double(), dim=1)
        x = x * relevance[picture].double()[:, None]
        kernel = x @ x.T
        expected = most_volume(kernel[:middle, :middle], -(-budget // 2))
        expected += [middle + i for i in most_volume(kernel[middle:, middle:], budget // 2)]
        assert kept[picture].tolist() == sorted(expected)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_relevance_counts_as_much_as_it_weighs(weight):
    """The kernel as OpenVINO's documentation weighs it; without weight no question is needed."""
    make = torch.Generator().manual_seed(1)
    x, image, text = (torch.randn(1, n, 40, generator=make) for n in (24, 24, 2))
    joint = {"image_embeds": image, "text_embeds": text} if weight else {}
    tokens = VisualTokens((4, 6), projected=x, **joint)
    unit = torch.nn.functional.normalize(x[0].double(), dim=1)
    kernel = (unit @ unit.T).fill_diagonal_(1)
    if weight:
        relevance = CDPruner()._relevance(tokens)[0].double()
        kernel = kernel * (weight * relevance[:, None] * relevance + 1 - weight)
    strategy = CDPruner(relevance_weight=weight)
    assert strategy.reads_question == bool(weight)
    assert ("no question" in strategy.label) == (not weight)
    assert strategy(tokens, 7).indices[0].tolist() == sorted(most_volume(kernel, 7))
    halves = CDPrunerHalves(relevance_weight=weight)(tokens, 7).indices[0].tolist()
    second = most_volume(kernel[12:, 12:], 3)
    expected = most_volume(kernel[:12, :12], 4) + [12 + i for i in second]
    assert halves == sorted(expected)


def most_volume(kernel, count):
    """The greedy walk by definition: each step the token that makes the determinant largest."""
    chosen = []
    for _ in range(count):
        rest = [i for i in range(len(kernel)) if i not in chosen]
        volumes = [torch.logdet(kernel[[*chosen, i]][:, [*chosen, i]]) for i in rest]
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


# HiPrune


def hiprune_tokens(case):
    given, width = inputs(case), case["params"].get("width", 24)
    if "q_object" in given:  # attention as the adapters capture it
        given = {f"received_{at}": received(given, at) for at in ("object", "deep")}
    given = {role: x if x.dim() == 2 else x[None] for role, x in given.items()}
    if "width" not in case["params"]:  # Qwen has no CLS column
        given = {role: x[:, 1:] for role, x in given.items()}
    count = given["received_object"].shape[1]
    return VisualTokens((count // width, width), **given)


def received(given, at):
    """(1, N + 1) attention received at a layer of (H, T, d) queries and keys, CLS 0 in front."""
    tap = QueryKeyTap()
    tap.queries, tap.keys = (given[f"{x}_{at}"].transpose(0, 1).flatten(1)[None] for x in "qk")
    return torch.nn.functional.pad(tap.received_attention(heads=2, chunk=100), (1, 0))


def on_an_edge(tokens, count):
    """Whether an anchor of an image is at the edge, where the released code wraps."""
    rows, columns = tokens.grid
    anchors = tokens.received_object.topk(count, dim=1).indices
    at = [divmod(int(anchor), columns) for anchor in anchors.flatten()]
    return any(row in (0, rows - 1) or column in (0, columns - 1) for row, column in at)


@cases("hiprune")
def test_hiprune(case):
    params, mask = case["params"], outputs(case)
    if params.get("rows") == 256:
        pytest.skip("24 columns and 576 patches are constants of the released code: see below")
    tokens, alpha = hiprune_tokens(case), params["HIPRUNE_ALPHA"]
    budget = params.get("per_image") or params["wanted"]
    kept = HiPrune(alpha, wrap=True)(tokens, budget).indices
    expected = mask.get("mask_lowest", mask["mask"]).bool()
    for ours, theirs in zip(sets(kept), expected):
        if "wanted" in params:  # its Qwen file may take anchors twice, and so keeps too few
            assert set(theirs.nonzero()[:, 0].tolist()) <= ours
            assert len(ours) == budget
        else:
            assert ours == set(theirs.nonzero()[:, 0].tolist())
    if not on_an_edge(tokens, round(budget * alpha / 5)):
        assert torch.equal(HiPrune(alpha)(tokens, budget).indices, kept)


@one("hiprune/attention/T128")
def test_received_attention_is_the_released_one(case):
    given, expected = inputs(case), outputs(case)
    for at in ("object", "deep"):
        ours, theirs = received(given, at)[:, 1:], expected[f"received_{at}"]
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-5)


@cases("hiprune", fails=True)
def test_hiprune_meets_the_budgets_its_code_fails_at(case):
    tokens, budget = hiprune_tokens(case), case["params"]["per_image"]
    kept = HiPrune(case["params"]["HIPRUNE_ALPHA"])(tokens, budget).indices[0].tolist()
    assert len(set(kept)) == min(budget, 576)
    if budget < 576:  # 13 anchors in 65 places: anchors and the strongest's buffers come first
        anchors = tokens.received_object[0].topk(13).indices
        around = {int(anchors[0]) + step for step in (-24, -1, 1, 24)}
        assert set(anchors.tolist()) | around <= set(kept)


def test_hiprune_keeps_the_neighbours_of_any_grid_that_exist():
    """Anchors in a corner, at an edge and inside of 4 x 5; the registers are far from them."""
    seen, deep = torch.zeros(1, 20), torch.zeros(1, 20)
    seen[0, [0, 9, 12]] = torch.tensor([3.0, 2.0, 1.0])
    deep[0, 18] = 1.0
    tokens = VisualTokens((4, 5), received_object=seen, received_deep=deep)
    around = [0, 1, 5, 9, 8, 4, 14, 12, 11, 13, 7, 17]
    assert sets(HiPrune(alpha=1.0)(tokens, 13).indices) == [{*around, 18}]
    assert 10 in HiPrune(alpha=1.0, wrap=True)(tokens, 14).indices  # behind patch 9, a row below


# VScan


@cases("vscan/stage1")
def test_vscan_stage_1(case):
    given, expected = inputs(case), outputs(case)
    local = given["attention_local"][None, :, 1:]
    tokens = visual_tokens(given["projected"], given["attention"], attention_local=local)
    budget = case["params"]["visual_token_num"]
    selection = VScan()(tokens, budget)
    official = indices(expected.get("mask_lowest", expected["mask"]))
    assert selection.indices.shape == (1, budget)
    assert selection.projected
    if case["id"] == "vscan/stage1/sparse/T96":  # local tokens taken again for global ones
        assert set(official[0].tolist()) < set(selection.indices[0].tolist())
    elif official.shape[1] == budget:
        assert torch.equal(selection.indices, official)
        if "tokens" in expected:
            mixed = (selection.weights @ tokens.projected)[0]
            torch.testing.assert_close(mixed, expected["tokens"], atol=1e-4, rtol=1e-4)
    else:  # it rounds the local tokens of a window down: 98 of 100, 560 of 575
        assert official.shape[1] < budget


@cases("vscan/qwen_stage1")
def test_vscan_stage_1_of_the_released_qwen_file(case):
    given, expected, params = inputs(case), outputs(case), case["params"]
    tokens = VisualTokens(
        (15, 26),
        projected=given["features"][None, :390],
        attention=given["received_global"][None, None],
        attention_local=given["received_local"][None, None],
    )
    selection = VScan(window=params["window_size"])(tokens, params["K"])
    assert torch.equal(selection.indices, indices(expected["mask"]))
    mixed = (selection.weights @ tokens.projected)[0]
    torch.testing.assert_close(mixed, expected["tokens"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("budget", [1, 7, 31, 50, 100, 575])
def test_vscan_meets_budgets_its_code_misses(budget):
    case = next(c for c in CASES if c["id"] == "vscan/stage1/a/T96")
    given = inputs(case)
    local = given["attention_local"][None, :, 1:]
    tokens = visual_tokens(given["projected"], given["attention"], attention_local=local)
    kept = VScan()(tokens, budget).indices[0]
    assert kept.unique().numel() == budget
    if budget > 1:  # half of them local: the most attended patch of all windows is the first
        assert int(local[0].mean(dim=0).argmax()) in kept


def test_windows_cover_the_grid_and_the_last_takes_what_is_left():
    expected = [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [2, 2, 3, 3, 3], [2, 2, 3, 3, 3], [2, 2, 3, 3, 3]]
    assert windows((5, 5), 2).view(5, 5).tolist() == expected
    assert windows((24, 24), 6).bincount().tolist() == [36] * 16
    assert windows((1, 3), 6).tolist() == [0, 0, 0]


# PruneSID


def prunesid_tokens(case):
    given = inputs(case)
    features = given["features"] if given["features"].dim() == 3 else given["features"][None]
    return visual_tokens(features, given["attention"], cls=given["cls"].expand(len(features), -1))


@cases("prunesid")
def test_prunesid_given_the_groups(case):
    """The groups of the released code are random; everything behind them is not."""
    tokens, expected = prunesid_tokens(case), outputs(case)
    budget = case["params"]["need_token_num"]
    cosines = torch.nn.functional.normalize(tokens.features, dim=2)
    cosines = cosines @ cosines.mT
    official = expected.get("indices_lowest", expected["indices"]).long()
    assert (official[:, 0] == 0).all()  # the CLS token
    for image in range(tokens.batch):
        group = expected["group"][image].long()
        ours = choose(group, tokens.attention[image].sum(dim=0), cosines[image], budget)
        assert sorted(ours) == sorted((official[image, 1:] - 1).tolist())
        if not case.get("tie_sensitive"):
            assert ours == (official[image, 1:] - 1).tolist()


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["id"].startswith("prunesid/") and c["id"].endswith("exact")],
    ids=lambda case: case["id"],
)
def test_prunesid_with_exact_components(case):
    tokens, expected = prunesid_tokens(case), outputs(case)
    budget = case["params"]["need_token_num"]
    assert torch.equal(
        components(component_weights(tokens.features), budget // 4), expected["group"].long()
    )
    selection = PruneSID()(tokens, budget)
    official = expected.get("indices_lowest", expected["indices"]).long()
    assert (selection.indices[:, 0] == tokens.count).all()
    assert torch.equal(selection.indices[:, 1:], official[:, 1:] - 1)


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 575])
def test_prunesid_meets_every_budget(budget):
    case = next(c for c in CASES if c["id"] == "prunesid/a/T3_seed0")  # fails in its code
    tokens = prunesid_tokens(case)
    kept = PruneSID()(tokens, budget).indices[0]
    assert kept[0] == 576
    assert kept.unique().numel() == budget
    blind = VisualTokens((24, 24), tokens.features, attention=tokens.attention * 0, cls=tokens.cls)
    assert PruneSID()(blind, budget).indices[0].unique().numel() == budget

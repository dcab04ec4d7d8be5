"""Pruning inside the language model: schedules, ranking, and prefill against references."""

import copy

import pytest
import tiny_models
import torch
from golden_cases import CASES, INPUTS, OUTPUTS, cases, indices, inputs, outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_configs import ALL, random_tokens
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from agilepruner.errors import UserError
from agilepruner.models.decoder import Prefill, shorten
from agilepruner.strategies.base import keep_all, top
from agilepruner.strategies.decoder.dart import DART
from agilepruner.strategies.decoder.fastv import FastV
from agilepruner.strategies.decoder.pyramiddrop import PyramidDrop
from agilepruner.strategies.decoder.schedule import Stage, average, received
from agilepruner.strategies.decoder.sparsevlm import RELEASED, SparseVLM, raters
from agilepruner.strategies.decoder.vscan_full import VScanFull

DECODER = {name: s for name, s in ALL.items() if s.family == "decoder"}
each = pytest.mark.parametrize("name", DECODER)


# Schedules


@each
@settings(max_examples=60)
@given(st.integers(2, 48), st.integers(4, 3000), st.floats(0.02, 0.98))
def test_a_budget_is_the_average_over_layers(name, layers, tokens, share):
    budget = max(1, int(share * tokens))
    try:
        stages = DECODER[name].plan(layers, tokens, budget)
    except UserError as error:
        least = int(str(error).split()[-1].strip("."))
        assert least > budget
        stages, budget = DECODER[name].plan(layers, tokens, least), least
    entering = DECODER[name].entering(tokens, budget)
    reached = average(stages, layers, entering)
    assert reached <= budget
    assert reached > budget - max(2, 0.05 * tokens)
    visual = [entering, *(stage.visual for stage in stages)]
    assert visual == sorted(visual, reverse=True)
    at = [stage.layer for stage in stages]
    assert at == sorted(set(at))
    assert all(0 < layer < layers for layer in at)


@each
def test_a_full_budget_has_no_stages(name):
    assert DECODER[name].plan(32, 576, 576) == ()
    assert DECODER[name](random_tokens(0, 1, (2, 2)), 4).indices.tolist() == [[0, 1, 2, 3]]


@each
def test_as_many_tokens_enter_as_it_says(name):
    strategy, tokens = DECODER[name], random_tokens(0, 2, (6, 6))
    for budget in (1, 7, 20, 35, 36):
        assert strategy(tokens, budget).counts.tolist() == [strategy.entering(36, budget)] * 2


def test_impossible_budgets_name_the_smallest_possible_one():
    with pytest.raises(UserError, match=r"FastV cannot reach a budget of 32: .*budget is 37"):
        FastV().plan(32, 576, 32)
    assert average(FastV().plan(32, 576, 37), 32, 576) <= 37


def test_published_schedules_are_among_ours():
    assert FastV().plan(32, 576, 64) == (Stage(2, 29),)  # 29 tokens, as in FasterVLM's tables
    assert FastV().plan(40, 576, 128)[0].keep == 104
    assert VScanFull().entering(576, 64) == 96
    assert VScanFull().plan(32, 576, 64) == VScanFull().plan(32, 96, 64) == (Stage(16, 32),)
    assert VScanFull().plan(28, 576, 64) == (Stage(14, 32),)
    released = PyramidDrop(depths=(0.25, 0.5, 0.75)).plan(32, 576, 270)
    assert released == (Stage(8, 288), Stage(16, 144), Stage(24, 72))
    sizes = {n: [s.visual for s in SparseVLM(released=True).plan(32, 576, n)] for n in RELEASED}
    assert sizes[192] == [309, 204, 113]
    assert sizes[64] == [82, 32, 18]
    with pytest.raises(UserError, match="released=false"):
        SparseVLM(released=True).plan(32, 576, 100)


# Ranking and recycling, golden


@cases("fastv")
def test_fastv_ranks_as_released(case):
    start, count = case["params"]["sys_length"], case["params"]["image_token_length"]
    attention = inputs(case)["last_row"][:, None, start : start + count]
    kept = start + top(received(attention), case["params"]["attention_rank"]).sort().values
    total = inputs(case)["last_row"].shape[1]
    expected = outputs(case)
    sequence = torch.cat([torch.arange(start), kept, torch.arange(start + count, total)])
    assert torch.equal(sequence, expected["keep_indexs"])
    assert FastV.positions == "keep"
    assert torch.equal(sequence[None], expected["position_ids"])


def test_sparsevlm_raters_as_released():
    embeds = INPUTS["sv_embeds"]
    chosen = raters(embeds[35 : 35 + 576], embeds[35 + 576 :])
    assert torch.equal(chosen.nonzero().flatten(), OUTPUTS["sparsevlm/raters/t_idx"])


@pytest.mark.parametrize("case", [c for c in CASES if "retain" in c["id"]], ids=lambda c: c["id"])
def test_sparsevlm_drops_and_recycles_as_released(case):
    params, given_, expected = case["params"], inputs(case), outputs(case)
    start, count = params["v_token_start"], params["v_token_num"]
    asking = OUTPUTS["sparsevlm/raters/t_idx"]
    scores = received(given_["attn_text_to_visual"][:, asking])
    torch.testing.assert_close(scores, expected["relation"][0])
    number = (2, 6, 15).index(params["layer_idx"])
    stage = SparseVLM(released=True).plan(32, 576, params["RETAIN_TOKN"])[number]
    kept = top(scores, stage.keep).sort().values
    assert torch.equal(kept, indices(expected["keep_mask"])[0])

    visual = given_["layer_output"][start : start + count]
    stays = torch.ones(count, dtype=torch.bool)
    stays[kept] = False
    noise = expected["density_noise"][0] * 1e-6
    merged = SparseVLM().recycle(visual[stays], scores[stays], noise)
    text = given_["layer_output"][start + count :]
    hidden = torch.cat([given_["layer_output"][:start], visual[kept], merged, text])
    torch.testing.assert_close(hidden, expected["hidden"][0], atol=1e-4, rtol=1e-4)
    assert SparseVLM().recycle(visual[stays], scores[stays]).shape == merged.shape


def ranked_through_hooks(case, strategy, before, keep):
    """One decoder layer with the case's weights, whose output is its input: state and Prefill."""
    params, given_ = case["params"], inputs(case)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=params["heads"],
        num_key_value_heads=params["heads"],
        num_hidden_layers=2,
        rms_norm_eps=params["rms_eps"],
        rope_theta=params["rope_base"],
        vocab_size=8,
    )
    layer = LlamaDecoderLayer(config, layer_idx=1)
    layer.self_attn.q_proj.weight.data = given_["wq"]
    layer.self_attn.k_proj.weight.data = given_["wk"]
    layer.input_layernorm.weight.data = given_["norm"]
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp.down_proj.weight.data.zero_()

    hidden = given_["hidden"][None]
    start = params["image_index"]
    visual = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    visual[:, start : start + before] = True

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            first = copy.deepcopy(layer)
            first.self_attn.layer_idx = 0
            self.layers = torch.nn.ModuleList([first, layer])
            self.rotary_emb = LlamaRotaryEmbedding(config)
            self.config = config

    model = Model()
    config._attn_implementation = "sdpa"
    rotary = model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    prefill = Prefill(model, strategy, [[Stage(1, keep)]], visual)
    with torch.no_grad(), prefill.hooks():
        state = hidden
        for block in model.layers:
            state = block(state, position_embeddings=rotary, attention_mask=None)
    return state, prefill


@cases("pdrop")
def test_pyramiddrop_ranks_as_released(case):
    params = case["params"]
    before = round(params["image_tokens"] * params["ratios"][params["stage"]])
    keep = int(params["image_tokens"] * params["ratios"][params["stage"] + 1])
    state, _ = ranked_through_hooks(case, PyramidDrop(), before, keep)
    torch.testing.assert_close(state, outputs(case)["hidden"], atol=1e-5, rtol=1e-5)


@cases("vscan/stage2")
def test_vscan_ranks_as_released(case):
    (before, keep), expected = case["params"]["image_token_list"], outputs(case)
    state, prefill = ranked_through_hooks(case, VScanFull(), before, keep)
    kept, start = prefill.kept[0][0], case["params"]["image_index"]
    rest = torch.arange(start + before, len(inputs(case)["hidden"]))
    sequence = torch.cat([torch.arange(start), kept, rest])
    assert torch.equal(sequence, expected["kept"].long())
    torch.testing.assert_close(state[0], inputs(case)["hidden"][sequence])
    positions = torch.arange(len(sequence))  # reset
    assert torch.equal(positions[None], expected["position_ids"].long())
    assert (VScanFull.positions, VScanFull.decoding) == ("reset", "compact")


def dart(case):
    """What of the image stays in a case, and its pivots in order, absolute positions."""
    params, given_, expected = case["params"], inputs(case), outputs(case)
    length, first = params["L"], params["image_token_start_index"]
    count = params["image_token_length"]
    if params["text_length"] is not None:  # LLaVA-NeXT: whatever is not text
        count = length - params["text_length"]
    states = given_["states"][:length]
    keys = given_["keys"][:, :length].transpose(0, 1).flatten(1)
    keep = len(expected["kept"]) if "kept" in expected else params["max_num_trunction"] + 4
    kept = DART().choose(states, keys, first, count, keep)
    return first + kept, DART().pivots(keys, first, count, keep)[0]


@cases("dart")
def test_dart_chooses_as_released(case):
    kept, pivots = dart(case)
    expected = outputs(case)
    if case["id"] == "dart/llava/a_tie_trunc128":  # which of equally strong tokens: top-k's choice
        strength = inputs(case)["keys"].abs().sum(dim=(0, 2))
        official = strength[expected["pivots"].long()].sort().values
        torch.testing.assert_close(strength[pivots].sort().values, official)
        assert kept.unique().numel() == len(expected["kept"])
        return
    assert pivots == expected["pivots"].tolist()
    if case["id"].startswith("dart/llava/dup"):  # copies are equally similar
        kept, official = ((x.long() - 35).remainder(288) for x in (kept, expected["kept"]))
        assert torch.equal(kept.sort().values, official.sort().values)
    else:
        assert torch.equal(kept, expected["kept"].long())


@cases("dart", fails=True)
def test_dart_takes_the_short_questions_its_code_fails_at(case):
    """Three tokens behind the image, and four pivots of the text."""
    kept, pivots = dart(case)
    assert [p for p in pivots if p >= 35 + 576] == [611, 612, 613]
    assert kept.unique().numel() == 132


def test_dart_meets_every_number_of_tokens():
    make = torch.Generator().manual_seed(0)
    states, keys = (torch.randn(50, 16, generator=make) for _ in range(2))
    for keep in range(1, 31):
        assert DART().choose(states, keys, 12, 30, keep).unique().numel() == keep
        assert DART().choose(states[:42], keys[:42], 12, 30, keep).unique().numel() == keep


# Prefill, against plain generate and against an independent reference

NEW = 5  # generated tokens
LAYERS = 8


def tiny(kv_heads=4, attention="sdpa"):
    """A random decoder whose answers hang on its visual tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        num_hidden_layers=LAYERS,
        vocab_size=99,
        initializer_range=0.2,
        attn_implementation=attention,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def prompts(counts=(20, 20, 20), before=(3, 1, 6), after=(5, 9, 4)):
    """Left-padded ids with a run of visual tokens each, their visual mask and attention mask."""
    torch.manual_seed(1)
    lengths = [sum(parts) for parts in zip(counts, before, after)]
    ids = torch.randint(0, 99, (len(counts), max(lengths)))
    visual, mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    for row, (length, count, front) in enumerate(zip(lengths, counts, before)):
        pad = ids.shape[1] - length
        mask[row, pad:] = 1
        visual[row, pad + front : pad + front + count] = True
    return ids, visual, mask


def generate(model, ids, mask):
    with torch.no_grad():
        return model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )


def reference(model, ids, visual, answer, strategy, stages):
    """Logits of each step for one unpadded row: no cache, no masks, no hooks, every step anew."""
    config, blocks = model.config, model.model.layers
    head, heads = config.head_dim, config.num_attention_heads
    groups = heads // config.num_key_value_heads
    weight = model.model.embed_tokens.weight

    def rotate(x, positions):  # (H, L, d)
        base = config.rope_parameters["rope_theta"]
        angle = positions[:, None] * (1 / base ** (torch.arange(0, head, 2) / head))
        first, second = x.chunk(2, dim=-1)
        cosine, sine = angle.cos(), angle.sin()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    def attention(block, x, positions):
        normed = block.input_layernorm(x)
        project = block.self_attn
        queries = project.q_proj(normed).view(len(x), -1, head).transpose(0, 1)
        keys = project.k_proj(normed).view(len(x), -1, head).transpose(0, 1)
        values = project.v_proj(normed).view(len(x), -1, head).transpose(0, 1)
        keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
        logits = rotate(queries, positions) @ rotate(keys, positions).mT / head**0.5
        causal = torch.ones(len(x), len(x)).tril().bool()
        return logits.masked_fill(~causal, -torch.inf).softmax(-1), values, rotate(keys, positions)

    steps = []
    shares = roped = torch.empty(0)
    for made in range(NEW):
        sequence = torch.cat([ids, answer[:made]])
        size, x = len(ids), weight[sequence]
        positions = torch.arange(len(sequence)).float()
        seen = visual.clone()
        asking = torch.tensor([size - 1])
        if strategy.queries == "raters":
            end = int(visual.nonzero()[-1]) + 1
            asking = end + raters(x[:size][visual], x[end:size]).nonzero().flatten()
        for index, block in enumerate(blocks):
            for stage in [s for s in stages if s.layer == index]:
                ranking = shares
                if strategy.ranks == "next":
                    ranking = attention(block, x[:size], positions[:size])[0]
                scores = ranking[:, asking - len(ids) + size][:, :, :size][..., seen]
                scores = scores.mean(0).mean(0)
                at = seen.nonzero().flatten()
                best = at[scores.argsort(descending=True)[: stage.keep].sort().values]
                if strategy.ranks == "states":
                    states = model.model.norm(x[:size])
                    best = torch.tensor(dart_by_hand(states, roped[:, :size], at, stage.keep))
                lost = torch.tensor([i for i in at.tolist() if i not in best.tolist()])
                merged = strategy.recycle(x[lost], scores[lost - at[0]])
                front, back = torch.arange(at[0]), torch.arange(at[-1] + 1, len(x))
                positions = torch.cat([positions[front], positions[best], positions[back]])
                x = torch.cat([x[front], x[best], merged, x[back]])
                seen = torch.zeros(size - len(lost) + len(merged), dtype=torch.bool)
                seen[at[0] : at[0] + stage.visual] = True
                size = len(seen)
                if strategy.positions == "reset":
                    follow = size if strategy.decoding == "compact" else len(ids)
                    positions = torch.cat([torch.arange(size), follow + torch.arange(made)]).float()
            shares, values, roped = attention(block, x, positions)
            mixed = (shares @ values).transpose(0, 1).reshape(len(x), -1)
            x = x + block.self_attn.o_proj(mixed)
            x = x + block.mlp(block.post_attention_layernorm(x))
        steps.append(model.lm_head(model.model.norm(x))[-1])
    return torch.stack(steps)


def dart_by_hand(states, keys, image, keep):
    """Positions that stay, one token at a time; keys of all query heads, as in DART's code."""
    strength = keys.abs().sum(dim=(0, 2)).tolist()
    behind = range(int(image[-1]) + 1, len(states))
    first = sorted(image.tolist(), key=lambda i: -strength[i])[: min(4, keep)]
    pivots = list(set(first + sorted(behind, key=lambda i: -strength[i])[:4]))
    chosen, left = list(first), keep - len(first)
    for number, pivot in enumerate(pivots):
        for _ in range(left // len(pivots) + (number < left % len(pivots))):
            free = [i for i in image.tolist() if i not in chosen]
            same = torch.cosine_similarity(states[free], states[pivot][None])
            chosen.append(free[int(same.argmin())])
    return sorted(chosen)


@each
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_nothing_dropped_is_plain_generate(name, kv_heads, attention):
    model, (ids, visual, mask) = tiny(kv_heads, attention), prompts()
    plain = generate(model, ids, mask)
    plans = [[Stage(2, 20), Stage(5, 20)]] * len(ids)
    with Prefill(model.model, DECODER[name], plans, visual, mask).hooks() as prefill:
        pruned = generate(model, ids, mask)
    assert len(prefill.kept) == 2
    for step, expected in zip(pruned.logits, plain.logits):
        assert (step - expected).abs().max() == 0.0
    again = generate(model, ids, mask)  # and nothing of it stays behind
    assert (torch.stack(again.logits) - torch.stack(plain.logits)).abs().max() == 0.0


@each
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("counts", [(20, 20, 20), (20, 13, 27)], ids=["equal", "ragged"])
def test_pruned_prefill_is_the_reference(name, kv_heads, attention, counts):
    strategy, model = DECODER[name], tiny(kv_heads, attention)
    ids, visual, mask = prompts(counts)
    with shorten(model.model, strategy, 8, visual, mask) as prefill:
        output = generate(model, ids, mask)
    logits = torch.stack(output.logits, dim=1)  # (B, NEW, vocabulary)
    assert (logits - torch.stack(generate(model, ids, mask).logits, dim=1)).abs().max() > 0.1
    for row, count in enumerate(counts):
        real = mask[row].bool()
        stages = strategy.plan(LAYERS, count, 8)
        answer = output.sequences[row, ids.shape[1] :]
        with torch.no_grad():
            expected = reference(model, ids[row, real], visual[row, real], answer, strategy, stages)
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-5)
        audit_one_row(prefill, row, stages, count, visual[row])
    if len(set(counts)) == 1:
        lengths = [layer.keys.shape[-2] for layer in output.past_key_values.layers]
        text = ids.shape[1] - counts[0] + NEW - 1
        assert [length - text for length in lengths] == prefill.visual[0].tolist()


def audit_one_row(prefill, row, stages, count, visual):
    """The audit says how many tokens each layer saw, and which were kept."""
    bounds = [0, *(stage.layer for stage in stages), LAYERS]
    seen = [count, *(stage.visual for stage in stages)]
    expected = [n for n, a, b in zip(seen, bounds, bounds[1:]) for _ in range(b - a)]
    assert prefill.visual[row].tolist() == expected
    before = set(visual.nonzero().flatten().tolist())
    for stage, kept in zip(stages, prefill.kept):
        now = [i for i in kept[row].tolist() if i >= 0]  # -1: made of dropped tokens earlier
        assert len(kept[row]) == stage.keep
        assert set(now) <= before
        before = set(now)


def test_one_context_serves_many_calls_and_refuses_other_prompts():
    model, (ids, visual, mask) = tiny(), prompts()
    with shorten(model.model, FastV(), 8, visual, mask) as prefill:
        first = generate(model, ids, mask)
        second = generate(model, ids, mask)
        assert torch.equal(torch.stack(first.logits), torch.stack(second.logits))
        assert len(prefill.kept) == 1
        with pytest.raises(ValueError, match="after expanding placeholders"):
            generate(model, ids[:, 1:], mask[:, 1:])
    with pytest.raises(ValueError, match="one contiguous run"):
        Prefill(model.model, FastV(), [[]] * 3, visual & (ids % 2 == 0), mask)


@each
def test_half_precision_generates(name):
    model, (ids, visual, mask) = tiny().to(torch.bfloat16), prompts()
    with shorten(model.model, DECODER[name], 8, visual, mask):
        assert generate(model, ids, mask).sequences.shape[1] == ids.shape[1] + NEW


# Inside the real vision-language classes, M-RoPE and left padding included


def answer(adapter):
    """What ``adapter.run`` needs for three documents, and their prompt masks."""
    tokens = adapter.encode(tiny_models.images(), adapter.provides)
    asked = [adapter.tokenize(question) for question in tiny_models.QUESTIONS]
    visuals = [adapter.embed(one, keep_all(one)) for one in tokens]
    output, rows, pads = adapter.run(asked, visuals, NEW, output_logits=True)
    ids = torch.tensor([[0] * pad + row for pad, row in zip(pads, rows)])
    mask = torch.tensor([[0] * pad + [1] * len(row) for pad, row in zip(pads, rows)])
    visual = (ids == adapter.image_token) & mask.bool()
    return asked, visuals, visual, mask, torch.stack(output.logits, dim=1)


@pytest.mark.parametrize("kind", ["llava", "next_native", "qwen"])
@each
def test_in_every_model_nothing_dropped_is_plain(kind, name):
    adapter = tiny_models.adapter(kind)
    asked, visuals, visual, mask, plain = answer(adapter)
    plans = [[Stage(1, count)] for count in visual.sum(dim=1).tolist()]
    language = adapter.model.model.language_model
    with Prefill(language, DECODER[name], plans, visual, mask).hooks():
        output, *_ = adapter.run(asked, visuals, NEW, output_logits=True)
    logits = torch.stack(output.logits, dim=1)
    if kind == "qwen" and DECODER[name].positions == "reset":
        assert torch.isfinite(logits).all()  # positions in the image are given up, as declared
    else:
        assert (logits - plain).abs().max() == 0.0


@pytest.mark.parametrize("kind", ["llava", "next_native", "qwen"])
def test_in_every_model_fastv_is_the_whole_sequence_with_the_dropped_masked(kind):
    adapter = tiny_models.adapter(kind)
    asked, visuals, visual, mask, plain = answer(adapter)
    language = adapter.model.model.language_model
    plans = [[Stage(1, count // 4)] for count in visual.sum(dim=1).tolist()]
    with Prefill(language, FastV(), plans, visual, mask).hooks() as prefill:
        output, *_ = adapter.run(asked, visuals, NEW, output_logits=True)
    there = mask.bool() & ~visual
    for row, kept in enumerate(prefill.kept[0]):
        there[row, kept] = True

    def hide(_layer, args, named):
        length = (args[0] if args else named["hidden_states"]).shape[1]
        past = named["past_key_values"].get_seq_length(1)
        columns = torch.nn.functional.pad(there, (0, past + length - there.shape[1]), value=True)
        causal = torch.ones(length, past + length, dtype=torch.bool).tril(past)
        seen = causal & columns[:, None, None]
        seen |= torch.eye(length, past + length, dtype=torch.bool) & (past == 0)  # no empty rows
        return args, {**named, "attention_mask": seen}

    handle = language.layers[1].register_forward_pre_hook(hide, with_kwargs=True)
    try:
        expected, *_ = adapter.run(asked, visuals, NEW, output_logits=True)
    finally:
        handle.remove()
    difference = torch.stack(output.logits, dim=1) - torch.stack(expected.logits, dim=1)
    assert difference.abs().max() < 1e-5 * plain.abs().max()
    assert (torch.stack(output.logits, dim=1) - plain).abs().max() > 0.05

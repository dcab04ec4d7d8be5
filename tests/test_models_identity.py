"""Nothing dropped is the plain model; something dropped is that model without those tokens.

Tiny random models of the real classes with the real token geometry. Bit-identical where the same
numbers are computed in the same order; within float32 rounding where batches or masks differ.
"""

from dataclasses import dataclass, replace

import pytest
import tiny_models as tiny
import torch
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from agilepruner.models.base import Visual
from agilepruner.strategies.base import Selection, keep_all
from agilepruner.strategies.decoder.fastv import FastV
from agilepruner.strategies.decoder.schedule import Stage

STEPS = 6
QWEN = ("qwen", "qwen3")
ROUNDING = 2e-5  # float32 logits of standard deviation 1.5, after six greedy steps


def encode(kind, dtype=torch.float32, count=3):
    model = tiny.adapter(kind, dtype)
    tokens = model.encode(tiny.images()[:count], model.provides)
    return model, tokens, [model.tokenize(question) for question in tiny.QUESTIONS[:count]]


def every(tokens, step):
    """Every step-th token of each tile; the first one moves with the tile."""
    rows = [torch.arange(t % step, tokens.count, step) for t in range(tokens.batch)]
    least = min(map(len, rows))
    return Selection(torch.stack([row[:least] for row in rows]))


def run(model, prompts, visuals):
    """New tokens (B, S) and logits (B, S, V)."""
    output, rows, pads = model.run(prompts, visuals, STEPS, output_logits=True)
    return output.sequences[:, len(rows[0]) + pads[0] :], torch.stack(output.logits, dim=1)


def plain(model, kind, count):
    """The same through transformers alone: its processor's output into ``model.generate``."""
    batch = model.image_processor(images=list(tiny.images()[:count]), return_tensors="pt")
    pixels = batch["pixel_values"].to(model.model.dtype)
    prompts = [model.tokenize(question) for question in tiny.QUESTIONS[:count]]
    extra = {}
    if kind == "llava":
        sizes = [576] * count
    elif kind in QWEN:
        sizes = (batch["image_grid_thw"].prod(dim=1) // 4).tolist()
        extra["image_grid_thw"] = batch["image_grid_thw"]
    elif kind == "smolvlm":
        return plain_smolvlm(model, count)
    elif kind == "internvl":
        sizes = [tiles * 16 for tiles in batch["num_patches"]]
    else:
        features = model.model.model.get_image_features(pixels, batch["image_sizes"])
        sizes = [len(feature) for feature in features.pooler_output]
        extra["image_sizes"] = batch["image_sizes"]
    ids, mask = left_pad([model._expand(ids, size) for ids, size in zip(prompts, sizes)])
    if kind in QWEN:
        extra["mm_token_type_ids"] = (ids == model.image_token).int()
    output = model.model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, **extra, **settings()
    )
    return output.sequences[:, ids.shape[1] :], torch.stack(output.logits, dim=1)


def plain_smolvlm(model, count):
    """Its prompts hold the markers of the tiles as text, as its processor writes them."""
    pictures = [[image] for image in tiny.images()[:count]]
    batch = model.image_processor(images=pictures, return_tensors="pt", return_row_col_info=True)
    rows = []
    for question, (down,), (across,) in zip(tiny.QUESTIONS, batch["rows"], batch["cols"]):
        marks = ("<fake_token_around_image>", "<image>", "<global-img>")
        text = get_image_prompt_string(int(down), int(across), 16, *marks)
        before, after = model.prompt.replace("{question}", question).split("<image>")
        rows.append(model.tokenizer(before + text + after)["input_ids"])
    ids, mask = left_pad(rows)
    output = model.model.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=batch["pixel_values"].to(model.model.dtype),
        pixel_attention_mask=batch["pixel_attention_mask"],
        **settings(),
    )
    return output.sequences[:, ids.shape[1] :], torch.stack(output.logits, dim=1)


def settings():
    return {
        "max_new_tokens": STEPS,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
        "pad_token_id": tiny.token("<pad>"),
    }


def left_pad(rows):
    length, filler = max(map(len, rows)), tiny.token("<pad>")
    ids = torch.tensor([[filler] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def from_embeddings(model, prompts, visuals):
    """Prompt embeddings put together by hand and generated from: the official re-indexed layout."""
    table = model.model.get_input_embeddings()
    rows = []
    for ids, embeds in zip(prompts, visuals):
        at = ids.index(model.image_token)
        before, after = table(torch.tensor(ids[:at])), table(torch.tensor(ids[at + 1 :]))
        rows.append(torch.cat([before, embeds, after]))
    length = max(map(len, rows))
    filler = table(torch.tensor([tiny.token("<pad>")]))
    padded = torch.stack([torch.cat([filler.expand(length - len(r), -1), r]) for r in rows])
    mask = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])
    output = model.model.generate(inputs_embeds=padded, attention_mask=mask, **settings())
    return output.sequences, torch.stack(output.logits, dim=1)


def official_assembly(model, tokens, keep):
    """Overview then mosaic without newlines, assembled as VisPruner does: permute, then mask."""
    rows, columns = get_anyres_image_grid_shape(torch.tensor([1, 1]), [[672, 672]], 336)
    features = tokens.projected[1:].view(rows, columns, 24, 24, -1).transpose(1, 2).flatten(0, 3)
    mask = keep[1:].view(rows, columns, 24, 24).transpose(1, 2).flatten()
    return torch.cat([tokens.projected[0][keep[0]], features[mask]])


@pytest.mark.parametrize("count", [1, 3], ids=["single", "ragged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_full_budget_is_plain_generate(kind, dtype, count):
    model, tokens, prompts = encode(kind, dtype, count)
    visuals = [model.embed(t, keep_all(t)) for t in tokens]
    answers, logits = run(model, prompts, visuals)
    if kind == "next_paper":  # transformers has no such geometry
        everything = [torch.ones(t.batch, t.count, dtype=torch.bool) for t in tokens]
        assembled = [official_assembly(model, t, keep) for t, keep in zip(tokens, everything)]
        expected = from_embeddings(model, prompts, assembled)
    else:
        expected = plain(model, kind, count)
    assert torch.equal(answers, expected[0])
    assert float((logits - expected[1]).abs().max()) == 0.0
    assert [len(v) for v in visuals] == [model.offered(t) for t in tokens]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_tiny_models_see_their_images(kind):
    """Otherwise everything here would pass whatever an adapter did."""
    model, tokens, prompts = encode(kind)
    visuals = [model.embed(t, keep_all(t)) for t in tokens]
    _, logits = run(model, prompts, visuals)
    swapped = [model.embed(t, keep_all(t)) for t in tokens[::-1]]
    _, other = run(model, prompts, swapped)
    pruned = [model.embed(t, every(t, 8)) for t in tokens]
    _, fewer = run(model, prompts, pruned)
    assert float((logits - other)[:, 0].abs().max()) > 0.5
    assert float((logits - fewer)[:, 0].abs().max()) > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llava", "next_paper"])
def test_pruned_is_the_official_reindexed_layout(kind, dtype):
    model, tokens, prompts = encode(kind, dtype)
    selections = [every(t, step) for t, step in zip(tokens, (3, 9, 27))]
    visuals = [model.embed(t, s) for t, s in zip(tokens, selections)]
    answers, logits = run(model, prompts, visuals)
    official = []
    for t, selection in zip(tokens, selections):
        keep = torch.zeros(t.batch, t.count, dtype=torch.bool)
        keep.scatter_(1, selection.indices, True)
        single = kind == "llava"
        official.append(t.projected[0][keep[0]] if single else official_assembly(model, t, keep))
    expected = from_embeddings(model, prompts, official)
    assert torch.equal(answers, expected[0])
    assert float((logits - expected[1]).abs().max()) == 0.0


@pytest.mark.parametrize("kind", QWEN)
def test_pruned_qwen_is_the_full_sequence_with_the_dropped_positions_masked(kind):
    """Of Qwen3-VL with DeepStack: its features leave with their tokens."""
    model, tokens, prompts = encode(kind)
    selections = [every(t, step) for t, step in zip(tokens, (2, 3, 5))]
    visuals = [model.embed(t, s) for t, s in zip(tokens, selections)]
    answers, logits = run(model, prompts, visuals)
    for i, (t, selection, ids) in enumerate(zip(tokens, selections, prompts)):
        whole = model.embed(t, keep_all(t))
        full = torch.tensor([model._expand(ids, len(whole))])
        mask = torch.ones_like(full)
        at = ids.index(model.image_token)
        mask[0, at : at + t.count] = 0
        mask[0, at + selection.indices[0]] = 1
        output = model.model.generate(
            input_ids=full,
            attention_mask=mask,
            mm_encoder_outputs={"image": model.encoder_outputs([whole])},
            **model.positions([ids], [whole], [0]),
            **settings(),
        )
        assert torch.equal(output.sequences[0, full.shape[1] :], answers[i])
        difference = torch.stack(output.logits, dim=1)[0] - logits[i]
        assert float(difference.abs().max()) < ROUNDING


def test_qwen_positions_are_not_the_contiguous_ones():
    """Without explicit positions transformers silently takes 1-D ones."""
    model, tokens, prompts = encode("qwen", count=1)
    visual = model.embed(tokens[0], every(tokens[0], 3))
    positions = model.positions(prompts, [visual], [0])["position_ids"]
    assert positions.shape == (4, 1, len(prompts[0]) - 1 + len(visual))
    rows, columns = tokens[0].grid
    at = prompts[0].index(model.image_token)
    kept = visual.anchors
    assert torch.equal(positions[2, 0, at : at + len(kept)], at + kept // columns)
    assert torch.equal(positions[3, 0, at : at + len(kept)], at + kept % columns)
    assert int(positions[1, 0, at + len(kept)]) == at + max(rows, columns)
    _, logits = run(model, prompts, [visual])
    model.positions, placed = lambda *_: {}, model.positions
    try:
        _, contiguous = run(model, prompts, [visual])
    finally:
        model.positions = placed
    assert float((logits - contiguous)[:, 0].abs().max()) > 0.1


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_batch_gives_what_each_document_gives_alone(kind):
    model, tokens, prompts = encode(kind)
    visuals = [model.embed(t, every(t, step)) for t, step in zip(tokens, (4, 9, 16))]
    answers, logits = run(model, prompts, visuals)
    for i, (prompt, visual) in enumerate(zip(prompts, visuals)):
        alone, its_logits = run(model, [prompt], [visual])
        steps = its_logits.shape[1]
        assert torch.equal(alone[0], answers[i, :steps])
        assert float((its_logits[0] - logits[i, :steps]).abs().max()) < ROUNDING


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_what_enters_the_language_model_is_counted_from_its_cache(kind):
    model, tokens, prompts = encode(kind)
    visuals = [model.embed(t, every(t, step)) for t, step in zip(tokens, (4, 9, 16))]
    layers = model.config.text_config.num_hidden_layers
    for ids, visual, answer in zip(prompts, visuals, model.generate(prompts, visuals, STEPS)):
        assert answer.visual == (len(visual),) * layers
        assert answer.prefill == (len(visual) + len(ids) - 1,) * layers
        assert 1 <= answer.new_tokens <= STEPS


def hand_placed(model, prompts, visuals, image_places):
    """Greedy answers of the plain model, row by row, with every position written out.

    No left padding, no ``generate``, no cache: each step is a forward of the whole row.
    ``image_places`` has, per row, the place of each visual token and where the text goes on; one
    number each, or time, height and width.
    """
    table = model.model.get_input_embeddings()
    answers, logits = [], []
    for ids, visual, (image, behind) in zip(prompts, visuals, image_places):
        at = ids.index(model.image_token)
        parts = [table(torch.tensor(ids[:at])), visual.embeds, table(torch.tensor(ids[at + 1 :]))]
        sequence = torch.cat(parts)
        places = [torch.arange(at).expand(len(image), -1), at + image]
        places += [at + behind + torch.arange(len(parts[2])).expand(len(image), -1)]
        position = torch.cat(places, dim=1)  # (1 or 3, n)
        said, seen = [], []
        for _ in range(STEPS):
            deep = {}
            if visual.deep is not None:
                here = torch.zeros(1, len(sequence), dtype=torch.bool)
                here[0, at : at + len(visual)] = True
                deep = {"visual_pos_masks": here, "deepstack_visual_embeds": list(visual.deep)}
            output = model.model.get_decoder()(
                inputs_embeds=sequence[None],
                attention_mask=torch.ones(1, len(sequence)),
                position_ids=position if len(position) == 1 else position[:, None],
                use_cache=False,
                **deep,
            )
            seen.append(model.model.lm_head(output.last_hidden_state)[0, -1])
            said.append(int(seen[-1].argmax()))
            sequence = torch.cat([sequence, table(torch.tensor(said[-1:]))])
            position = torch.cat([position, position[:, -1:] + 1], dim=1)
        answers.append(torch.tensor(said))
        logits.append(torch.stack(seen))
    return torch.stack(answers), torch.stack(logits)


def places_of(kind, positions, tokens, selection, visual):
    """Where kept tokens and the text behind the image are, counted from the selection."""
    kept = selection.indices
    rows, columns = tokens.grid
    if positions == "reset" and kind in QWEN and kept.shape[1] == tokens.count:
        positions = "keep"  # nothing is dropped: as the plain model has it
    if positions == "reset":
        return torch.arange(len(visual)).expand(3 if kind in QWEN else 1, -1), len(visual)
    if kind in QWEN:
        time = torch.zeros_like(kept)
        return torch.cat([time, kept // columns, kept % columns]), max(rows, columns)
    if kind == "llava":
        return kept, 576
    if kind == "next_paper":  # overview, then four tiles as one picture of 48 x 48
        tile = torch.arange(1, 5)[:, None] - 1
        row, column = tile // 2 * 24 + kept[1:] // 24, tile % 2 * 24 + kept[1:] % 24
        mosaic = 576 + (row * 48 + column).flatten().sort().values
        return torch.cat([kept[0], mosaic])[None], 2880
    if kind == "internvl":  # tile behind tile
        return (torch.arange(tokens.batch)[:, None] * tokens.count + kept).view(1, -1), visual.whole
    return visual.anchors[None], tokens.order.numel()  # held against transformers elsewhere


@pytest.mark.parametrize("positions", ["reset", "keep"])
@pytest.mark.parametrize("kind", tiny.KINDS)
@torch.inference_mode()
def test_positions_are_what_is_asked_for(kind, positions):
    """In one left-padded batch: an image that keeps all, and two that keep a third and a ninth."""
    model, tokens, prompts = encode(kind)
    selections = [every(t, step) for t, step in zip(tokens, (1, 3, 9))]
    visuals = [model.embed(t, s) for t, s in zip(tokens, selections)]
    visuals = [replace(visual, positions=positions) for visual in visuals]
    answers, logits = run(model, prompts, visuals)
    places = [places_of(kind, positions, *each) for each in zip(tokens, selections, visuals)]
    expected = hand_placed(model, prompts, visuals, places)
    assert torch.equal(answers, expected[0])
    assert float((logits - expected[1]).abs().max()) < ROUNDING
    assert [v.pruned for v in visuals] == [False, True, True]
    others = [replace(v, positions="keep" if positions == "reset" else "reset") for v in visuals]
    difference = (run(model, prompts, others)[1] - logits)[:, 0].abs().amax(dim=-1)
    assert difference[0] < ROUNDING  # every token kept: both are the plain model
    assert float(difference[1:].min()) > 0.01  # and where some are not, it matters


def one_by_one(kind, tokens, selection):
    """Places of a selection's tokens, tile after tile, each looked up by itself."""
    n, (rows, columns) = tokens.count, tokens.grid
    order = tokens.order.tolist() if hasattr(tokens, "order") else list(range(tokens.batch * n))
    markers = [at for at, number in enumerate(order) if number < 0] if kind == "smolvlm" else []
    found = []
    for tile, indices in enumerate(selection.indices.tolist()):
        found += [at for at in markers if (found or [-1])[-1] < at < order.index(tile * n)]
        for index in indices:
            if index == -1:
                continue  # no token
            if index < n and kind == "next_paper" and tile:
                down, across = divmod(tile - 1, 2)
                found.append(n + (down * 24 + index // 24) * 48 + across * 24 + index % 24)
            elif index < n and tile * n + index in order:
                found.append(order.index(tile * n + index))
            else:  # CLS, a summary, or an anchor that is padding
                found.append(found[-1] if found else 0)
    places = torch.tensor([*found, *(at for at in markers if at > order.index(tile * n))])
    if kind not in QWEN:
        return places[None], len(order)
    return torch.stack([places * 0, places // columns, places % columns]), max(rows, columns)


def mixed(tokens, count):
    """A selection that merges: CLS in front, anchors out of order and twice, a summary behind."""
    n, draw = tokens.count, torch.Generator().manual_seed(5)
    rows = []
    for tile in range(tokens.batch):
        picks = torch.randperm(n, generator=draw)[:count]
        rows.append(torch.cat([torch.tensor([n]), picks, picks[:1], torch.tensor([n])]))
        if tile == 1:
            rows[-1][-2] = -1  # one fewer
    indices = torch.stack(rows)
    weights = torch.rand(*indices.shape, n, generator=draw).softmax(dim=-1)
    return Selection(indices, weights, projected=True)


@pytest.mark.parametrize("kind", tiny.KINDS)
@torch.inference_mode()
def test_merged_tokens_are_placed_one_by_one_and_rules_mix_in_a_batch(kind):
    """Kept, reset and kept in one left-padded batch; the plain model with places by hand."""
    model, tokens, prompts = encode(kind)
    selections = [mixed(t, count) for t, count in zip(tokens, (3, 5, 4))]
    visuals = [model.embed(t, s) for t, s in zip(tokens, selections)]
    rules = ["keep", "reset", "keep"]
    visuals = [replace(visual, positions=rule) for visual, rule in zip(visuals, rules)]
    places = [one_by_one(kind, *each) for each in zip(tokens, selections)]
    steps = torch.arange(len(visuals[1]))
    places[1] = steps.expand(len(places[1][0]), -1), len(visuals[1])
    answers, logits = run(model, prompts, visuals)
    expected = hand_placed(model, prompts, visuals, places)
    assert torch.equal(answers, expected[0])
    assert float((logits - expected[1]).abs().max()) < ROUNDING
    assert [len(p) for p, _ in (places[0], places[2])] == [3 if kind in QWEN else 1] * 2


def test_a_token_that_is_no_patch_shares_the_place_before_it():
    def places(*anchors):
        return Visual(torch.zeros(len(anchors), 4), torch.tensor(anchors), 9).places.tolist()

    assert places(-1, 3, 7) == [0, 3, 7]  # CLS in front: the image's first place
    assert places(2, 5, -1) == [2, 5, 5]  # a summary behind
    assert places(8, -1, -1, 1) == [8, 8, 8, 1]  # merged tokens have their anchors', in any order
    model, tokens, _ = encode("next_native", count=1)
    n, order = tokens[0].count, tokens[0].order.tolist()
    merged = torch.tensor([[0, n, -1], [0, 300, n]] + [[0, 5, 300]] * (tokens[0].batch - 2))
    weights = torch.zeros(*merged.shape, n).scatter(2, merged.clamp(0, n - 1)[..., None], 1.0)
    anchors = model.embed(tokens[0], Selection(merged, weights)).anchors.tolist()
    assert anchors[:2] == [0, -1]  # the padding of the first tile is dropped
    there = [order.index(t * n + i) if t * n + i in order else -1 for t in (1,) for i in (0, 300)]
    assert anchors[2:5] == [*there, -1]


@dataclass(frozen=True)
class Planned(FastV):
    """FastV that keeps a share of the tokens before the second layer."""

    share: float = 1.0

    def plan(self, layers, tokens, budget):
        return [Stage(1, int(self.share * tokens), 0)]


@torch.inference_mode()
def test_deepstack_features_behind_a_stage_are_those_of_the_tokens_left():
    """Nothing dropped is the plain model; half of it dropped, the layers run by hand."""
    model, tokens, prompts = encode("qwen3", count=1)
    visual, ids = model.embed(tokens[0], keep_all(tokens[0])), prompts[0]
    plain_logits = run(model, prompts, [visual])[1]
    for share in (1.0, 0.5):
        kept = []
        output, *_ = model.run(
            prompts, [visual], 1, (Planned(share=share), 9), output_logits=True, prefills=kept
        )
        logits = output.logits[0][0]
        if share == 1:
            assert float((logits - plain_logits[0, 0]).abs().max()) == 0.0
            continue
        decoder, at = model.model.get_decoder(), ids.index(model.image_token)
        table = decoder.get_input_embeddings()
        parts = [table(torch.tensor(ids[:at])), visual.embeds, table(torch.tensor(ids[at + 1 :]))]
        hidden = torch.cat(parts)[None]
        places = model.positions(prompts, [visual], [0])["position_ids"][1:]
        rotary = decoder.rotary_emb(hidden, places)
        hidden = decoder.layers[0](hidden, position_embeddings=rotary)
        hidden[0, at : at + len(visual)] += visual.deep[0]
        mine = kept[0].kept[0][0]
        rest = torch.cat([torch.arange(at), mine, torch.arange(at + len(visual), hidden.shape[1])])
        hidden, rotary = hidden[:, rest], tuple(part[:, rest] for part in rotary)
        hidden = decoder.layers[1](hidden, position_embeddings=rotary)
        hidden[0, at : at + len(mine)] += visual.deep[1][mine - at]
        hidden = decoder.layers[2](hidden, position_embeddings=rotary)
        expected = model.model.lm_head(decoder.norm(hidden))[0, -1]
        assert len(mine) == len(visual) // 2
        assert float((logits - expected).abs().max()) < ROUNDING
        assert float((logits - plain_logits[0, 0]).abs().max()) > 0.1

"""What an adapter reads from a tower: attention equal to eager, each index on its own patch."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from golden_cases import FOLDER
from omegaconf import OmegaConf
from PIL import Image
from plans import composed, planned
from safetensors.torch import load_file
from transformers import LlamaTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from agilepruner.errors import UserError
from agilepruner.models.hugging_face import image_processor_for
from agilepruner.models.llava import LlavaAdapter
from agilepruner.models.llava_next import NEWLINE, kept_positions, mosaic
from agilepruner.models.shapes import config_of
from agilepruner.models.taps import at_depth
from agilepruner.strategies.base import LOCAL_DEPTH, OBJECT_DEPTH, Selection, keep_all

pytestmark = pytest.mark.usefixtures("without_gradients")
ORDERS = load_file(FOLDER / "next_order.safetensors")


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", ["llava", "next_paper"])
def test_tapped_cls_attention_is_eager_attention(kind):
    model = tiny.adapter(kind)
    shallow = {"attention_local", "received_object", "received_deep"}
    tokens = model.encode(tiny.images(), shallow | {"attention", "cls", "last_query"})
    eager = tiny.build(kind, attention="eager")
    for image, encoded in zip(tiny.images(), tokens):
        pixels = model.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            seen = eager.model.vision_tower(
                pixels.reshape(-1, 3, 336, 336), output_attentions=True, output_hidden_states=True
            )
        expected = seen.attentions[-2][:, :, 0, 1:]
        assert encoded.attention.shape == expected.shape
        assert float((encoded.attention - expected).abs().max()) < 1e-6
        assert float(expected.std()) > 1e-4  # not flat: a wrong layer or head would show
        torch.testing.assert_close(encoded.attention_local, seen.attentions[0][:, :, 0, 1:])
        for name, layer in (("received_object", 0), ("received_deep", -2)):
            received = seen.attentions[layer].mean(dim=(1, 2))[:, 1:]
            torch.testing.assert_close(getattr(encoded, name), received)
            assert float(received.std()) > 1e-5
        hidden = seen.hidden_states[-2]
        torch.testing.assert_close(encoded.features, hidden[:, 1:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoded.cls, hidden[:, 0], atol=1e-4, rtol=1e-4)
        layer = eager.model.vision_tower.encoder.layers[-1]
        query = layer.self_attn.q_proj(layer.layer_norm1(hidden[:, 0]))
        torch.testing.assert_close(encoded.last_query, query, atol=1e-4, rtol=1e-4)


def attention_maps(kind, pixels):
    """Softmaxed attention (B, H, T, T) of each layer of an eager tower."""
    eager = tiny.build(kind, attention="eager")
    with torch.no_grad():
        tower = eager.get_encoder("image")
        return tower(pixel_values=pixels, output_attentions=True, return_dict=True).attentions


@pytest.mark.parametrize("kind", ["onevision", "internvl", "smolvlm"])
def test_attention_of_other_towers_is_eager_attention_over_each_square(kind):
    """Without CLS what patches receive, with CLS its row; averaged where patches become one."""
    model = tiny.adapter(kind)
    image, side = tiny.images()[0], model.tower.side
    (encoded,) = model.encode([image], model.provides)
    pictures = [[image]] if kind == "smolvlm" else [image]
    pixels = model.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    maps = attention_maps(kind, pixels.reshape(-1, 3, 112, 112))
    for name, layer in (("attention", -1), ("attention_local", 0), ("received_deep", -1)):
        seen = maps[layer]
        if kind == "internvl" and name != "received_deep":
            patches = seen[:, :, 0, 1:]
        else:
            patches = seen.mean(dim=(1, 2), keepdim=True)[:, :, 0, int(kind == "internvl") :]
        tiles, heads, _ = patches.shape
        squares = patches.view(tiles, heads, 8 // side, side, 8 // side, side)
        expected = squares.mean(dim=(3, 5)).flatten(2)
        found = getattr(encoded, name).view(expected.shape)
        torch.testing.assert_close(found, expected)
        assert float(expected.std()) > 1e-4


def test_tapped_qwen_attention_is_what_the_eager_kernel_computes(monkeypatch):
    model = tiny.adapter("qwen")
    needs = {"attention", "attention_local", "received_object", "received_deep"}
    tokens = model.encode(tiny.images(), frozenset(needs))
    maps = []

    def eager(module, query, key, value, scaling, **_):
        weights = (query @ key.mT * scaling).softmax(dim=-1)
        maps.append(weights[0])
        return (weights @ value).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("recorded", eager)
    other = tiny.build("qwen")
    other.model.visual.config._attn_implementation = "recorded"
    batch = model.image_processor(images=list(tiny.images()), return_tensors="pt")
    with torch.no_grad():
        other.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
    full = [weights for weights in maps if weights.shape[-1] > 64]  # a window has 64 patches
    second, last = full[: len(tokens)], full[-len(tokens) :]  # of blocks 1 and 3, one per image
    assert len(full) == 2 * len(tokens)
    back = model._raster_order(batch["image_grid_thw"])
    start = 0
    for encoded, shallow, weights in zip(tokens, second, last):
        mine = back[start : start + encoded.count] - start
        received, earlier = (
            w.mean(dim=(0, 1)).view(-1, 4).sum(dim=1)[mine] for w in (weights, shallow)
        )
        torch.testing.assert_close(encoded.received_deep[0], received)
        torch.testing.assert_close(encoded.received_object[0], earlier)
        torch.testing.assert_close(encoded.attention_local[0, 0], earlier)
        assert float((earlier - received).abs().max()) > 1e-4
        start += encoded.count
        assert encoded.attention.shape == (1, 1, encoded.count)
        assert float((encoded.attention[0, 0] - received).abs().max()) < 1e-6
        assert float(encoded.attention.sum()) == pytest.approx(1, abs=1e-5)
        assert float(received.std()) > 1e-4


def test_shallow_layers_are_those_the_methods_name_and_the_same_share_of_other_towers():
    layers = {
        depth: [at_depth(depth, range(n)) for n in (24, 12, 3)]
        for depth in (LOCAL_DEPTH, OBJECT_DEPTH)
    }
    assert layers == {LOCAL_DEPTH: [5, 2, 0], OBJECT_DEPTH: [8, 3, 0]}
    model = tiny.adapter("qwen")
    published = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=config_of(planned("table=qwen2_5_vl_7b").config["model"]).vision_config
        ),
        model=SimpleNamespace(model=SimpleNamespace(visual=SimpleNamespace(blocks=range(32)))),
    )
    published._full_blocks = lambda: type(model)._full_blocks(published)
    blocks = type(model)._blocks(published, model.provides)
    assert blocks == {
        "attention": 31,
        "received_deep": 31,
        "attention_local": 7,  # of VScan's Qwen file
        "received_object": 15,  # of HiPrune's
    }


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_projected_tokens_are_the_projected_features(kind):
    """Merging strategies mix features and project: mixing nothing must give the token back."""
    model = tiny.adapter(kind)
    for tokens in model.encode(tiny.images(), frozenset()):
        again = model.project(tokens.features)
        torch.testing.assert_close(again, tokens.projected, atol=1e-5, rtol=1e-5)
        step = Selection(torch.arange(3).expand(tokens.batch, -1))
        one_hot = torch.eye(tokens.count)[:3].expand(tokens.batch, -1, -1)
        mixed = model.embed(tokens, Selection(step.indices, one_hot))
        picked = tokens.projected[:, :3].flatten(0, 1)
        torch.testing.assert_close(tiny.of_patches(mixed), picked, atol=1e-5, rtol=1e-5)
        half = one_hot.roll(1, dims=2) / 2 + one_hot / 2  # behind the projector
        mixed = model.embed(tokens, Selection(step.indices, half, projected=True))
        expected = (half @ tokens.projected).flatten(0, 1)
        torch.testing.assert_close(tiny.of_patches(mixed), expected, atol=1e-5, rtol=1e-5)


def painted(size, box):
    """A noisy picture, and the same with one square painted."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(100, 156, (*size, 3), dtype=np.uint8)
    other = pixels.copy()
    top, left, edge = box
    other[top : top + edge, left : left + edge] = [255, 0, 0]
    return Image.fromarray(pixels), Image.fromarray(other)


@pytest.mark.parametrize(
    ("kind", "size", "edge"),
    [("llava", (336, 336), 14), ("next_paper", (672, 672), 14), ("qwen", (336, 336), 28)],
)
def test_a_painted_patch_moves_its_own_token_most(kind, size, edge):
    model = tiny.adapter(kind)
    columns = size[1] // edge
    for row, column in ((2, 7), (size[0] // edge - 2, 3), (5, columns - 1)):
        pictures = painted(size, (row * edge, column * edge, edge))
        before, after = model.encode(pictures, frozenset())
        moved = (
            model.embed(after, keep_all(after)).embeds
            - model.embed(before, keep_all(before)).embeds
        )
        distances = moved.norm(dim=1)
        if kind == "next_paper":  # behind the overview, one raster of 48 x 48
            overview = (row // 2) * 24 + column // 2
            assert int(distances[:576].argmax()) == overview
            distances = distances[576:]
        assert int(distances.argmax()) == row * columns + column


@pytest.mark.parametrize(("name", "size"), [("640x480", (480, 640)), ("1000x336", (336, 1000))])
def test_next_orders_are_the_official_ones(name, size):
    """Kept tokens in VisPruner's order, and the native sequence with its newlines in LLaVA's."""
    native = tiny.adapter("next_native")
    shape = get_anyres_image_grid_shape(torch.tensor(size), tiny.PINPOINTS, 336)
    tiles = 1 + shape[0] * shape[1]
    assert torch.equal(
        native.order(tiles, torch.tensor(size), native.grid), ORDERS[f"llava/{name}/ids"]
    )
    keep = ORDERS["tile_mask"][:tiles].flatten().bool()
    order = mosaic(shape, (24, 24))
    assert torch.equal(order[keep[order]], ORDERS[f"vispruner/{name}/ids"])


def test_a_newline_stays_with_its_row():
    order = torch.tensor([0, 1, 2, 3, NEWLINE, 4, 5, NEWLINE, 6, 7, NEWLINE])
    keep = torch.tensor([1, 0, 0, 1, 0, 0, 1, 1], dtype=torch.bool)  # rows 2-3, 4-5, 6-7
    assert kept_positions(order, keep, overview=2).tolist() == [0, 3, 4, 8, 9, 10]
    everything = torch.ones(8, dtype=torch.bool)
    assert kept_positions(order, everything, overview=2).tolist() == list(range(11))
    overview_only = torch.arange(8) < 2
    assert kept_positions(order, overview_only, overview=2).tolist() == [0, 1]


def test_paper_preprocessing_is_llavas_own():
    """expand2square with the mean colour, then CLIP's resize: LLaVA's steps with PIL alone."""
    image = tiny.images()[0]  # 320 x 240
    processor = image_processor_for("nowhere", configured("llava_1_5_7b"))
    got = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    square = Image.new("RGB", (320, 320), (122, 116, 104))
    square.paste(image, (0, 40))
    expected = normalised(square.resize((336, 336), Image.BICUBIC))
    assert float((got - expected).abs().max()) < 1e-5
    cropped = type(processor)(size={"shortest_edge": 336}, crop_size=processor.crop_size)
    other = cropped(images=[image], return_tensors="pt")["pixel_values"][0]
    assert float((other - expected).abs().mean()) > 0.1  # centre crop is another picture


def test_an_unknown_image_processor_names_the_near_ones():
    with pytest.raises(UserError, match="Did you mean 'LlavaImageProcessorPil'"):
        image_processor_for("nowhere", {"type": "LlavaImageProcesorPil"})


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_seeds_belong_to_the_image_and_its_tiles(kind):
    model = tiny.adapter(kind)
    together = model.encode(tiny.images(), frozenset())
    alone = [model.encode([image], frozenset())[0] for image in tiny.images()]
    assert [t.seeds for t in together] == [t.seeds for t in alone]
    flat = [seed for t in together for seed in t.seeds]
    assert len(set(flat)) == len(flat)


def test_llavas_tokenization_has_a_word_mark_behind_the_image():
    """LLaVA tokenizes the text before and after <image> apart; one token differs from the whole."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:?"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *letters]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    model = tiny.build("llava")
    model.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    found = {}
    for split in (True, False):
        adapter = LlavaAdapter(
            model, tokenizer, None, "USER: <image>\n{question} ASSISTANT:", split_at_image=split
        )
        found[split] = tokenizer.convert_ids_to_tokens(adapter.tokenize("Why?"))
    official = ["<s>", *"▁USER:▁", "<image>", "▁", "<0x0A>", *"Why?▁ASSISTANT:"]
    assert found[True] == official
    assert found[False] == official[:9] + official[10:]


def test_a_tokenizer_that_cannot_spell_the_placeholder_refuses_a_question_with_it():
    """Words only, no letters: the text "<image>" has no tokens but the control token itself."""
    model = tiny.adapter("llava")
    with pytest.raises(ValueError, match="cannot be kept apart"):
        model.tokenize("w1 <image> w2")


@cache
def configured(model):
    config = composed(f"model={model}", "protocol=paper")
    return OmegaConf.to_container(config, resolve=True)["model"]["load"]["image_processor"]


def normalised(image):
    """CLIP's normalisation of a picture."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.tensor((pixels - mean) / std).permute(2, 0, 1)


def test_next_paper_tiles_are_the_official_ones():
    """Resized into 672 x 672, padded with black, cut in four, behind the squashed overview."""
    image = tiny.images()[0]  # 320 x 240
    processor = image_processor_for("nowhere", configured("llava_next_7b"))
    got = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    canvas = Image.new("RGB", (672, 672))
    canvas.paste(image.resize((672, 504)), (0, 84))
    boxes = [(x, y, x + 336, y + 336) for y in (0, 336) for x in (0, 336)]
    tiles = [image.resize((336, 336)), *(canvas.crop(box) for box in boxes)]
    assert got.shape == (5, 3, 336, 336)
    for tile, expected in zip(got, tiles):
        assert float((tile - normalised(expected)).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [(640, 480), (1000, 300), (300, 400), (2000, 3000), (980, 980)])
def test_qwen_images_are_resized_to_the_papers_tokens(size):
    processor = image_processor_for("nowhere", configured("qwen2_5_vl_7b"))
    batch = processor(images=[Image.new("RGB", size)], return_tensors="pt")
    _, rows, columns = batch["image_grid_thw"][0].tolist()
    assert rows * columns // 4 == pytest.approx(1225, rel=0.07)
    assert columns / rows == pytest.approx(size[0] / size[1], rel=0.07)
    if size == (980, 980):
        assert (rows, columns) == (70, 70)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_images_prepared_by_other_threads_are_encoded_the_same(kind):
    model, images = tiny.adapter(kind), tiny.images()
    with ThreadPoolExecutor(2) as pool:
        prepared = list(pool.map(model.prepare, images))
    ours = model.encode(images, frozenset({"attention"}), prepared)
    for one, other in zip(ours, model.encode(images, frozenset({"attention"})), strict=True):
        assert torch.equal(one.projected, other.projected)
        assert one.seeds == other.seeds

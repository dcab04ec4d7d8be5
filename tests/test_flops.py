"""FLOPs: the closed form equals torch's counter, and the papers' formulas their printed numbers."""

from dataclasses import dataclass

import pytest
import tiny_models as tiny
import torch
from architectures import PUBLISHED
from strategy_configs import ALL
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLMoeConfig,
)

from agilepruner import flops
from agilepruner.flops import Architecture, document_flops

KEYS = ["vision", "projector", "selection", "prefill", "decode", "total", "paper_macs"]


def count(function, *args, **kwargs):
    """FLOPs of one call, by torch's counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = function(*args, **kwargs)
    return counter.get_total_flops(), result


def clip(**changes):
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    sizes |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    return CLIPVisionConfig(**sizes | changes)


def llama(**changes):
    return LlamaConfig(vocab_size=32064, **changes)


def real_config(name):
    """The published config.json, from the library's config classes."""
    llava = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    if name == "llava_1_5_7b":
        return LlavaConfig(vision_config=clip(), text_config=llama(), **llava)
    if name == "llava_1_5_13b":
        sizes = {"hidden_size": 5120, "intermediate_size": 13824}
        big = llama(num_hidden_layers=40, num_attention_heads=40, **sizes)
        return LlavaConfig(vision_config=clip(), text_config=big, **llava)
    if name == "llava_next_7b":
        return LlavaNextConfig(vision_config=clip(), text_config=llama(), **llava)
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    text |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    vision = {"hidden_size": 1280, "out_hidden_size": 3584, "depth": 32}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


MODELS = {
    "llava_1_5_7b": LlavaForConditionalGeneration,
    "llava_1_5_13b": LlavaForConditionalGeneration,
    "llava_next_7b": LlavaNextForConditionalGeneration,
    "qwen2_5_vl_7b": Qwen2_5_VLForConditionalGeneration,
}


@pytest.fixture(scope="module", params=list(MODELS))
def real(request):
    """Name, config and model of the real size on the meta device."""
    config = real_config(request.param)
    with torch.device("meta"):
        model = MODELS[request.param](config).eval()
    return request.param, config, model


def test_published_architectures_are_the_published_configs(real):
    name, config, _ = real
    assert Architecture.from_config(config) == PUBLISHED[name]


def test_real_towers_and_projectors_match_the_counter(real):
    name, _, model = real
    arch = PUBLISHED[name]
    if name.startswith("qwen"):
        rows, columns = arch.grid
        pixels = torch.empty(rows * columns, arch.patch_values, device="meta")
        counted, _ = count(qwen_tower, model.model.visual, pixels, rows, columns)
        assert counted == flops.vision_flops(arch) + flops.projector_flops(arch)
        return
    pixels = torch.empty(1, 3, 336, 336, device="meta")
    counted, output = count(model.model.vision_tower, pixels)
    assert counted == flops.vision_flops(arch)
    features = output.last_hidden_state[:, 1:]
    counted, _ = count(model.model.multi_modal_projector, features)
    assert counted == flops.projector_flops(arch)


def qwen_tower(visual, pixels, rows, columns):
    """Qwen's tower with its index tensors computed off the meta device, as it branches on them."""
    from transformers.vision_utils import (
        get_vision_cu_seqlens,
        get_vision_position_ids,
        get_vision_window_index,
    )

    grid = torch.tensor([[1, rows, columns]])
    config = visual.config
    cu = get_vision_cu_seqlens(grid)
    positions = get_vision_position_ids(grid, config.spatial_merge_size)
    window, cu_window = get_vision_window_index(
        grid, config.spatial_merge_size, config.window_size, config.patch_size
    )
    return visual(
        pixels,
        grid_thw=grid,
        position_ids=positions.to("meta"),
        cu_seqlens=cu,
        window_index=window.to("meta"),
        cu_window_seqlens=cu_window,
    )


@pytest.mark.parametrize("visual", [576, 64])
def test_real_language_models_match_the_counter(real, visual):
    name, _, model = real
    arch, text = PUBLISHED[name], 60
    embeds = torch.empty(1, visual + text, arch.width, device="meta")
    prompt, output = count(model.model.language_model, inputs_embeds=embeds, use_cache=True)
    head, _ = count(model.lm_head, output.last_hidden_state[:, -1:])
    assert prompt + head == flops.prefill_flops(arch, visual, text)

    token = torch.empty(1, 1, arch.width, device="meta")
    step, _ = count(
        model.model.language_model,
        inputs_embeds=token,
        past_key_values=output.past_key_values,
        use_cache=True,
    )
    assert step + head == flops.decode_flops(arch, visual, text, new_tokens=2)


@pytest.mark.parametrize("kind", ["onevision", "qwen3", "internvl", "smolvlm"])
def test_tiny_towers_and_projectors_match_the_counter(kind):
    """Through transformers' own encoder, eager, as torch does not count SDPA's CPU kernel."""
    model = tiny.build(kind, attention="eager")
    arch = Architecture.of(model)
    image = tiny.images()[0]
    pictures = [[image]] if kind == "smolvlm" else [image]
    batch = tiny.processor(kind)(images=pictures, return_tensors="pt")
    named = {key: batch[key] for key in ("image_sizes", "image_grid_thw") if key in batch}
    counted, _ = count(model.model.get_image_features, batch["pixel_values"], **named)
    if kind == "qwen3":
        arch = arch.at_grid(*batch["image_grid_thw"][0, 1:].tolist())
        tiles = 1
    else:
        tiles = batch["pixel_values"].flatten(0, -4).shape[0]
    assert counted == tiles * (flops.vision_flops(arch) + flops.projector_flops(arch))


TINY_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
TINY_VISION |= {"num_attention_heads": 2, "image_size": 56, "patch_size": 14}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_plain_generate_of_a_tiny_llava_matches_the_counter(kv_heads, strategy):
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TINY_VISION),
        text_config=LlamaConfig(
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            vocab_size=101,
        ),
        image_token_index=100,
        vision_feature_select_strategy=strategy,
    )
    config._attn_implementation = "eager"  # torch does not count SDPA's CPU kernel
    model = LlavaForConditionalGeneration(config).eval()
    arch = Architecture.from_config(config)
    visual = 16 + (strategy == "full")
    prompt = torch.tensor([[1] + [100] * visual + [5, 6, 7, 8]])
    counted, output = count(
        model.generate,
        input_ids=prompt,
        pixel_values=torch.randn(1, 3, 56, 56),
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
    )
    assert output.shape[1] - prompt.shape[1] == 6
    assert counted == document_flops(arch, visual, text_tokens=5, new_tokens=6)["total"]


def test_a_token_count_per_layer_is_exact():
    """A model cut in two at layer K is the schedule of a strategy that prunes there."""
    arch = Architecture.from_config(real_config("llava_1_5_7b"))
    first = flops.replace(arch, layers=2, vocabulary=0)
    rest = flops.replace(arch, layers=30)
    expected = flops.prefill_flops(first, 576, 60) + flops.prefill_flops(rest, 100, 60)
    assert flops.prefill_flops(arch, [576] * 2 + [100] * 30, 60) == expected
    expected = flops.decode_flops(first, 576, 60, 5) + flops.decode_flops(rest, 100, 60, 5)
    assert flops.decode_flops(arch, [576] * 2 + [100] * 30, 60, 5) == pytest.approx(expected)
    with pytest.raises(ValueError, match="3 token counts for 32 layers"):
        flops.prefill_flops(arch, [576] * 3, 60)


def test_document_flops_sums_its_parts():
    arch = PUBLISHED["llava_next_7b"]
    result = document_flops(arch, 640, 60.0, 8.5, tiles=5, selection=7.0)
    assert list(result) == KEYS
    parts = [result[key] for key in KEYS[:5]]
    assert result["total"] == sum(parts)
    assert result["selection"] == 7.0
    assert result["vision"] == 5 * flops.vision_flops(arch)
    assert result["paper_macs"] == flops.sparsevlm_macs(arch, 640)
    assert document_flops(arch, 640, 60.0, 1)["decode"] == 0
    assert document_flops(arch, 640, 60.0, 0)["decode"] == 0


@pytest.mark.parametrize(
    ("visual", "tera"), [(576, 3.817), (192, 1.253), (128, 0.833), (64, 0.416), (32, 0.208)]
)
def test_visual_only_macs_are_the_published_ones(visual, tera):
    macs = document_flops(PUBLISHED["llava_1_5_7b"], visual, 60, 1)["paper_macs"]
    assert round(macs / 1e12, 3) == tera


@pytest.mark.parametrize(
    ("name", "full", "kept"), [("llava_1_5_7b", 3.228, 0.512), ("llava_1_5_13b", 6.281, 1.002)]
)
def test_divprune_macs_are_the_published_ones(name, full, kept):
    assert round(flops.divprune_macs(PUBLISHED[name], 576, 45.23) / 1e12, 3) == full
    assert round(flops.divprune_macs(PUBLISHED[name], 56, 45.23) / 1e12, 3) == kept


@pytest.mark.parametrize(
    ("visual", "tera"), [(2880, 43.58), (720, 11.51), (290, 5.71), (145, 3.80)]
)
def test_fastervlm_flops_are_the_published_ones(visual, tera):
    flop = flops.fastervlm_flops(PUBLISHED["llava_next_7b"], visual, tiles=5)
    assert flop / 1e12 == pytest.approx(tera, abs=0.03)


@dataclass
class Chooses:
    """What ``selection_flops`` reads of a strategy."""

    needs: set[str]
    family: str = "diversity"
    merges: bool = False


@dataclass
class Counts(Chooses):
    """A strategy that states its own cost."""

    def flops(self, tokens, widths, budget):
        return 2.0 * tokens * budget * widths["features"]


def test_selection_is_a_gram_matrix_unless_the_strategy_knows_better():
    arch = PUBLISHED["llava_1_5_7b"]
    assert flops.selection_flops(Chooses({"attention"}), arch, 64) == 0
    compares = Chooses({"projected", "attention"})
    assert flops.selection_flops(compares, arch, 64) == 2 * 576**2 * 4096
    assert flops.selection_flops(compares, arch, 64, tiles=5) == 5 * 2 * 576**2 * 4096
    assert flops.selection_flops(Counts({"features"}), arch, 64) == 2 * 576 * 64 * 1024
    pooling = Chooses({"features"}, family="baseline", merges=True)
    assert flops.selection_flops(pooling, arch, 64) == 2 * 576 * 64 * 1024


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("scope", 576**2 * 1024),
        ("otprune", 576**2 * 4096 + 576**3),
        ("holov", 0),
        ("hiprune", 2 * 577**2 * 1024),  # two layers' maps
        ("vscan", 2 * 64 * 576 * 4096),  # cosines and mixing, behind the projector
        ("vscan_full", 2 * 96 * 576 * 4096),
        ("dart", 8 * 576 * 4096),
        ("dart_embedding", 4 * 576 * 4096),
        ("prunesid", 2 * 576**2 * 1024 + 4.5 * 576**3),
    ],
)
def test_selection_of_the_methods_of_2026(name, macs):
    assert flops.selection_flops(ALL[name], PUBLISHED["llava_1_5_7b"], 64) == 2 * macs


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="0 x 0 patches"):
        PUBLISHED["qwen2_5_vl_7b"].at_grid(0, 0)
    assert PUBLISHED["qwen2_5_vl_7b"].at_grid(72, 72).tokens == 1296


def test_an_unknown_decoder_is_the_users_to_fix():
    experts = Qwen3VLMoeConfig(text_config={"num_hidden_layers": 1}, vision_config={"depth": 1})
    with pytest.raises(flops.UserError, match="No FLOPs for a decoder of type 'qwen3_vl_moe_text'"):
        Architecture.from_config(experts)

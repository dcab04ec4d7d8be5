"""Tiny random models of the real classes, with the real token geometry, sensitive to their images.

A plain random initialisation is nearly blind: answers would not depend on the visual tokens and
tests about them would pass whatever they do. Here every matrix is scaled to keep the signal.
"""

import math
from functools import lru_cache
from string import ascii_lowercase, digits

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMVisionConfig,
)

from agilepruner.models.internvl import InternVLAdapter
from agilepruner.models.llava import LlavaAdapter
from agilepruner.models.llava_next import LlavaNextAdapter
from agilepruner.models.llava_onevision import LlavaOnevisionAdapter
from agilepruner.models.qwen2_5_vl import Qwen2_5VLAdapter
from agilepruner.models.qwen3_vl import Qwen3VLAdapter
from agilepruner.models.smolvlm import SmolVLMAdapter

KINDS = ("llava", "next_paper", "next_native", "qwen", "onevision", "qwen3", "internvl", "smolvlm")
# Overrides of configs/model, protocol paper, for the sizes of the tiny models' pictures.
SMALL = {
    "qwen": [
        "model.visual_tokens=144",
        "model.load.image_processor.size={shortest_edge: 112896, longest_edge: 112896}",
    ],
    "qwen3": [
        "model.visual_tokens=110",
        "model.by_protocol.paper.pixels={shortest_edge: 112896, longest_edge: 112896}",
    ],
    "onevision": [
        "model.visual_tokens=320",
        "model.by_protocol.paper.image_processor.image_grid_pinpoints=[[224,224]]",
    ],
    "internvl": ["model.visual_tokens=80"],
    "smolvlm": [
        *("model.visual_tokens=91", "model.tiles=5"),
        "model.load.image_processor.size.longest_edge=224",
        "model.load.image_processor.max_image_size.longest_edge=112",
    ],
}
WORDS = [f"w{i}" for i in range(180)]
SPECIAL = ["<s>", "</s>", "<pad>", "<image>", "<|image_pad|>", "<|vision_start|>"]
SPECIAL += ["<|vision_end|>", "<|video_pad|>", "<IMG_CONTEXT>"]
SPECIAL += ["<fake_token_around_image>", "<global-img>"]
SPECIAL += [f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)]
WORDS = WORDS[: 200 - len(SPECIAL)]
ONEVISION_PINPOINTS = [[112, 224], [224, 112], [224, 224], [112, 336]]
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
LANGUAGE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}


@lru_cache
def tokenizer():
    """Words w0..w179 and the special tokens; a beginning-of-sequence token is added."""
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:],
    )


def token(text):
    return tokenizer().convert_tokens_to_ids(text)


def sensitive(model, seed=0):
    """Give every matrix unit gain, so that what goes in matters for what comes out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                fan_in = math.prod(weight.shape[1:]) if "embed" not in name else 1
                weight.normal_(0, 1.5 / math.sqrt(fan_in), generator=generator)
            elif "norm" in name and "bias" not in name:
                weight.fill_(1.0)
            else:
                weight.normal_(0, 0.1, generator=generator)
    return model


TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 336,
    "patch_size": 14,
}


def clip():
    return CLIPVisionConfig(**TOWER)


def clip_tokenizer():
    """CLIP's tokenizer over single characters."""
    characters = ascii_lowercase + digits + "?.,"
    pieces = [*characters, *(f"{character}</w>" for character in characters)]
    tokens = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def save_clip(folder):
    """A tiny CLIP checkpoint with the vision geometry of the tiny LLaVAs."""
    words = clip_tokenizer()
    end = words.convert_tokens_to_ids("<|endoftext|>")
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=end - 1,
        eos_token_id=end,
        projection_dim=16,
    )
    vision = {**clip().to_dict(), "projection_dim": 16}
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    sensitive(CLIPModel(config).eval(), seed=5).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def build(kind, dtype=torch.float32, attention="sdpa", layers=2):
    """A tiny model of the kind, in eval mode; ``layers`` of a LLaVA's language model."""
    if kind == "qwen":
        config = Qwen2_5_VLConfig(
            text_config={
                **LANGUAGE,
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [2, 2, 2],
                    "rope_theta": 1e4,
                },
            },
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "depth": 4,
                "num_heads": 4,
                "out_hidden_size": 48,
                "fullatt_block_indexes": [1, 3],
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
        )
        cls = Qwen2_5_VLForConditionalGeneration
    elif kind == "qwen3":  # the second DeepStack feature is added behind where pruning begins
        config = Qwen3VLConfig(
            text_config={
                **LANGUAGE,
                "head_dim": 12,
                "num_hidden_layers": 3,
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [2, 2, 2],
                    "rope_theta": 1e4,
                },
            },
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "depth": 4,
                "num_heads": 4,
                "out_hidden_size": 48,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [1, 2],
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
        )
        cls = Qwen3VLForConditionalGeneration
    elif kind == "smolvlm":
        config = SmolVLMConfig(
            vision_config=SmolVLMVisionConfig(**{**TOWER, "image_size": 112}),
            text_config=LlamaConfig(
                **{**LANGUAGE, "num_hidden_layers": layers}, pad_token_id=token("<pad>")
            ),
            image_token_id=token("<image>"),
            scale_factor=2,
        )
        cls = SmolVLMForConditionalGeneration
    elif kind == "internvl":
        config = InternVLConfig(
            vision_config=InternVLVisionConfig(**{**TOWER, "image_size": 112}),
            text_config=Qwen2Config(**{**LANGUAGE, "num_hidden_layers": layers}),
            image_token_id=token("<IMG_CONTEXT>"),
            tie_word_embeddings=False,
        )
        cls = InternVLForConditionalGeneration
    elif kind == "onevision":
        config = LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**{**TOWER, "image_size": 112}, vision_use_head=False),
            text_config=Qwen2Config(**{**LANGUAGE, "num_hidden_layers": layers}),
            image_token_index=token("<image>"),
            vision_feature_layer=-1,
            image_grid_pinpoints=ONEVISION_PINPOINTS,
        )
        cls = LlavaOnevisionForConditionalGeneration
    else:
        settings = {
            "vision_config": clip(),
            "text_config": LlamaConfig(
                **{**LANGUAGE, "num_hidden_layers": layers}, max_position_embeddings=4096
            ),
            "image_token_id": token("<image>"),
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        }
        if kind == "llava":
            config, cls = LlavaConfig(**settings), LlavaForConditionalGeneration
        else:
            config = LlavaNextConfig(**settings, image_grid_pinpoints=PINPOINTS)
            cls = LlavaNextForConditionalGeneration
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = sensitive(cls(config).eval(), seed=int(kind == "smolvlm")).to(dtype)
    model.generation_config.eos_token_id = token("</s>")
    model.generation_config.pad_token_id = token("<pad>")
    return model


def processor(kind):
    edge = {"shortest_edge": 336}
    crop = {"height": 336, "width": 336}
    if kind == "llava":
        return LlavaImageProcessorPil(do_pad=True, size=edge, crop_size=crop)
    if kind in ("qwen", "qwen3"):
        return Qwen2VLImageProcessorPil(
            size={"shortest_edge": 56 * 56, "longest_edge": 112896},
            patch_size=14 if kind == "qwen" else 16,
        )
    if kind == "smolvlm":
        return SmolVLMImageProcessorPil(
            size={"longest_edge": 224}, max_image_size={"longest_edge": 112}
        )
    if kind == "internvl":
        size = {"height": 112, "width": 112}
        return GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=4)
    if kind == "onevision":
        size = {"height": 112, "width": 112}
        return LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=ONEVISION_PINPOINTS)
    grid = [[672, 672]] if kind == "next_paper" else PINPOINTS
    return LlavaNextImageProcessorPil(size=edge, crop_size=crop, image_grid_pinpoints=grid)


@lru_cache
def adapter(kind, dtype=torch.float32, attention="sdpa"):
    """The adapter of a tiny model; shared by tests, which must not change it."""
    with torch.inference_mode(False):  # whoever asks first: weights that any test may use
        model = build(kind, dtype, attention)
    if kind in ("qwen", "qwen3"):
        prompt = "w1 <|vision_start|> <|image_pad|> <|vision_end|> {question} w2"
        return (Qwen2_5VLAdapter if kind == "qwen" else Qwen3VLAdapter)(
            model, tokenizer(), processor(kind), prompt, placeholder="<|image_pad|>", full=144
        )
    prompt = "w1 w7 <image> {question} w2"
    if kind == "smolvlm":
        return SmolVLMAdapter(model, tokenizer(), processor(kind), prompt)
    if kind == "llava":
        return LlavaAdapter(model, tokenizer(), processor(kind), prompt)
    if kind == "internvl":
        prompt = "w1 w7 <IMG_CONTEXT> {question} w2"
        return InternVLAdapter(
            model, tokenizer(), processor(kind), prompt, placeholder="<IMG_CONTEXT>"
        )
    if kind == "onevision":
        return LlavaOnevisionAdapter(model, tokenizer(), processor(kind), prompt, geometry="native")
    geometry = kind.removeprefix("next_")
    return LlavaNextAdapter(model, tokenizer(), processor(kind), prompt, geometry=geometry)


def of_patches(visual):
    """The tokens of an image without the text markers between its tiles."""
    return visual.embeds if visual.patches is None else visual.embeds[visual.patches >= 0]


@lru_cache
def images():
    """Three different pictures of different shapes."""
    rng = np.random.default_rng(0)
    pictures = []
    for height, width in ((240, 320), (400, 150), (330, 500)):
        coarse = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))
    return tuple(pictures)


QUESTIONS = ("w10 w11 w12 w13", "w20", "w30 w31 w32 w33 w34 w35 w36")

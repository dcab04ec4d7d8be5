"""CLIP's joint space beside LLaVA: CDPruner sees patches and questions as its own code does."""

from dataclasses import replace

import pytest
import tiny_models as tiny
import torch
from strategy_configs import BEFORE_LLM
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from agilepruner import flops
from agilepruner.models.llava import LlavaAdapter
from agilepruner.models.llava_next import LlavaNextAdapter

LONG = " ".join(["where is the red dog"] * 20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("clip"))


def llava(checkpoint, kind="llava"):
    """A tiny LLaVA whose tower was taken from the CLIP checkpoint."""
    model = tiny.build(kind)
    clip = CLIPModel.from_pretrained(checkpoint)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    settings = {"joint_space": str(checkpoint)}
    made = (model, tiny.tokenizer(), tiny.processor(kind), "w1 w7 <image> {question} w2")
    if kind == "llava":
        return LlavaAdapter(*made, **settings)
    return LlavaNextAdapter(*made, geometry="paper", **settings)


def test_patches_and_questions_are_where_clip_puts_them(checkpoint):
    adapter = llava(checkpoint)
    picture = tiny.images()[0]
    (tokens,) = adapter.encode([picture], frozenset({"image_embeds"}))
    vision = CLIPVisionModelWithProjection.from_pretrained(checkpoint)
    text = CLIPTextModelWithProjection.from_pretrained(checkpoint)
    pixels = adapter.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = vision(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        patches = vision.visual_projection(vision.vision_model.post_layernorm(hidden))
        question = text(**tiny.clip_tokenizer()("a dog", return_tensors="pt")).text_embeds
    torch.testing.assert_close(tokens.image_embeds, patches, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(adapter.text_embeds("a dog"), question, rtol=1e-4, atol=1e-5)


def test_a_long_question_is_several_segments_padded_with_zeros(checkpoint):
    ids = tiny.clip_tokenizer()(LONG)["input_ids"]
    whole, rest = divmod(len(ids), 77)
    assert min(whole, rest) > 0
    embeds = llava(checkpoint).text_embeds(LONG)
    assert embeds.shape == (whole + 1, 16)
    text = CLIPTextModelWithProjection.from_pretrained(checkpoint)
    last = torch.tensor([ids[77 * whole :] + [0] * (77 - rest)])
    mask = torch.tensor([[1] * rest + [0] * (77 - rest)])
    with torch.no_grad():
        expected = text(last, attention_mask=mask).text_embeds
    torch.testing.assert_close(embeds[-1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llava", "next_paper"])
def test_cdpruner_follows_the_question(checkpoint, kind):
    adapter = llava(checkpoint, kind)
    strategy, kept = BEFORE_LLM["cdpruner"], []
    assert strategy.needs <= adapter.provides
    (tokens,) = adapter.encode(tiny.images()[:1], frozenset({"image_embeds"}))
    for question in ("a dog", "where is the cup", LONG):
        text = adapter.text_embeds(question).expand(tokens.batch, -1, -1)
        selection = strategy(replace(tokens, text_embeds=text), 32)
        assert selection.indices.shape == (tokens.batch, 32)
        kept.append(selection.indices)
        visual = adapter.embed(tokens, selection)
        assert len(visual) == 32 * tokens.batch
    assert not torch.equal(kept[0], kept[1])


def test_without_a_joint_space_nothing_is_promised():
    adapter = tiny.adapter("llava")
    assert not {"image_embeds", "text_embeds"} & adapter.provides
    with pytest.raises(NotImplementedError, match="joint image-text space"):
        adapter.text_embeds("a dog")


def test_the_text_tower_is_counted():
    config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )
    with torch.device("meta"):
        tower = CLIPTextModelWithProjection(config)
        ids = torch.zeros(1, 77, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        tower(ids)
    assert flops.clip_text_flops() == counter.get_total_flops()

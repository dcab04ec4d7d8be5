"""LLaVA-1.5 (``LlavaForConditionalGeneration``): one CLIP tile of 24 x 24 tokens per image."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from agilepruner.models.base import Adapter, Generation, Visual
from agilepruner.models.taps import tap
from agilepruner.strategies.base import Selection, VisualTokens


def content_seed(image: Image.Image) -> int:
    """A 63-bit integer from the pixels: the image's own seed, on every machine."""
    digest = hashlib.sha256(image.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class LlavaAdapter(Adapter):
    """LLaVA-1.5 through transformers, without patches.

    Features are ``hidden_states[vision_feature_layer]``; the CLS attention is tapped at the layer
    that produced them. Pruned visual tokens enter through ``mm_encoder_outputs`` with as many
    placeholders, so positions are contiguous (reset), as in the pruning papers' own LLaVA code.

    Args:
        model: a ``LlavaForConditionalGeneration`` in eval mode.
        tokenizer: its tokenizer.
        image_processor: called with ``images=[...]``, returns ``pixel_values`` (B, 3, H, W).
        prompt: template with ``<image>`` once and ``{question}``.
    """

    provides = frozenset(
        {
            "features",
            "projected",
            "attention",
            "keys",
            "cls",
            "last_query",
            "last_keys",
            "seeds",
        }
    )

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, prompt: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.prompt = prompt
        self.config = model.config
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size
        self.grid = (side, side)
        self.full = side * side
        self.image_token = model.config.image_token_id
        self.environment = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attention": model.config._attn_implementation,
            "image_processor": type(image_processor).__name__,
        }

    @property
    def tower_layers(self) -> Any:
        """The vision tower's encoder layers."""
        return self.model.model.vision_tower.encoder.layers

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], needs: frozenset[str]) -> list[VisualTokens]:
        pixels = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.model.device, self.model.dtype)
        heads = self.config.vision_config.num_attention_heads
        # hidden_states[-2] is the output of layers[-2]; its attention belongs to the same layer.
        here = self.tower_layers[self.config.vision_feature_layer].self_attn
        captured: dict[str, Tensor] = {}
        with ExitStack() as stack:
            if needs & {"attention", "keys"}:
                middle = stack.enter_context(tap(here))
            if needs & {"last_query", "last_keys"}:
                last = stack.enter_context(tap(self.tower_layers[-1].self_attn))
            output = self.model.model.get_image_features(pixels, return_dict=True)
        hidden = output.hidden_states[self.config.vision_feature_layer]  # (B, N + 1, C)
        captured["features"] = hidden[:, 1:]
        captured["projected"] = torch.stack(list(output.pooler_output))
        if "cls" in needs:
            captured["cls"] = hidden[:, 0]
        if "attention" in needs:
            captured["attention"] = middle.cls_attention(heads)
        if "keys" in needs:
            captured["keys"] = middle.keys[:, 1:].unflatten(-1, (heads, -1)).mean(dim=2)
        if "last_query" in needs:
            captured["last_query"] = last.queries[:, 0]
        if "last_keys" in needs:
            captured["last_keys"] = last.keys
        seeds = tuple(content_seed(image) for image in images)
        batch = VisualTokens(self.grid, seeds=seeds, **captured)
        return [batch[i] for i in range(len(images))]

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        indices = selection.indices[0]
        kept = indices >= 0
        if selection.weights is None:
            return Visual(tokens.projected[0, indices], indices)
        source = tokens.features[0]
        if selection.weights.shape[-1] == tokens.count + 1:
            source = torch.cat([source, tokens.cls])
        mixed = selection.weights[0, kept].to(source.dtype) @ source
        return Visual(self.model.model.multi_modal_projector(mixed), indices[kept])

    def tokenize(self, question: str) -> list[int]:
        text = self.prompt.replace("{question}", question)
        ids = self.tokenizer(text)["input_ids"]
        if ids.count(self.image_token) != 1:
            raise ValueError(
                f"the prompt holds {ids.count(self.image_token)} image placeholders, expected 1: "
                f"{text!r}"
            )
        return ids

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], visuals: Sequence[Visual], max_new_tokens: int
    ) -> list[Generation]:
        rows = [self._expand(ids, len(visual)) for ids, visual in zip(prompts, visuals)]
        length = max(map(len, rows))
        pads = [length - len(row) for row in rows]
        filler = self.model.generation_config.pad_token_id
        if filler is None:
            filler = self._end_tokens()[0]
        ids = torch.tensor([[filler] * pad + row for pad, row in zip(pads, rows)])
        mask = torch.tensor([[0] * pad + [1] * len(row) for pad, row in zip(pads, rows)])
        device = self.model.device
        output = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            mm_encoder_outputs={
                "image": BaseModelOutputWithPooling(pooler_output=[v.embeds for v in visuals])
            },
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=filler,
            return_dict_in_generate=True,
        )
        answers = output.sequences[:, length:].tolist()
        # The last generated token is never fed back, so it is not in the cache.
        lengths = [
            layer.keys.shape[-2] - (len(answers[0]) - 1) for layer in output.past_key_values.layers
        ]
        results = []
        for answer, row, pad, visual in zip(answers, rows, pads, visuals):
            text_tokens = len(row) - len(visual)
            prefill = tuple(size - pad for size in lengths)
            results.append(
                Generation(
                    text=self.tokenizer.decode(answer, skip_special_tokens=True).strip(),
                    new_tokens=self._count_new(answer),
                    prefill=prefill,
                    visual=tuple(size - text_tokens for size in prefill),
                )
            )
        return results

    def _expand(self, ids: list[int], count: int) -> list[int]:
        """Repeat the image placeholder ``count`` times."""
        at = ids.index(self.image_token)
        return ids[:at] + [self.image_token] * count + ids[at + 1 :]

    def _end_tokens(self) -> list[int]:
        end = self.model.generation_config.eos_token_id
        return end if isinstance(end, list) else [end]

    def _count_new(self, answer: list[int]) -> int:
        """Generated tokens up to and including the end token."""
        ends = [i for i, token in enumerate(answer) if token in self._end_tokens()]
        return ends[0] + 1 if ends else len(answer)


def load(
    path: str,
    prompt: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
    image_processor: dict[str, Any] | None = None,
) -> LlavaAdapter:
    """Load a checkpoint from a directory or the hub.

    Args:
        path: directory or hub name.
        prompt: template with ``<image>`` and ``{question}``.
        revision: hub commit; None takes the newest and records which one it was.
        dtype: name of a torch dtype.
        device: ``auto`` takes a GPU when there is one.
        attention: attention implementation of the language model and the tower.
        image_processor: overrides of the checkpoint's preprocessing; the PIL backend is always
            used, so that results do not depend on whether torchvision is installed.
    """
    from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

    where = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    model = LlavaForConditionalGeneration.from_pretrained(
        path,
        revision=revision,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
    )
    processor = AutoImageProcessor.from_pretrained(
        path, revision=revision, backend="pil", **(image_processor or {})
    )
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    return LlavaAdapter(model.eval().to(where), tokenizer, processor, prompt)

"""Qwen3-VL (``Qwen3VLForConditionalGeneration``): Qwen2.5-VL's tokens and DeepStack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from agilepruner.models.base import Visual, stack
from agilepruner.models.hugging_face import load_checkpoint
from agilepruner.models.qwen2_5_vl import Qwen2_5VLAdapter
from agilepruner.strategies.base import Selection, VisualTokens

PLACEHOLDER = "<|image_pad|>"  # of the image, in prompts


@dataclass(frozen=True)
class DeepTokens(VisualTokens):
    """Visual tokens with what the first decoder layers add to them.

    Attributes:
        deepstack: (B, N, L, D) of L blocks of the tower, each through a merger of its own.
    """

    deepstack: Tensor = None  # type: ignore[assignment]

    def __getitem__(self, image: int | slice) -> VisualTokens:
        """Some of the images, as strategies see them."""
        return stack([self])[image]


class Qwen3VLAdapter(Qwen2_5VLAdapter):
    """Qwen3-VL through transformers.

    As Qwen2.5-VL, with these differences: every block of the tower sees the whole image, so
    attention is read in the last and at the methods' own depths. After each of the first decoder
    layers the features of a shallower block are added to the visual tokens (DeepStack): they are
    pruned with the tokens, and mixed by the same weights where tokens are merged (our choice).

    Args:
        full: visual tokens of a nominal image (the pixel budget over 32 x 32); images differ.
    """

    kind = DeepTokens

    def _full_blocks(self) -> list[int]:
        return list(range(len(self.model.model.visual.blocks)))

    def _raster_order(self, grids: Tensor) -> Tensor:
        return torch.arange(int(grids.prod(dim=1).sum()) // self.side**2)

    def _captured(self, output: Any, back: Tensor) -> dict[str, Tensor]:
        deepstack = torch.stack(output.deepstack_features, dim=1)  # (tokens of all images, L, D)
        return {**super()._captured(output, back), "deepstack": deepstack}

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        assert isinstance(tokens, DeepTokens)
        deep = tokens.deepstack[0].transpose(0, 1)  # (L, N, D)
        indices = selection.indices[0]
        if selection.weights is None:
            deep = deep[:, indices]
        else:
            deep = selection.weights[0, indices >= 0].to(deep.dtype) @ deep
        return replace(super().embed(tokens, selection), deep=deep)

    def encoder_outputs(self, visuals: Sequence[Visual]) -> Any:
        layers = len(self.config.vision_config.deepstack_visual_indexes)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=[visual.embeds for visual in visuals],  # type: ignore[arg-type]
            deepstack_features=[[visual.deep[at] for visual in visuals] for at in range(layers)],  # type: ignore[index,misc]
        )


def load(prompt: str, full: int = 1225, **checkpoint: Any) -> Qwen3VLAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<|image_pad|>`` once and ``{question}`` once.
        full: visual tokens of a nominal image.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    parts = load_checkpoint("Qwen3VLForConditionalGeneration", **checkpoint)
    return Qwen3VLAdapter(*parts, prompt, placeholder=PLACEHOLDER, full=full)

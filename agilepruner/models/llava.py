"""LLaVA-1.5 (``LlavaForConditionalGeneration``): one CLIP tile of 24 x 24 tokens per image."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from agilepruner.errors import UserError
from agilepruner.models.base import Visual
from agilepruner.models.clip import JointSpace
from agilepruner.models.hugging_face import (
    HuggingFaceAdapter,
    Prepared,
    content_seed,
    load_checkpoint,
)
from agilepruner.models.tower import Tower
from agilepruner.strategies.base import Selection, VisualTokens

PLACEHOLDER = "<image>"  # of the image, in prompts


class LlavaAdapter(HuggingFaceAdapter):
    """LLaVA-1.5 through transformers.

    Features are ``hidden_states[vision_feature_layer]``; attention is that of the layer that made
    them. After pruning positions are reset, as in the pruning papers' code, unless they are to be
    kept (see ``Visual``).

    Args:
        joint_space: the CLIP checkpoint that the vision tower was taken from (path or hub name),
            for strategies that compare patches with the question; None: there are no such.
    """

    def __init__(
        self, model: Any, *args: Any, joint_space: str | None = None, **settings: Any
    ) -> None:
        super().__init__(model, *args, **settings)
        self.joint_space = JointSpace(joint_space, model.device) if joint_space else None
        self.tower = self.find_tower()
        self.provides = self.tower.provides | {"projected", "seeds", "resolution"}
        if self.joint_space:
            self.provides = self.provides | {"image_embeds", "text_embeds"}
        self.grid = self.find_grid()
        self.full = self.grid[0] * self.grid[1]

    def find_grid(self) -> tuple[int, int]:
        """Rows and columns of a tile's tokens."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    def find_tower(self) -> Tower:
        """CLIP: the output of a layer before the last, without the CLS row.

        Raises:
            UserError: the config asks for another.
        """
        vision, layer = self.config.vision_config, self.config.vision_feature_layer
        if not isinstance(layer, int) or not -vision.num_hidden_layers < layer < -1:
            raise UserError(
                f"vision_feature_layer is {layer!r}; this adapter taps one layer before the last, "
                "e.g. -2 as LLaVA-1.5 has it."
            )
        if self.config.vision_feature_select_strategy != "default":
            raise UserError(
                f"vision_feature_select_strategy is "
                f"{self.config.vision_feature_select_strategy!r}; expected 'default' (no CLS row)."
            )
        layers = self.model.model.vision_tower.encoder.layers
        attentions = [each.self_attn for each in layers]
        return Tower(attentions, vision.num_attention_heads, layer, cls=True)

    def encode_prepared(
        self, prepared: Sequence[Prepared], needs: frozenset[str]
    ) -> list[VisualTokens]:
        captured = self.see(torch.cat([each.batch["pixel_values"] for each in prepared]), needs)
        seeds = tuple(each.seed for each in prepared)
        batch = VisualTokens(self.grid, seeds=seeds, **captured)
        return [batch[i] for i in range(len(prepared))]

    @torch.inference_mode()
    def encode_at(self, images: Sequence[Image.Image], grid: tuple[int, int]) -> list[VisualTokens]:
        """By the processor's own rule for a smaller square; position embeddings interpolated."""
        edge = grid[0] * self.config.vision_config.patch_size
        size = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
        batch = self.image_processor(images=list(images), return_tensors="pt", **size)
        captured = self.see(batch["pixel_values"], frozenset())
        return [
            VisualTokens(grid, seeds=(content_seed(image),), projected=projected[None])
            for image, projected in zip(images, captured["projected"])
        ]

    def see(self, pixels: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """One pass of the tower over B tiles (B, 3, H, W): fields of ``VisualTokens``."""
        pixels = pixels.to(self.model.device, self.model.dtype)
        captured = self.tower.see(lambda: self.hidden(pixels), needs)
        captured["projected"] = self.project(captured["features"])
        if "image_embeds" in needs and self.joint_space:
            captured["image_embeds"] = self.joint_space.patches(captured["features"])
        return captured

    def hidden(self, pixels: Tensor) -> Tensor:
        """(B, T, C): the hidden states that the visual tokens are made of."""
        layer = self.config.vision_feature_layer
        smaller = pixels.shape[-1] != self.config.vision_config.image_size
        output = self.model.model.vision_tower(
            pixels,
            output_hidden_states=layer,
            return_dict=True,
            **({"interpolate_pos_encoding": True} if smaller else {}),
        )
        return output.hidden_states[layer]

    def text_embeds(self, question: str) -> Tensor:
        if self.joint_space is None:
            return super().text_embeds(question)
        return self.joint_space.question(question)

    def project(self, features: Tensor) -> Tensor:
        return self.model.model.multi_modal_projector(features)

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        indices = selection.indices[0]
        if selection.weights is None:
            return Visual(tokens.projected[0, indices], indices, tokens.count)
        kept = indices >= 0
        anchors = indices[kept]
        anchors = anchors.where(anchors < tokens.count, -1)
        return Visual(self.mix(tokens, selection)[0][kept], anchors, tokens.count)

    def mix(self, tokens: VisualTokens, selection: Selection) -> Tensor:
        """Merged tokens (B, K, D): mixed before the projector, or after it."""
        assert selection.weights is not None
        weights, source = selection.weights, tokens.features
        if selection.projected:
            return weights.to(tokens.projected.dtype) @ tokens.projected
        if weights.shape[-1] == tokens.count + 1:  # the last column is the CLS row
            source = torch.cat([source, tokens.cls[:, None]], dim=1)
        return self.project(weights.to(source.dtype) @ source)


def load(
    prompt: str, split_at_image: bool = False, joint_space: str | None = None, **checkpoint: Any
) -> LlavaAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<image>`` once and ``{question}`` once.
        split_at_image: tokenize as LLaVA's own code does (see ``HuggingFaceAdapter``).
        joint_space: CLIP checkpoint of the vision tower, see ``LlavaAdapter``.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    parts = load_checkpoint("LlavaForConditionalGeneration", **checkpoint)
    return LlavaAdapter(*parts, prompt, split_at_image=split_at_image, joint_space=joint_space)

"""LLaVA-OneVision (``LlavaOnevisionForConditionalGeneration``): SigLIP tiles, Qwen2 behind them."""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from agilepruner.errors import UserError
from agilepruner.models.hugging_face import load_checkpoint
from agilepruner.models.llava_next import NEWLINE, LlavaNextAdapter
from agilepruner.models.tower import Tower

PLACEHOLDER = "<image>"  # of the image, in prompts


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """LLaVA-OneVision through transformers: LLaVA-NeXT with another tower and other grids.

    The tower has no CLS token: attention is what a patch receives in its last layer, whose output
    the tokens are. Geometries and budgets are LLaVA-NeXT's. Of an image of more tiles than the
    model's ``vision_aspect_ratio`` names (nine), transformers averages tokens; averaged tokens are
    no tile's, so grids that need it are refused.
    """

    def __init__(self, model: Any, *args: Any, **settings: Any) -> None:
        super().__init__(model, *args, **settings)
        most = int(self.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        edge = self.config.vision_config.image_size
        for height, width in self._pinpoints():
            if ceil(height / edge) * ceil(width / edge) > 1.1**2 * most:
                raise UserError(
                    f"Images of {height} x {width} pixels have more than {most} tiles: the model "
                    "averages their tokens, which cannot be told apart then. Leave such "
                    "sizes out of model.load.image_processor.image_grid_pinpoints."
                )

    def find_tower(self) -> Tower:
        vision = self.config.vision_config
        layer, select = self.config.vision_feature_layer, self.config.vision_feature_select_strategy
        if not isinstance(layer, int) or not -vision.num_hidden_layers < layer < 0:
            raise UserError(
                f"vision_feature_layer is {layer!r}; expected one from the end, e.g. -1."
            )
        if select != "full":
            raise UserError(
                f"vision_feature_select_strategy is {select!r}; expected 'full': the tower has no "
                "CLS token to leave out."
            )
        layers = self.model.model.vision_tower.encoder.layers
        attentions = [each.self_attn for each in layers]
        return Tower(attentions, vision.num_attention_heads, layer, cls=False)

    def pack(self, numbers: Tensor, size: Tensor) -> Tensor:
        newline = torch.full((1,), NEWLINE, dtype=numbers.dtype)
        ratio = self.config.vision_aspect_ratio
        packed, _ = self.model.model.pack_image_features([numbers], size[None], newline, ratio)
        return packed[0]


def load(prompt: str, geometry: str = "native", **checkpoint: Any) -> LlavaOnevisionAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<image>`` once and ``{question}`` once.
        geometry: ``paper`` or ``native``, see ``LlavaNextAdapter``.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    model, tokenizer, processor = load_checkpoint(
        "LlavaOnevisionForConditionalGeneration", **checkpoint
    )
    # What the processor cuts is what the model puts together again.
    model.config.image_grid_pinpoints = processor.image_grid_pinpoints
    return LlavaOnevisionAdapter(model, tokenizer, processor, prompt, geometry=geometry)

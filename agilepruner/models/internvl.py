"""InternVL3 (``InternVLForConditionalGeneration``): tiles of InternViT with a CLS token."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from agilepruner.errors import UserError
from agilepruner.models.base import Layout, Visual
from agilepruner.models.hugging_face import Prepared, load_checkpoint
from agilepruner.models.tiled import Grid, TiledAdapter
from agilepruner.models.tower import Tower
from agilepruner.strategies.base import Selection, VisualTokens

PLACEHOLDER = "<IMG_CONTEXT>"  # of the image, in prompts


class InternVLAdapter(TiledAdapter):
    """InternVL3 through transformers: the tiles of an image one after the other, no newlines.

    A visual token is the projector's output for a square of 2 x 2 patches (pixel shuffle). Its
    features are those patches side by side, so that ``project(features)`` is the token; attention
    is what the CLS token pays to them, the mean over the square. The CLS row is one patch wide and
    the projector takes four, so strategies that keep it or read raw keys have nothing to read.

    The processor cuts an image into up to ``max_patches`` tiles and puts a thumbnail behind them
    where there is more than one. A budget is shared equally by the tiles of the largest cut; an
    image of fewer tiles keeps fewer tokens.
    """

    def __init__(self, model: Any, *args: Any, **settings: Any) -> None:
        super().__init__(model, *args, **settings)
        self.most_tiles = self.find_most_tiles()
        self.full *= self.most_tiles
        self.environment["most_tiles"] = self.most_tiles

    def find_most_tiles(self) -> int:
        """Tiles of the largest cut, with the thumbnail."""
        processor = self.image_processor
        cut = processor.crop_to_patches and processor.max_patches > 1
        return processor.max_patches + 1 if cut else 1

    def find_grid(self) -> tuple[int, int]:
        vision, side = self.config.vision_config, self.tower.side
        rows, columns = (
            image // patch // side for image, patch in zip(vision.image_size, vision.patch_size)
        )
        return rows, columns

    def find_tower(self) -> Tower:
        vision, layer = self.config.vision_config, self.config.vision_feature_layer
        select = self.config.vision_feature_select_strategy
        if not isinstance(layer, int) or not -vision.num_hidden_layers < layer < 0:
            raise UserError(f"vision_feature_layer is {layer!r}; expected one from the end: -1.")
        if select != "default":
            raise UserError(
                f"vision_feature_select_strategy is {select!r}; expected 'default' (no CLS row)."
            )
        attentions = [each.attention for each in self.model.model.vision_tower.encoder.layer]
        side = round(1 / self.config.downsample_ratio)
        return Tower(attentions, vision.num_attention_heads, layer, cls=True, side=side)

    def pixels(self, prepared: Prepared) -> Tensor:
        return prepared.batch["pixel_values"]

    def of_image(self, prepared: Prepared, grid: Grid, fields: dict[str, Any]) -> VisualTokens:
        return VisualTokens(grid, **fields)

    def layout(self, tokens: VisualTokens, image: Image.Image) -> Layout:
        """The tiles cut the image as it is stretched to their mosaic; the thumbnail is the last."""
        if tokens.batch == 1:
            return Layout()
        processor, (width, height) = self.image_processor, image.size
        columns, rows = get_optimal_tiled_canvas(
            (height, width),
            (processor.size["height"], processor.size["width"]),
            processor.min_patches,
            processor.max_patches,
        )
        return Layout(mosaic=(rows, columns), overview=rows * columns)

    def hidden(self, pixels: Tensor) -> Tensor:
        layer = self.config.vision_feature_layer
        tower = self.model.model.vision_tower
        if layer == -1:
            return tower(pixel_values=pixels, return_dict=True).last_hidden_state
        output = tower(pixel_values=pixels, output_hidden_states=layer, return_dict=True)
        return output.hidden_states[layer]

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        indices, count = selection.indices, tokens.count
        offsets = torch.arange(tokens.batch, device=indices.device)[:, None] * count
        kept, whole = indices >= 0, tokens.batch * count
        patches = indices.where(indices < count, -1)
        places = (patches + offsets).where(patches >= 0, -1)[kept]
        if selection.weights is None:
            return Visual(tokens.projected.flatten(0, 1)[places], places, whole)
        return Visual(self.mix(tokens, selection)[kept], places, whole)

    def encoder_outputs(self, visuals: Sequence[Visual]) -> Any:
        return BaseModelOutputWithPooling(pooler_output=torch.cat([v.embeds for v in visuals]))


def load(prompt: str, **checkpoint: Any) -> InternVLAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<IMG_CONTEXT>`` once and ``{question}`` once.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    parts = load_checkpoint("InternVLForConditionalGeneration", **checkpoint)
    return InternVLAdapter(*parts, prompt, placeholder=PLACEHOLDER)

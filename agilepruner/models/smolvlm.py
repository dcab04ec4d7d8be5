"""SmolVLM (``SmolVLMForConditionalGeneration``): SigLIP tiles between text markers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from agilepruner.models.base import Layout, Visual, stack
from agilepruner.models.hugging_face import (
    HuggingFaceAdapter,
    Prepared,
    content_seed,
    load_checkpoint,
)
from agilepruner.models.internvl import InternVLAdapter
from agilepruner.models.tiled import Grid
from agilepruner.models.tower import Tower
from agilepruner.strategies.base import Selection, VisualTokens

PLACEHOLDER = "<image>"  # of the image, in prompts
MARKERS = {  # text around the tokens of each tile, by the tokenizer's attribute or its default
    "fake_token_around_image": ("fake_image_token", "<fake_token_around_image>"),
    "global_image_token": ("global_image_token", "<global-img>"),
}


@dataclass(frozen=True)
class MarkedTokens(VisualTokens):
    """The T tiles of one image, and the text markers between them.

    Attributes:
        order: (M,) the unpruned sequence: token t * N + i of tile t, or -1 - id of a text token.
        cut: rows and columns of the tiles before the overview; (0, 0): there are none.
    """

    order: Tensor = None  # type: ignore[assignment]
    cut: tuple[int, int] = (0, 0)

    def __getitem__(self, image: int | slice) -> VisualTokens:
        """Some of the tiles, which no longer are one image."""
        return stack([self])[image]


class SmolVLMAdapter(InternVLAdapter):
    """SmolVLM through transformers.

    A visual token is the connector's output for a square of patches (pixel shuffle). The tower has
    no CLS token: attention is what the patches receive in its last layer, the mean over the square.

    The processor cuts an image into tiles, the overview last. Text tokens stand around each ("row 1
    column 2", line breaks). They are part of the visual sequence and always stay, so an image shows
    the language model more tokens than its budget; strategies inside the language model rank and
    drop them like the others. A budget is shared equally by the tiles of the largest cut.
    """

    exact_budget = False

    def __init__(self, model: Any, *args: Any, **settings: Any) -> None:
        super().__init__(model, *args, **settings)
        side = self._longest_cut()
        self.full = len(self.order((side, side), self.grid))

    def _longest_cut(self) -> int:
        """Tiles along the longer side of an image; 0: images are not cut."""
        processor = self.image_processor
        if not processor.do_image_splitting:
            return 0
        return -(-processor.size["longest_edge"] // processor.max_image_size["longest_edge"])

    def find_most_tiles(self) -> int:
        return self._longest_cut() ** 2 + 1

    def find_grid(self) -> tuple[int, int]:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.tower.side
        return side, side

    def find_tower(self) -> Tower:
        layers = self.model.model.vision_model.encoder.layers
        attentions = [each.self_attn for each in layers]
        heads, side = self.config.vision_config.num_attention_heads, self.config.scale_factor
        return Tower(attentions, heads, -1, cls=False, side=side)

    def hidden(self, pixels: Tensor) -> Tensor:
        return self.model.model.vision_model(
            pixel_values=pixels, return_dict=True
        ).last_hidden_state

    def project(self, features: Tensor) -> Tensor:
        return self.model.model.connector.modality_projection(features)

    def order(self, cut: tuple[int, int], grid: Grid) -> Tensor:
        """The unpruned sequence of an image of so many tiles, see ``MarkedTokens``."""
        marks = {
            name: getattr(self.tokenizer, attribute, default)
            for name, (attribute, default) in MARKERS.items()
        }
        count = grid[0] * grid[1]
        text = get_image_prompt_string(*cut, count, image_token=PLACEHOLDER, **marks)
        ids = torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        visual = ids == self.image_token
        return (visual.cumsum(0) - 1).where(visual, -1 - ids)

    def offered(self, tokens: VisualTokens) -> int:
        assert isinstance(tokens, MarkedTokens)
        return tokens.order.numel()

    def prepare(self, image: Image.Image) -> Prepared:
        batch = self.image_processor(
            images=[[image]], return_tensors="pt", return_row_col_info=True
        )
        return Prepared(batch, content_seed(image))

    def pixels(self, prepared: Prepared) -> Tensor:
        return prepared.batch["pixel_values"][0]

    def of_image(self, prepared: Prepared, grid: Grid, fields: dict[str, Any]) -> VisualTokens:
        cut = int(prepared.batch["rows"][0][0]), int(prepared.batch["cols"][0][0])
        return MarkedTokens(grid, order=self.order(cut, grid), cut=cut, **fields)

    def layout(self, tokens: VisualTokens, image: Image.Image) -> Layout:
        """The tiles cut the image as it is stretched to their mosaic; the overview is the last."""
        assert isinstance(tokens, MarkedTokens)
        rows, columns = tokens.cut
        return Layout(mosaic=tokens.cut, overview=rows * columns) if rows else Layout()

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        assert isinstance(tokens, MarkedTokens)
        table = self.model.get_input_embeddings()
        indices, count, order = selection.indices, tokens.count, tokens.order
        mixed = None if selection.weights is None else self.mix(tokens, selection)
        tile = order.clamp_min(0) // count
        parts, anchors, patches = [], [], []
        done: set[int] = set()
        for place, number in enumerate(order.tolist()):
            if number < 0:
                mark = torch.tensor([-1 - number], device=self.model.device)
                parts.append(table(mark).to(tokens.projected.dtype))
                anchors.append(torch.tensor([place]))
                patches.append(torch.tensor([-1]))
            elif (t := int(tile[place])) not in done:  # a tile's tokens are one run
                done.add(t)
                kept = indices[t][indices[t] >= 0].cpu()
                parts.append(
                    tokens.projected[t, kept] if mixed is None else mixed[t, indices[t] >= 0]
                )
                anchors.append((place + kept).where(kept < count, -1))
                patches.append((t * count + kept).where(kept < count, -1))
        where = torch.cat(anchors).to(indices.device), torch.cat(patches).to(indices.device)
        return Visual(torch.cat(parts), where[0], len(order), patches=where[1])

    def encoder_outputs(self, visuals: Sequence[Visual]) -> Any:
        return HuggingFaceAdapter.encoder_outputs(self, visuals)


def load(prompt: str, **checkpoint: Any) -> SmolVLMAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<image>`` once and ``{question}`` once.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    parts = load_checkpoint("SmolVLMForConditionalGeneration", **checkpoint)
    return SmolVLMAdapter(*parts, prompt)

"""Qwen2.5-VL (``Qwen2_5_VLForConditionalGeneration``): any grid of 28-pixel tokens, M-RoPE."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from agilepruner.models.base import Visual
from agilepruner.models.hugging_face import (
    HuggingFaceAdapter,
    Prepared,
    content_seed,
    load_checkpoint,
)
from agilepruner.models.taps import at_depth, tap_packed
from agilepruner.strategies.base import LOCAL_DEPTH, OBJECT_DEPTH, Selection, VisualTokens

PLACEHOLDER = "<|image_pad|>"  # of the image, in prompts


class Qwen2_5VLAdapter(HuggingFaceAdapter):
    """Qwen2.5-VL through transformers; needs no torchvision.

    A visual token is the merger's output for a square of 2 x 2 patches. Its features are those
    patches before the merger, side by side (4 C numbers), so that ``merger(features)`` is the
    token. The tower has no CLS token: attention is what a patch receives, the mean over heads and
    queries at the last full-attention block, summed over the square. Shallower attention is read
    in the same way, at the first full-attention block from its depth on (windows see no image).

    M-RoPE positions are computed for the whole image and gathered, so a kept token stays where it
    was, and so does the text behind the image. Reset positions are those of a text, the same in
    time, height and width: what transformers takes for a shorter prompt that comes without them.

    Args:
        full: visual tokens of a nominal image (the pixel budget over 28 x 28); images differ.
    """

    provides = frozenset(
        {
            "features",
            "projected",
            "attention",
            "attention_local",
            "received_object",
            "received_deep",
            "seeds",
            "resolution",
        }
    )

    own_positions = "keep"
    kind: type[VisualTokens] = VisualTokens

    def __init__(self, *args: Any, full: int = 1225, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.full = full
        self.side = self.config.vision_config.spatial_merge_size
        self.environment["pixels"] = dict(self.image_processor.size)
        penalty = self.model.generation_config.repetition_penalty
        if penalty not in (None, 1.0):  # the checkpoint's own; it counts prompt tokens too
            self.environment["repetition_penalty"] = penalty

    @torch.inference_mode()
    def encode_at(self, images: Sequence[Image.Image], grid: tuple[int, int]) -> list[VisualTokens]:
        """The images resized as the processor does it, to the pixels that ``grid`` covers."""
        edge = self.config.vision_config.patch_size * self.side
        size = grid[1] * edge, grid[0] * edge
        resample = self.image_processor.resample
        smaller = [image.convert("RGB").resize(size, resample=resample) for image in images]
        process = partial(self.image_processor, do_resize=False, return_tensors="pt")
        prepared = [
            Prepared(process(images=[small]), content_seed(image))
            for image, small in zip(images, smaller)
        ]
        return self.encode_prepared(prepared, frozenset())

    def encode_prepared(
        self, prepared: Sequence[Prepared], needs: frozenset[str]
    ) -> list[VisualTokens]:
        grids = torch.cat([each.batch["image_grid_thw"] for each in prepared])
        visual = self.model.model.visual
        pixels = torch.cat([each.batch["pixel_values"] for each in prepared])
        pixels = pixels.to(self.model.device, self.model.dtype)
        wanted = self._blocks(needs)
        with ExitStack() as stack:
            tapped = {
                block: stack.enter_context(tap_packed(visual.blocks[block].attn))
                for block in set(wanted.values())
            }
            output = visual(pixels, grid_thw=grids.to(pixels.device), return_dict=True)
        square = self.side**2
        back = self._raster_order(grids).to(pixels.device)
        captured = self._captured(output, back)
        received = {block: tap.received_attention(square)[back] for block, tap in tapped.items()}
        encoded = []
        start = 0
        for each, (_, rows, columns) in zip(prepared, grids.tolist()):
            grid = (rows // self.side, columns // self.side)
            part = slice(start, start := start + grid[0] * grid[1])
            fields = {name: value[part][None] for name, value in captured.items()}
            for name, block in wanted.items():
                row = received[block][part]  # (N,)
                fields[name] = row[None] if name.startswith("received") else row[None, None]
            encoded.append(self.kind(grid, seeds=(each.seed,), **fields))
        return encoded

    def _captured(self, output: Any, back: Tensor) -> dict[str, Tensor]:
        """Of all images, one behind the other in raster order: features and tokens."""
        patches = output.last_hidden_state.unflatten(0, (-1, self.side**2))
        return {"features": patches.flatten(1)[back], "projected": output.pooler_output}

    def _full_blocks(self) -> list[int]:
        """Blocks of the tower in which every patch sees the whole image."""
        return sorted(self.config.vision_config.fullatt_block_indexes)

    def _blocks(self, needs: frozenset[str]) -> dict[str, int]:
        """The block at which each needed kind of attention is read."""
        full = self._full_blocks()
        blocks = {"attention": full[-1], "received_deep": full[-1]}
        for name, depth in (("attention_local", LOCAL_DEPTH), ("received_object", OBJECT_DEPTH)):
            least = at_depth(depth, self.model.model.visual.blocks)
            blocks[name] = next((block for block in full if block >= least), full[-1])
        return {name: block for name, block in blocks.items() if name in needs}

    def _raster_order(self, grids: Tensor) -> Tensor:
        """The tower works in window order; where each raster token is in it."""
        vision = self.config.vision_config
        window, _ = get_vision_window_index(
            grids, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        return window.argsort()

    def project(self, features: Tensor) -> Tensor:
        """(..., 4 C) -> (..., D)."""
        merged = self.model.model.visual.merger(features.reshape(-1, features.shape[-1] // 4))
        return merged.view(*features.shape[:-1], -1)

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        indices = selection.indices[0]
        kept = indices >= 0
        if selection.weights is None:
            return Visual(tokens.projected[0, indices], indices, tokens.count, tokens.grid)
        weights = selection.weights[0, kept].to(tokens.features.dtype)
        if selection.projected:
            mixed = weights @ tokens.projected[0]
        else:
            mixed = self.project(weights @ tokens.features[0])
        anchors = indices[kept].where(indices[kept] < tokens.count, -1)
        return Visual(mixed, anchors, tokens.count, tokens.grid)

    def positions(
        self, prompts: Sequence[list[int]], visuals: Sequence[Visual], pads: Sequence[int]
    ) -> dict[str, Tensor]:
        """(4, B, n): text row by what is there; time, height, width of the full image."""
        placed = []
        for ids, visual, pad in zip(prompts, visuals, pads):
            rows, columns = visual.layout
            at = ids.index(self.image_token)
            whole = torch.tensor([self._expand(ids, rows * columns)])
            grid = torch.tensor([[1, rows * self.side, columns * self.side]])
            types = (whole == self.image_token).int()
            full, _ = self.model.model.get_rope_index(whole, types, image_grid_thw=grid)
            before = torch.arange(at)
            after = torch.arange(at + rows * columns, whole.shape[1])
            columns_kept = torch.cat([before, at + visual.places, after])
            count = torch.arange(len(columns_kept))[None]
            row = torch.cat([count, full[:, 0, columns_kept]])  # (4, n)
            if visual.pruned and not self.keeps_positions(visual):
                row = count.expand(4, -1)
            placed.append(torch.cat([row.new_zeros(4, pad), row], dim=1))
        return {"position_ids": torch.stack(placed, dim=1).to(self.model.device)}


def load(prompt: str, full: int = 1225, **checkpoint: Any) -> Qwen2_5VLAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<|image_pad|>`` once and ``{question}`` once.
        full: visual tokens of a nominal image.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    parts = load_checkpoint("Qwen2_5_VLForConditionalGeneration", **checkpoint)
    return Qwen2_5VLAdapter(*parts, prompt, placeholder=PLACEHOLDER, full=full)

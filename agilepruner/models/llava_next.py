"""LLaVA-NeXT (``LlavaNextForConditionalGeneration``): an overview tile and up to four more."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    unpad_image,
)

from agilepruner.errors import UserError
from agilepruner.models.base import Layout, Visual, centred, stack
from agilepruner.models.hugging_face import Prepared, load_checkpoint
from agilepruner.models.tiled import Grid, TiledAdapter
from agilepruner.strategies.base import Selection, VisualTokens

PLACEHOLDER = "<image>"  # of the image, in prompts
GEOMETRIES = ("paper", "native")
NEWLINE = -1  # in an order: the learned newline embedding, no visual token


@dataclass(frozen=True)
class TiledTokens(VisualTokens):
    """The T tiles of one image, overview first, and how they become one sequence.

    Attributes:
        order: (M,) the unpruned sequence: token t * N + i of tile t, or ``NEWLINE``.
        mosaic: rows and columns of the tiles behind the overview; None: there are none.
    """

    order: Tensor = None  # type: ignore[assignment]
    mosaic: tuple[int, int] | None = None

    def __getitem__(self, image: int | slice) -> VisualTokens:
        """Some of the tiles, which no longer are one image."""
        return stack([self])[image]


class LlavaNextAdapter(TiledAdapter):
    """LLaVA-NeXT through transformers, in one of two geometries.

    ``paper``: the line of work of the paper (VisPruner, CDPruner): the overview, then the other
    tiles as one mosaic in raster order, without unpadding and without newlines. With the image
    processor's grid fixed to 672 x 672 every image has 5 x 576 = 2,880 tokens.

    ``native``: transformers' own: padding removed, a newline after each row of the mosaic. A row
    that keeps no token loses its newline.

    A budget is shared equally by the five tiles of the largest grid. Merged tokens (a CLS token, a
    summary) have no place in a mosaic: merging strategies give tile after tile, without newlines.
    Where positions are kept, a merged token has that of its anchor in the mosaic all the same.

    Args:
        geometry: ``paper`` or ``native``.
    """

    def __init__(self, model: Any, *args: Any, geometry: str = "paper", **settings: Any) -> None:
        super().__init__(model, *args, **settings)
        if geometry not in GEOMETRIES:
            raise UserError(f"geometry={geometry!r}: choose one of {', '.join(GEOMETRIES)}.")
        self.geometry = geometry
        self.exact_budget = geometry == "paper"
        edge, side = self.config.vision_config.image_size, self.grid[0]
        shapes = [(h // edge, w // edge) for h, w in self._pinpoints()]
        self.most_tiles = 1 + max(rows * columns for rows, columns in shapes)
        newline = 0 if geometry == "paper" else 1
        self.full = side * side + max(
            rows * side * (columns * side + newline) for rows, columns in shapes
        )
        self.environment["geometry"] = geometry

    def layout(self, tokens: VisualTokens, image: Image.Image) -> Layout:
        """The mosaic is cut from the image as it is, padded around to the mosaic's shape."""
        assert isinstance(tokens, TiledTokens)
        if tokens.mosaic is None:
            return Layout()
        (rows, columns), (width, height) = tokens.mosaic, image.size
        shape = columns * height / (rows * width)
        return Layout(centred(max(1.0, shape), max(1.0, 1 / shape)), tokens.mosaic)

    def offered(self, tokens: VisualTokens) -> int:
        assert isinstance(tokens, TiledTokens)
        return tokens.order.numel()

    def pixels(self, prepared: Prepared) -> Tensor:
        return prepared.batch["pixel_values"][0]

    def of_image(self, prepared: Prepared, grid: Grid, fields: dict[str, Any]) -> VisualTokens:
        size, tiles = prepared.batch["image_sizes"][0], len(fields["projected"])
        shape = self._shape(size) if tiles > 1 else None
        return TiledTokens(grid, order=self.order(tiles, size, grid), mosaic=shape, **fields)

    def order(self, tiles: int, size: Tensor, grid: Grid) -> Tensor:
        """The unpruned sequence of an image of ``size`` (height, width), see ``TiledTokens``."""
        n = grid[0] * grid[1]
        if self.geometry == "paper":
            return mosaic(self._shape(size), grid)
        if grid != self.grid:
            return unpadded(self._shape(size), grid, size)
        # transformers' own packing, of token numbers instead of tokens: it cannot drift from it.
        numbers = torch.arange(tiles * n, dtype=torch.float64).view(tiles, n, 1)
        return self.pack(numbers, size)[:, 0].long()

    def pack(self, numbers: Tensor, size: Tensor) -> Tensor:
        """The sequence (M, 1) that transformers makes of an image's (T, N, 1) token numbers."""
        strategy = self.config.vision_feature_select_strategy
        newline = torch.full((1,), NEWLINE, dtype=numbers.dtype)
        packed, _ = self.model.model.pack_image_features([numbers], size[None], strategy, newline)
        return packed[0]

    @torch.inference_mode()
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        assert isinstance(tokens, TiledTokens)
        tiles, n, whole = tokens.batch, tokens.count, tokens.order.numel()
        offsets = torch.arange(tiles, device=selection.indices.device)[:, None] * n
        if selection.weights is not None:
            kept = selection.indices >= 0
            places = inverse(tokens.order, tiles * n).to(offsets.device)
            anchors = places[selection.indices.clamp_max(n - 1) + offsets]
            anchors = anchors.where(selection.indices < n, -1)[kept]
            return Visual(self.mix(tokens, selection)[kept], anchors, whole)
        keep = torch.zeros(tiles * n, dtype=torch.bool)
        keep[(selection.indices + offsets).flatten().cpu()] = True
        at = kept_positions(tokens.order, keep, overview=n if tiles > 1 else 0)
        chosen = tokens.order[at].to(tokens.device)
        embeds = tokens.projected.flatten(0, 1)[chosen.clamp_min(0)]
        newline = self.model.model.image_newline.to(embeds.dtype)
        embeds = torch.where((chosen == NEWLINE)[:, None], newline, embeds)
        return Visual(embeds, at, whole, patches=chosen)

    def _shape(self, size: Tensor) -> tuple[int, int]:
        """Rows and columns of the tiles of an image of ``size`` (height, width)."""
        edge = self.config.vision_config.image_size
        rows, columns = get_anyres_image_grid_shape(size, self._pinpoints(), edge)
        return int(rows), int(columns)

    def _pinpoints(self) -> list[list[int]]:
        """Grids (height, width) in pixels that an image may be cut into."""
        # transformers packs by the grids of the model's config.
        owner = self.config if self.geometry == "native" else self.image_processor
        return owner.image_grid_pinpoints


def mosaic(shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Overview, then ``shape`` (rows, columns) of tiles of ``grid`` tokens as one raster: (M,)."""
    (down, across), (rows, columns) = shape, grid
    n = rows * columns
    tiles = torch.arange(n, n * (1 + down * across)).view(down, across, rows, columns)
    return torch.cat([torch.arange(n), tiles.transpose(1, 2).flatten()])


def unpadded(shape: Grid, grid: Grid, size: Tensor) -> Tensor:
    """As ``mosaic``, without padding and with a newline after each row: what transformers packs.

    Its own packing knows one grid; this one is for smaller tiles.
    """
    n, raster = grid[0] * grid[1], mosaic(shape, grid)
    whole = raster[n:].view(1, shape[0] * grid[0], shape[1] * grid[1])
    seen = unpad_image(whole, size)[0]
    rows = torch.cat([seen, torch.full((len(seen), 1), NEWLINE)], dim=1)
    return torch.cat([raster[:n], rows.flatten()])


def inverse(order: Tensor, count: int) -> Tensor:
    """(count,) the position of each token in ``order`` (M,); -1 where it is not in it (padding)."""
    at = torch.full((count,), -1)
    at[order[order != NEWLINE]] = (order != NEWLINE).nonzero()[:, 0]
    return at


def kept_positions(order: Tensor, keep: Tensor, overview: int) -> Tensor:
    """Positions of ``order`` (M,) that stay, given which tokens ``keep`` (T * N,) names.

    A newline stays when a token of its row does; the first ``overview`` tokens are no row.
    """
    newline = order == NEWLINE
    stays = keep[order.clamp_min(0)] & ~newline
    row = newline.long().cumsum(0) - newline.long()  # a newline belongs to the row it ends
    in_row = stays.clone()
    in_row[:overview] = False
    filled = torch.zeros(int(row.max()) + 1, dtype=torch.long).index_add_(0, row, in_row.long())
    return (stays | (newline & (filled[row] > 0))).nonzero()[:, 0]


def load(
    prompt: str,
    split_at_image: bool = False,
    geometry: str = "paper",
    joint_space: str | None = None,
    **checkpoint: Any,
) -> LlavaNextAdapter:
    """Load a checkpoint.

    Args:
        prompt: template with ``<image>`` once and ``{question}`` once.
        split_at_image: tokenize as LLaVA's own code does (see ``HuggingFaceAdapter``).
        geometry: ``paper`` or ``native``, see ``LlavaNextAdapter``.
        joint_space: CLIP checkpoint of the vision tower, see ``LlavaAdapter``.
        checkpoint: path, revision, dtype, device, attention, image_processor, see
            ``load_checkpoint``.
    """
    parts = load_checkpoint("LlavaNextForConditionalGeneration", **checkpoint)
    return LlavaNextAdapter(
        *parts, prompt, split_at_image=split_at_image, geometry=geometry, joint_space=joint_space
    )

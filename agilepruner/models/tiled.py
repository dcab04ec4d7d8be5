"""Models that cut an image into tiles of one size: one pass over all tiles, a budget for each."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from agilepruner.models.hugging_face import Prepared
from agilepruner.models.llava import LlavaAdapter
from agilepruner.strategies.base import VisualTokens

Grid = tuple[int, int]


class TiledAdapter(LlavaAdapter):
    """What adapters of tiled families share.

    Attributes:
        most_tiles: of an image; a budget is shared equally by so many, and an image of fewer keeps
            fewer tokens.
    """

    most_tiles: int

    def tile_budget(self, budget: int) -> int:
        """An equal share for each tile of the largest cut, whatever cut the image has."""
        return budget // self.most_tiles

    @abstractmethod
    def pixels(self, prepared: Prepared) -> Tensor:
        """(T, 3, H, W): the tiles of one image."""

    @abstractmethod
    def of_image(self, prepared: Prepared, grid: Grid, fields: dict[str, Any]) -> VisualTokens:
        """The tokens of one image, given those of its tiles.

        Args:
            prepared: of the image.
            grid: of each tile.
            fields: of ``VisualTokens``, a row per tile.
        """

    def encode_prepared(
        self, prepared: Sequence[Prepared], needs: frozenset[str]
    ) -> list[VisualTokens]:
        return self._encode(prepared, needs, self.grid)

    @torch.inference_mode()
    def encode_at(self, images: Sequence[Image.Image], grid: Grid) -> list[VisualTokens]:
        """Every tile made smaller; the cut stays. Position embeddings are interpolated."""
        return self._encode([self.prepare(image) for image in images], frozenset(), grid)

    def _encode(
        self, prepared: Sequence[Prepared], needs: frozenset[str], grid: Grid
    ) -> list[VisualTokens]:
        # One by one: processors pad several images to the same number of tiles.
        tiles = [self.pixels(each) for each in prepared]
        pixels = torch.cat(tiles)
        if grid != self.grid:
            pixels = smaller(pixels, (self.grid, grid))
        captured = self.see(pixels, needs)
        encoded = []
        start = 0
        for each, part in zip(prepared, tiles):
            rows = slice(start, start := start + len(part))
            fields: dict[str, Any] = {name: value[rows] for name, value in captured.items()}
            fields["seeds"] = each.seeds(len(part))
            encoded.append(self.of_image(each, grid, fields))
        return encoded


def smaller(pixels: Tensor, grids: tuple[Grid, Grid]) -> Tensor:
    """Tiles (B, 3, H, W) of the first grid of tokens, resized to what the second covers."""
    # A token's side in pixels stays.
    sides = [side * to // own for side, own, to in zip(pixels.shape[-2:], *grids)]
    return F.interpolate(pixels.float(), sides, mode="bicubic", antialias=True)

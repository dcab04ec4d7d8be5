"""Cut the patch grid into as many near-equal, near-square cells as the budget has tokens."""

from math import ceil, sqrt


def tiling(grid: tuple[int, int], cells: int) -> list[tuple[range, range]]:
    """Partition of the grid into exactly ``cells`` rectangles (rows, columns), in raster order.

    The grid is cut into bands of rows, each band into its share of cells: 64 of 24 x 24 are
    8 x 8 cells of 3 x 3 patches; where the budget is no such product, bands differ by one cell.
    """
    rows, columns = grid
    bands = round(sqrt(cells * rows / columns))
    bands = min(max(bands, ceil(cells / columns), 1), rows, cells)
    tiles = []
    for band in range(bands):
        width = cells * (band + 1) // bands - cells * band // bands
        tiles += [(_part(rows, bands, band), _part(columns, width, i)) for i in range(width)]
    return tiles


def _part(size: int, parts: int, i: int) -> range:
    """The i-th of ``parts`` near-equal stretches of ``range(size)``."""
    return range(size * i // parts, size * (i + 1) // parts)

"""What all figures share: size, colours, and files that are the same for the same numbers."""

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from agilepruner.report.styles import styles

STYLE: Any = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#E4E4E4",
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "agilepruner",  # ids in an SVG are random without one
    "svg.fonttype": "none",
}
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "X",
    "wedge": "v",
    "plus": "P",
    "flag": ">",
    "pillar": "d",
}
DPI = 120
THUMB = 120  # pixels of the longer side of an image in a figure: what an SVG holds of it
NEUTRAL = "#5F6B76"  # of what belongs to no strategy


def panels(
    across: int, down: int = 1, width: float = 3.6, height: float = 3.0, below: float = 0.0
) -> tuple[Any, Any]:
    """A figure and its (down, across) axes.

    Args:
        across: panels in a row.
        down: rows of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
        below: inches left for ``sheet_of_images``.
    """
    with matplotlib.rc_context(STYLE):
        size = width * across, height * down + below
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        if not below:
            return figure, figure.subplots(down, across, squeeze=False)
        figure.subfigures(2, 1, height_ratios=[height * down, below])
        above: Any = figure.subfigs[0]
        return figure, above.subplots(down, across, squeeze=False)


def sheet_of_images(
    figure: Figure,
    rows: Sequence[tuple[str, Sequence[Image.Image | None], Sequence[str]]],
    across: int,
) -> None:
    """A contact sheet below the panels: each row's title, its images, what stands under each.

    An image that cannot be had is an empty frame.
    """
    with matplotlib.rc_context(STYLE):
        axes = figure.subfigs[1].subplots(len(rows), across, squeeze=False)
        for places, (title, images, captions) in zip(axes, rows):
            for ax, image, caption in zip_longest(places, images, captions):
                ax.set(xticks=[], yticks=[])
                ax.grid(visible=False)
                ax.spines[:].set_visible(False)
                if caption is None:
                    continue
                ax.set_xlabel(caption, fontsize=7)
                if image is None:
                    ax.text(0.5, 0.5, "not on this\nmachine", ha="center", va="center", fontsize=7)
                else:
                    small = image.copy()
                    small.thumbnail((THUMB, THUMB))
                    ax.imshow(small, interpolation="none")
            places[0].set_title(title)


def looks(strategies: Iterable[str]) -> Mapping[str, dict[str, Any]]:
    """Colour and marker of each strategy, as the dashboard has them, for ``plot``."""
    names = list(strategies)
    found = styles(names)
    return {n: {"color": found[n][0], "marker": MARKERS[found[n][1]]} for n in names}


def drawn(figure: Figure) -> dict[str, bytes]:
    """The figure as SVG and PNG: file ending -> content, the same for the same figure."""
    files = {}
    for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(out, format=ending, dpi=DPI, metadata=metadata)
        files[ending] = out.getvalue()
    return files

"""What all figures share: size, colours, and files that are the same for the same numbers."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
NEUTRAL = "#5F6B76"  # of what belongs to no strategy


def panels(across: int, down: int = 1, width: float = 3.6, height: float = 3.0) -> tuple[Any, Any]:
    """A figure and its (down, across) axes.

    Args:
        across: panels in a row.
        down: rows of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * across, height * down), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(down, across, squeeze=False)


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

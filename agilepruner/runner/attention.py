"""How much attention each token of an image got, left by a run for the pages that draw it.

One line per image of a benchmark, whatever the number of cells. Scores need none of it: a run whose
lines are gone loses the overlay of its pages and nothing else.
"""

import base64
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from agilepruner.runner.image_lines import add_lines, read_lines

log = logging.getLogger(__name__)

FOLDER = "attention"


def quantised(attention: np.ndarray) -> str:
    """Attention (T, N) of an image's tiles, not negative, as a byte per token in base 64.

    A byte is 255 times the square root of the token's share of the largest: attention is peaked.
    Empty where there is nothing to be drawn (all zero, not finite).
    """
    largest = float(attention.max())
    if not np.isfinite(largest) or largest <= 0:
        return ""
    levels = np.rint(255 * np.sqrt(np.clip(attention / largest, 0, 1))).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


class Attention:
    """The lines of one benchmark's images; of several processes each writes to its own file.

    Args:
        directory: of the run.
        name: what the images are filed under.
        writer: number of this process among those that write now.
    """

    def __init__(self, directory: Path, name: str, writer: int = 0) -> None:
        self.path = directory / FOLDER / f"{name}.{writer}.jsonl"
        self.name = name
        self._known: set[str] | None = None

    def wanted(self, images: Collection[str]) -> set[str]:
        """Those of the images, by key, that have no line yet."""
        if self._known is None:
            self._known = set(read_attention(self.path.parent, self.name))
        return set(images) - self._known

    def add(self, levels: Mapping[str, str]) -> None:
        """Append lines: image key -> ``quantised``.

        A page can do without them: that a disk is full is for the journal to say, with an end.
        """
        records = [{"image": key, "levels": text} for key, text in levels.items()]
        try:
            add_lines(self.path, self.name, records)
        except OSError as error:
            log.warning("%s cannot be written (%s): pages lack the overlay", self.path, error)
        if self._known is not None:
            self._known |= set(levels)


def read_attention(folder: Path, name: str) -> dict[str, str]:
    """Image key -> its levels, of every line that can be believed.

    Args:
        folder: ``attention`` of a run.
        name: what the images are filed under.
    """
    found: dict[str, str] = {}
    for data in read_lines(folder, name):
        if isinstance(data.get("levels"), str):
            found.setdefault(str(data.get("image")), data["levels"])
    return found

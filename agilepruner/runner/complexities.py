"""How complex each image of a benchmark is, measured before the first answer.

A strategy that apportions a budget over a benchmark needs it of all images. Each image is measured
once per results directory, whoever does it, so every process and every later run apportions alike.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from agilepruner.runner.image_lines import add_lines, read_lines

FOLDER = "complexity"


@dataclass(frozen=True)
class Measured:
    """What apportioning knows of an image.

    Attributes:
        complexity: erank_input and entropy, as entries have them.
        tiles: of the image. room: tokens of each.
    """

    complexity: dict[str, float]
    tiles: int
    room: int


class Complexities:
    """The measured images of one benchmark; of several processes each writes to its own file.

    Args:
        directory: of the run.
        name: what the images are filed under.
        writer: number of this process among those that write now.
    """

    def __init__(self, directory: Path, name: str, writer: int = 0) -> None:
        self.path = directory / FOLDER / f"{name}.{writer}.jsonl"
        self.name = name

    def read(self) -> dict[str, Measured]:
        """Image key -> what was measured, of every line that can be believed."""
        found: dict[str, Measured] = {}
        for data in read_lines(self.path.parent, self.name):
            said = data["complexity"], data["tiles"], data["room"]
            found.setdefault(data["image"], Measured(*said))
        return found

    def add(self, found: Mapping[str, Measured]) -> None:
        """Append lines.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        records = [{"image": key, **asdict(one)} for key, one in found.items()]
        add_lines(self.path, self.name, records)

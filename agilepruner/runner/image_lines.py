"""A line per image of a benchmark, in a folder of a run; every process writes to its own file."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agilepruner.runner.journal import sealed, unsealed


def read_lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every line that can be believed, whoever wrote it.

    Args:
        folder: of the lines.
        name: what the images are filed under.
    """
    for path in sorted(folder.glob(f"{name}.*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            data = unsealed(line, name) if line else None
            if data is not None:
                yield data


def add_lines(path: Path, name: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Append a record per image, behind a newline where a kill tore the last line.

    Args:
        path: this process's file.
        name: what the images are filed under.
        records: with the image's key under ``image``.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        torn = file.tell() and not _ends_whole(path)
        lines = b"".join(sealed(record, name) for record in records)
        file.write((b"\n" if torn else b"") + lines)


def _ends_whole(path: Path) -> bool:
    """Whether the last line of a file that is not empty is whole."""
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

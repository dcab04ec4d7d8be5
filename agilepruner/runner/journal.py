"""The crash-safe record of a cell's answers: JSON lines, appended and fsynced."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One document's outcome.

    Attributes:
        doc: document index in its split.
        answer: the model's text; None when generation failed.
        error: why it failed; empty for answers.
        text_tokens: prompt tokens that are not visual.
        new_tokens: generated tokens.
        visual: visual tokens in the KV cache of each decoder layer after prefill, as measured;
            one number where all layers agree.
        offered: visual tokens of the image before pruning.
        grid: rows and columns of tokens of each of the image's tiles. tiles: how many.
        complexity: erank_input, erank_kept, entropy of the image.
        seconds: encode, select, generate: this document's share.
    """

    doc: int
    answer: str | None = None
    error: str = ""
    text_tokens: int = 0
    new_tokens: int = 0
    visual: int | list[int] = 0
    offered: int = 0
    grid: list[int] | None = None
    tiles: int = 1
    complexity: dict[str, float] | None = None
    seconds: dict[str, float] | None = None


class Journal:
    """Entries of one cell, written by one rank and read from all ranks.

    A torn last line (a kill in the middle of a write) is dropped: that document is done again.
    """

    def __init__(self, directory: Path, rank: int = 0) -> None:
        self.directory = directory
        self.path = directory / f"journal.{rank}.jsonl"

    def read(self) -> dict[int, Entry]:
        """All whole entries by document; a later entry replaces an earlier failure.

        Raises:
            UserError: a line that is not the last is damaged: the file was edited or the disk is
                failing, and guessing would be silent loss.
        """
        entries: dict[int, Entry] = {}
        for path in sorted(self.directory.glob("journal.*.jsonl")):
            for data in _whole_lines(path):
                entry = Entry(**data)
                known = entries.get(entry.doc)
                if known is None or known.error:
                    entries[entry.doc] = entry
        return entries

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries so that they survive a crash right after this call."""
        lines = "".join(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in entries)
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.ftruncate(descriptor, _end_of_whole_lines(descriptor, size))
                size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, lines.encode())
            except OSError:  # a full disk: leave no half line behind
                os.ftruncate(descriptor, size)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _end_of_whole_lines(descriptor: int, size: int) -> int:
    return os.pread(descriptor, size, 0).rfind(b"\n") + 1


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}: line {number} is damaged ({error}). Delete that line (its document is "
                "then answered again) and run the same command."
            ) from None

"""The crash-safe record of a cell's answers: a header, then a line per document.

Every line carries a checksum over itself and the cell's id. So a line is believed only where it
belongs: not in another cell's folder, not when a byte of it has changed, not when a kill tore it.
What is not believed costs its document, which is answered again, and nothing else.
"""

import json
import logging
import math
import os
import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VERSION = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One document's outcome.

    Attributes:
        doc: document index in its split.
        answer: the model's text; None when the document failed.
        error: type and cause of the failure; empty for answers. at: when, seconds since 1970.
        note: what a reader must know of this document (a damaged image); mostly empty.
        text_tokens: prompt tokens that are not visual.
        new_tokens: generated tokens.
        visual: visual tokens in the KV cache of each decoder layer after prefill, as measured;
            one number where all layers agree.
        offered: visual tokens of the image before pruning.
        grid: rows and columns of tokens of each of the image's tiles. tiles: how many.
        kept: which patches the language model was given, see ``runner.kept``; None: all of them.
        view: left, top, right, bottom of what the tile covers, or those of the mosaic together, in
            widths and heights of the image; None: the whole of it.
        mosaic: rows and columns of the tiles that cut ``view``; None: there is one tile.
        overview: number of the tile beside a mosaic, which is the whole image.
        complexity: erank_input, entropy of the image; erank_kept, attention_kept of its tokens.
        seconds: encode, select, generate: this document's share.
    """

    doc: int
    answer: str | None = None
    error: str = ""
    at: float = 0.0
    note: str = ""
    text_tokens: int = 0
    new_tokens: int = 0
    visual: int | list[int] = 0
    offered: int = 0
    grid: list[int] | None = None
    tiles: int = 1
    kept: dict[str, Any] | None = None
    view: list[float] | None = None
    mosaic: list[int] | None = None
    overview: int = 0
    complexity: dict[str, float] | None = None
    seconds: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.doc, bool) or not isinstance(self.doc, int) or self.doc < 0:
            raise TypeError(f"doc is {self.doc!r}, expected the index of a document")
        if not isinstance(self.answer, str | None) or (self.answer is None) == (not self.error):
            raise TypeError("expected an answer or an error")


NEVER = -1.0  # the moment of a failure that says none: before any run
FIELDS = [(field.name, field.default) for field in fields(Entry)]


class Journal:
    """Entries of one cell: written by several processes, each to its own file, read from all.

    Args:
        directory: the cell's folder.
        cell: its id.
        writer: number of this process among those that write now.
        keep: hold the entries in memory. Who answers needs to know of a document only whether it
            is answered or when it failed: eight bytes of it instead of a kilobyte.
    """

    def __init__(self, directory: Path, cell: str, writer: int = 0, keep: bool = True) -> None:
        self.directory, self.cell, self._keep = directory, cell, keep
        self._outcomes = array("d")  # by document: see `outcome`; NaN: nothing is known
        self._answers = 0
        self._news: list[int] = []
        self.path = directory / f"journal.{writer}.jsonl"
        self.entries: dict[int, Entry] = {}
        self.header: dict[str, Any] | None = None
        self.left_out = 0
        self._read_to: dict[Path, int] = {}
        self._file: int | None = None

    def refresh(self) -> dict[int, Entry]:
        """Read what was added since the last call; all believed entries by document.

        A later entry replaces an earlier failure, never an answer.
        """
        left_out = self.left_out
        for path in sorted(self.directory.glob("journal.*.jsonl")):
            self._read(path)
        if self.left_out > left_out:
            log.warning(
                "%s: %d lines are damaged or belong to another cell; they are not used",
                self.directory.name,
                self.left_out - left_out,
            )
        return self.entries

    def _read(self, path: Path) -> None:
        at = self._read_to.get(path, 0)
        with open(path, "rb") as file:
            file.seek(at)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written, or torn
                    break
                at += len(line)
                self._take(line[:-1])
        self._read_to[path] = at

    def _take(self, line: bytes) -> None:
        data = unsealed(line, self.cell)
        if data is None:
            self.left_out += 1
        elif "journal" in data:
            self.header = data
        else:
            try:
                entry = Entry(**data)
            except TypeError:
                self.left_out += 1
                return
            self._remember(entry)

    def _remember(self, entry: Entry) -> None:
        """Of two entries of a document the later one counts, unless the first is an answer."""
        if self.outcome(entry.doc) == 0:
            return
        missing = entry.doc + 1 - len(self._outcomes)
        if missing > 0:
            self._outcomes.extend([math.nan] * (missing + len(self._outcomes) // 8))
        self._outcomes[entry.doc] = (entry.at or NEVER) if entry.error else 0.0
        self._answers += not entry.error
        self._news.append(entry.doc)
        if self._keep:
            self.entries[entry.doc] = entry

    def outcome(self, doc: int) -> float | None:
        """0 for an answered document, the moment of its failure, None where nothing is known."""
        if doc >= len(self._outcomes) or math.isnan(value := self._outcomes[doc]):
            return None
        return value

    @property
    def answers(self) -> int:
        """How many documents are answered."""
        return self._answers

    def news(self) -> list[int]:
        """Documents whose outcome is another one since the last call."""
        found, self._news = self._news, []
        return found

    def begin(self, header: Mapping[str, Any]) -> None:
        """Say whose the lines are that this process will write, and under what they were made.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self.header = {"journal": VERSION, "cell": self.cell, **header}
        self._write([self.header])

    @property
    def begun(self) -> bool:
        """Whether this process has written its header."""
        return self._file is not None

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries so that they survive the end of this process; ``sync`` for a power cut.

        Raises:
            OSError: the disk is full or cannot be written; no half line is left behind.
        """
        known = list(entries)
        self._write([_plain(entry) for entry in known])
        for entry in known:
            self._remember(entry)

    def _write(self, records: list[dict[str, Any]]) -> None:
        data = b"".join(sealed(record, self.cell) for record in records)
        if self._file is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            _drop_torn_line(self._file)
        size = os.fstat(self._file).st_size
        try:
            rest = data
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, size)
            raise
        if self._read_to.get(self.path, 0) == size:  # own lines need not be read again
            self._read_to[self.path] = size + len(data)

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Sync, and let the file go."""
        if self._file is not None:
            try:
                os.fsync(self._file)
            finally:
                os.close(self._file)
                self._file = None


def header_in(directory: Path, cell: str) -> dict[str, Any] | None:
    """The header of a cell's journals, as reading all of them would find it; None: there is none.

    Args:
        directory: the cell's folder.
        cell: its id.
    """
    found = None
    for path in sorted(directory.glob("journal.*.jsonl")):
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(b'{"journal":') and line.endswith(b"\n"):
                    found = unsealed(line[:-1], cell) or found
    return found


class Lines:
    """Where each document's lines lie in a cell's journals, to read some without the others.

    Args:
        directory: the cell's folder.
        cell: its id.
    """

    def __init__(self, directory: Path, cell: str) -> None:
        self._directory, self._cell = directory, cell
        self._paths = sorted(directory.glob("journal.*.jsonl"))
        documents, self._starts, self._files = array("q"), array("q"), array("q")
        known = Journal(directory, cell)
        for number, path in enumerate(self._paths):
            start = 0
            with open(path, "rb") as file:
                for line in file:
                    if found := DOCUMENT.match(line):
                        documents.append(int(found[1]))
                        self._starts.append(start)
                        self._files.append(number)
                    elif line.endswith(b"\n"):
                        known._take(line[:-1])
                    start += len(line)
        self.header = known.header
        self._documents = documents
        # Stable: of a document's lines the order says which counts.
        self._order = array("q", sorted(range(len(documents)), key=documents.__getitem__))

    def entries(self, documents: Collection[int]) -> dict[int, Entry]:
        """The entries of some documents, those that the whole journal would give."""
        journal = Journal(self._directory, self._cell)
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in self._paths]
            for document in sorted(set(documents)):
                at = bisect_left(self._order, document, key=self._documents.__getitem__)
                while at < len(self._order) and self._documents[self._order[at]] == document:
                    place = self._order[at]
                    file = files[self._files[place]]
                    file.seek(self._starts[place])
                    line = file.readline()
                    if line.endswith(b"\n"):
                        journal._take(line[:-1])
                    at += 1
        return journal.entries


DOCUMENT = re.compile(rb'\{"doc":(\d+)[,}]')  # how a line begins, see ``_plain``


def _plain(entry: Entry) -> dict[str, Any]:
    """An entry without what is at its default."""
    values = ((name, getattr(entry, name), default) for name, default in FIELDS)
    return {name: value for name, value, default in values if value != default}


_AS_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: faster


def sealed(record: Mapping[str, Any], cell: str) -> bytes:
    """A record as a line of JSON whose last field is its checksum in this cell."""
    body = _AS_JSON(record)[:-1].encode("utf-8", "backslashreplace")
    return body + b',"crc":"%08x"}\n' % _checksum(body, cell)


def unsealed(line: bytes, cell: str) -> dict[str, Any] | None:
    """The record of a line that is whole and of this cell; None for any other."""
    body, _, rest = line.rpartition(b',"crc":"')
    if rest != b'%08x"}' % _checksum(body, cell):
        return None
    try:
        record = json.loads(body + b"}")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _checksum(body: bytes, cell: str) -> int:
    return zlib.crc32(body, zlib.crc32(cell.encode()))


def _drop_torn_line(file: int) -> None:
    """Cut off what follows the last newline: a kill in the middle of a write."""
    size = os.fstat(file).st_size
    end = size
    while end > 0:
        start = max(0, end - (1 << 16))
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)

"""Documents on the page: a chosen sample of them, with picture, question, answers, what was kept.

Which documents: of every line of a table the ones whose answer flipped against vanilla, both ways,
and some of all others, benchmark after benchmark in turn, until there are as many as wanted or the
page would get too large. So a small benchmark shows all of its flips, a large one a sample of each
line's. The sample depends on scores and names only.
"""

import base64
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from agilepruner.report.dashboard.grid import Marks
from agilepruner.report.frames import kept_in
from agilepruner.report.lines import Table
from agilepruner.runner.journal import Entry
from agilepruner.runner.kept import boxes_of
from agilepruner.runner.rows import Row

WANTED = 600  # documents on a page
ROOM = 12_000_000  # bytes that they may take
ALL = "all"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MISSING = "The data set is not on this machine: no question and no picture."


@dataclass(frozen=True)
class Picture:
    """An encoded WebP, and its width and height in pixels."""

    data: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Look:
    """What a unit shows: (document, question, references) of each of its documents; its picture."""

    asked: list[tuple[int, str, list[str]]]
    picture: Picture | None


@dataclass(frozen=True)
class Said:
    """An answer as journaled, and the FLOPs of its document."""

    entry: Entry
    flops: float | None


class Reader(Protocol):
    """What documents look like and what was answered; ``agilepruner.documents`` has one."""

    def looks(self, row: Row, documents: Sequence[int]) -> Iterator[tuple[int, Look]]:
        """What units show, by their first document; those that cannot be had are left out."""
        ...

    def attention(self, row: Row, image: str) -> str:
        """A byte per token in base 64, see ``runner.attention``; empty: not known."""
        ...

    def said(self, row: Row, documents: Collection[int]) -> Mapping[int, Said]:
        """A cell's answers to some documents."""
        ...


@dataclass
class Drawn:
    """Documents as the page reads them.

    Attributes:
        items: one per document. images: their pictures. phases: lists of names.
        missing: how many have no picture.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    phases: list[list[str]] = field(default_factory=list)
    missing: int = 0

    def plain(self, about: str) -> dict[str, Any]:
        """As data of the page."""
        return {
            "items": self.items,
            "images": self.images,
            "phases": self.phases,
            "about": about,
            "missing": MISSING,
        }


def sample(marks: Sequence[Marks], base: int | None, wanted: int) -> list[tuple[int, int]]:
    """Units worth showing: (position in ``marks``, unit), benchmarks in turn.

    Args:
        marks: of a table's benchmarks.
        base: vanilla's position in the table's lines; None: there is none.
        wanted: how many.
    """
    queues = [
        [(b, unit) for unit in _by_interest(one, base, wanted)] for b, one in enumerate(marks)
    ]
    return list(_in_turn(queues))[:wanted]


def flips_drawn(
    number: int, marks: Sequence[Marks], base: int | None, items: Sequence[Mapping[str, Any]]
) -> str:
    """How many of each benchmark's flips against vanilla are drawn; empty: there is no vanilla.

    Args:
        number: the table's place on the page.
        marks: of its benchmarks.
        base: vanilla's position in the table's lines.
        items: what is drawn.
    """
    said = []
    for one in marks:
        if base not in one.lines:
            continue
        plain = one.right[one.lines.index(base)]
        units = np.flatnonzero((one.right != plain).any(axis=0))
        flipped = {one.documents[unit] for unit in units}
        drawn = {
            item["document"]
            for item in items
            if (item["table"], item["benchmark"]) == (number, one.benchmark)
        }
        there = len(flipped & drawn)
        every = "all " if there == len(flipped) else f"{there:,} of "
        said.append(f"{one.label} {every}{len(flipped):,}")
    return f"Documents that any line flips: {', '.join(said)}." if said else ""


def _by_interest(marks: Marks, base: int | None, wanted: int) -> list[int]:
    """Units in the order in which they are worth a place: a flip of each line, in rounds."""
    count = len(marks.documents)
    keys = [zlib.crc32(f"{marks.benchmark} {d}".encode()) for d in marks.documents]
    shuffled = np.argsort(keys, kind="stable")
    groups = []
    if base in marks.lines:
        plain = marks.right[marks.lines.index(base)]
        for own in marks.right:
            groups += [plain & ~own, ~plain & own]
    groups += [marks.share == 0, marks.share == 1, np.ones(count, dtype=bool)]
    queues = [shuffled[group[shuffled]][:wanted].tolist() for group in groups]
    return list(dict.fromkeys(_in_turn(queues)))[:wanted]


def _in_turn(queues: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """The first of each, the second of each, and so on."""
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue):
                yield queue[turn]


def draw(
    number: int,
    table: Table,
    marks: Sequence[Marks],
    chosen: Sequence[tuple[int, int]],
    reader: Reader,
    drawn: Drawn,
    room: int | None = ROOM,
) -> int:
    """Add a table's chosen documents to what is drawn; the bytes that they take.

    Args:
        number: the table's place on the page.
        table: whose lines.
        marks: of its benchmarks.
        chosen: positions in ``marks`` and units, those worth most first.
        reader: of pictures, questions and journals.
        drawn: what is added to.
        room: bytes at most; None: any number.
    """
    made = {}
    for b in dict.fromkeys(b for b, _ in chosen):
        units = [unit for position, unit in chosen if position == b]
        for unit, item, picture in _of_benchmark(number, table, marks[b], units, reader, drawn):
            made[b, unit] = item, picture
    spent = 0
    places: dict[str, int] = {}
    kept = []
    for key in chosen:
        if key not in made:
            continue
        item, picture = made[key]
        image = _data_uri(picture) if picture else ""
        size = len(json.dumps(item)) + (len(image) if image not in places else 0)
        if room is not None and spent + size > room:
            break
        spent += size
        if picture and image not in places:
            places[image] = len(drawn.images)
            drawn.images.append({"data": image, "size": list(picture.size)})
        drawn.missing += not picture
        kept.append((key, {**item, "image": places.get(image, -1)}))
    kept.sort(key=lambda one: one[0])
    drawn.items += [item for _, item in kept]
    return spent


def _data_uri(picture: Picture) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture.data).decode()


def _of_benchmark(
    number: int,
    table: Table,
    marks: Marks,
    units: Sequence[int],
    reader: Reader,
    drawn: Drawn,
) -> Iterator[tuple[int, dict[str, Any], Picture | None]]:
    rows = {i: table.lines[i].rows[marks.benchmark][0] for i in marks.lines}
    first = next(iter(rows.values()))
    looks = dict(reader.looks(first, [marks.documents[unit] for unit in units]))
    asked: dict[int, list[tuple[int, str, list[str]]]] = {
        unit: looks[document].asked if document in looks else [(document, "", [])]
        for unit in units
        for document in [marks.documents[unit]]
    }
    documents = {document for members in asked.values() for document, *_ in members}
    said = {i: reader.said(row, documents) for i, row in rows.items()}
    for unit in units:
        document = marks.documents[unit]
        members = [one for one, *_ in asked[unit]]
        lines = {
            i: _line(row, marks.scores[p, unit], members, said[i], drawn)
            for p, (i, row) in enumerate(rows.items())
        }
        entry = next((said[i][document].entry for i in rows if document in said[i]), None)
        look = looks.get(document)
        image = (first.clusters or [""] * (unit + 1))[unit]
        yield (
            unit,
            {
                "table": number,
                "benchmark": marks.benchmark,
                "document": document,
                "kind": marks.kinds[unit],
                "asked": [[question, references] for _, question, references in look.asked]
                if look
                else [],
                "erank": (entry.complexity or {}).get("erank_input") if entry else None,
                "entropy": (entry.complexity or {}).get("entropy") if entry else None,
                "grid": entry.grid if entry else None,
                "tiles": entry.tiles if entry else 1,
                "boxes": [[round(e, 4) for e in box] for box in boxes_of(entry)] if entry else None,
                "overview": entry.overview if entry else 0,
                "note": entry.note if entry else "",
                "attention": reader.attention(first, image),
                "lines": lines,
            },
            look.picture if look else None,
        )


def _line(
    row: Row, score: float, members: Sequence[int], said: Mapping[int, Said], drawn: Drawn
) -> dict[str, Any]:
    """What one line said of a unit; what it kept for its first document."""
    first = said.get(members[0])
    data: dict[str, Any] = {
        "score": round(float(score), 4),
        "answers": [one.entry.answer if (one := said.get(m)) else "" for m in members],
    }
    if first is None:
        return data
    entry = first.entry
    erank = (entry.complexity or {}).get("erank_kept")
    visual = entry.visual if isinstance(entry.visual, int) else entry.visual[0]
    data |= {"visual": visual} | ({} if erank is None else {"erank": round(erank, 1)})
    if isinstance(entry.visual, list):
        data["layers"] = f"{visual} to {entry.visual[-1]} over {len(entry.visual)} layers"
    if first.flops:
        data["flops"] = f"{first.flops / 10 ** (9 if first.flops < 1e12 else 12):.3g} " + (
            "GFLOPs" if first.flops < 1e12 else "TFLOPs"
        )
    return data | _selection(row, entry, drawn)


def _selection(row: Row, entry: Entry, drawn: Drawn) -> dict[str, Any]:
    """Which tokens a language model was given, as the page reads it.

    ``kept``: a bit per token of the grid; ``phases`` a digit per kept token, of ``names``;
    ``loose``: the same of tokens that are no patch (CLS); ``stages``: how many there are inside the
    model, the phases then say which of them dropped a token;
    ``joined``: of merging methods, for each token of the grid a byte (or two): 1 + the merged token
    that most of it went into, 0 for none.
    """
    try:
        kept = kept_in(entry)
    except ValueError:
        return {}
    total = entry.tiles * (entry.grid or [0, 0])[0] * (entry.grid or [0, 0])[1]
    numbered = sorted((patch, n) for n, patch in enumerate(kept.patches) if 0 <= patch < total)
    there = np.zeros(total, dtype=bool)
    there[[patch for patch, _ in numbered]] = True
    if there.all() and not kept.stages and not kept.phases and not kept.joined:
        return {}
    data: dict[str, Any] = {"kept": base64.b64encode(np.packbits(there).tobytes()).decode()}
    phases, names = kept.phases, list(row.phases)
    if kept.stages:
        lasts = [set(stage) for stage in kept.stages]
        phases = [sum(n in stage for stage in lasts) for n in range(len(kept.patches))]
        data["stages"] = len(lasts)
        names = [f"dropped by stage {i + 1}" for i in range(len(lasts))] + ["kept to the end"]
    if phases and names and max(phases) < len(names):
        # Of equal patches (merged tokens may share one) the first counts.
        first = {patch: n for patch, n in reversed(numbered)}
        data["phases"] = "".join(DIGITS[phases[n]] for _, n in sorted(first.items()))
        loose = [phases[n] for n, patch in enumerate(kept.patches) if patch < 0]
        if loose:
            data["loose"] = "".join(DIGITS[phase] for phase in loose)
        if names not in drawn.phases:
            drawn.phases.append(names)
        data["names"] = drawn.phases.index(names)
    if kept.joined:
        wide = np.array(kept.joined) + 1
        kind = np.uint8 if wide.max() < 256 else np.dtype("<u2")
        data["joined"] = base64.b64encode(wide.astype(kind).tobytes()).decode()
    return data

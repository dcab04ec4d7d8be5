"""Documents x strategies: who is right where, the items nobody gets, and those everybody gets.

A unit is what a benchmark scores: a document, a pair of MME, a rotated question. It is right from
half its marks on. Lines of several seeds stand here with their first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agilepruner.report.flips import RIGHT
from agilepruner.report.lines import Line, Table
from agilepruner.runner.rows import Row

STRIPES = 160  # of the heat map at most: beyond, neighbours share one
LISTED = 100  # documents named in each list


@dataclass(frozen=True)
class Marks:
    """The scores of one benchmark's units, for the lines that answered the same ones.

    Attributes:
        benchmark, label: config name and column title.
        documents: (U,) index of each unit's first document.
        kinds: (U,) kind of image of each, empty where the suite does not say.
        lines: positions in ``Table.lines``. scores: (L, U) in [0, 1].
    """

    benchmark: str
    label: str
    documents: list[int]
    kinds: list[str]
    lines: list[int]
    scores: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(L, U) whether a line is right on a unit."""
        return self.scores >= RIGHT

    @property
    def share(self) -> np.ndarray:
        """(U,) the share of lines that are right."""
        return self.right.mean(axis=0)


def marks_of(table: Table) -> list[Marks]:
    """Every benchmark of a table that scores units, in the order of its columns."""
    found = []
    for benchmark, shown in table.shown.items():
        rows = {i: _row(line, benchmark) for i, line in enumerate(table.lines)}
        known = {i: row for i, row in rows.items() if row is not None}
        if not known:
            continue
        first = next(iter(known.values()))
        same = {i: row for i, row in known.items() if _units(row) == _units(first)}
        count = len(first.clusters or [])
        found.append(
            Marks(
                benchmark,
                shown.benchmark_label,
                _units(first),
                first.kinds or [""] * count,
                list(same),
                np.clip([row.scores for row in same.values()], 0, 1),
            )
        )
    return found


def _row(line: Line, benchmark: str) -> Row | None:
    """The first seed's row, where it scores units."""
    row = next(iter(line.rows.get(benchmark, [])), None)
    usable = row is not None and row.status == "done" and row.scores and row.clusters
    return row if usable else None


def _units(row: Row) -> list[int]:
    return row.documents if row.documents is not None else list(range(len(row.clusters or [])))


def grid_data(
    marks: Marks,
    answers: Mapping[int, Mapping[int, str]] | None = None,
    base: int | None = None,
) -> dict[str, Any]:
    """One benchmark's heat map as plain data.

    Args:
        marks: its scores.
        answers: line -> document -> answer, where journals are there.
        base: vanilla's position in the table's lines; None: there is none.

    Returns:
        ``stripes``: for each, its first document and how many units it is, the hardest first;
        ``rows``: per line its position, percent right in all and in each stripe, units lost and
        gained against vanilla, units that only it has right, or wrong; ``nobody``, ``everybody``:
        how many units, and their documents; ``suspects``: of those nobody gets the ones where at
        least half of the lines give the same answer, most agreement first: document, answer, lines.
    """
    share = marks.share
    # Hardest first; of equals, those that the same lines get stand together.
    pattern = np.packbits(marks.right, axis=0)
    order = np.lexsort((*pattern, share))
    parts = np.array_split(order, min(STRIPES, len(order))) if len(order) else []
    plain = marks.right[marks.lines.index(base)] if base in marks.lines else None
    nobody, everybody = (np.flatnonzero(share == value).tolist() for value in (0.0, 1.0))
    return {
        "benchmark": marks.benchmark,
        "label": marks.label,
        "units": len(marks.documents),
        "stripes": [[marks.documents[u] for u in part[:1]] + [len(part)] for part in parts],
        "rows": [
            {
                "line": line,
                "right": round(100 * float(right.mean()), 2),
                "stripes": [round(100 * float(right[part].mean())) for part in parts],
                "lost": None if plain is None else int((plain & ~right).sum()),
                "gained": None if plain is None else int((~plain & right).sum()),
                "only": int((right & (marks.right.sum(axis=0) == 1)).sum()),
                "alone": int((~right & (marks.right.sum(axis=0) == len(marks.lines) - 1)).sum()),
            }
            for line, right in zip(marks.lines, marks.right)
        ],
        "nobody": [len(nobody), [marks.documents[u] for u in nobody[:LISTED]]],
        "everybody": [len(everybody), [marks.documents[u] for u in everybody[:LISTED]]],
        "suspects": _suspects(marks, nobody, answers),
    }


def _suspects(
    marks: Marks, nobody: Sequence[int], answers: Mapping[int, Mapping[int, str]] | None
) -> list[list[Any]] | None:
    """Units that every line gets wrong where most give one and the same answer."""
    if answers is None:
        return None
    found: list[tuple[int, str, int]] = []
    for unit in nobody:
        document = marks.documents[unit]
        said: dict[str, list[str]] = {}
        for line in marks.lines:
            answer = answers.get(line, {}).get(document)
            if answer:
                said.setdefault(plain_answer(answer), []).append(answer)
        if said:
            most = max(said.values(), key=len)
            if 2 * len(most) >= len(marks.lines) > 1:
                found.append((document, most[0], len(most)))
    ranked = sorted(found, key=lambda one: (-one[2], one[0]))
    return [list(one) for one in ranked[:LISTED]]


def plain_answer(text: str) -> str:
    """An answer as it is compared with another one: without case, full stops and outer blanks."""
    return text.strip().strip(".").strip().lower()

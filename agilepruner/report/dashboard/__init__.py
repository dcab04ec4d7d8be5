"""The dashboard: one HTML page that opens from disk, with every number of the report in it.

What to draw is worked out here, in Python: ``results`` (the table and its comparisons), ``charts``
(curves, Pareto fronts), ``grid`` (documents x strategies), ``documents`` (pictures, what was kept,
answers), ``findings`` (analyses and claims that lie beside the page). The page holds that as one
JSON object and draws it with the scripts beside this file. It loads nothing from anywhere: no
network, no library, no font.

Why no charting library: Vega-Lite's bundle is 898 kB a page and comes with a wheel of 88 MB
(vl-convert-python 1.9.0); the scales, axes and marks that these charts need are 8 kB.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agilepruner.report.dashboard.charts import budget_sections, pareto_sections, plain
from agilepruner.report.dashboard.documents import (
    ROOM,
    WANTED,
    Drawn,
    Reader,
    draw,
    flips_drawn,
    sample,
)
from agilepruner.report.dashboard.findings import Finding
from agilepruner.report.dashboard.grid import Marks, grid_data, marks_of
from agilepruner.report.dashboard.results import table_data
from agilepruner.report.flips import GRID, RIGHT
from agilepruner.report.kinds import Kinds, scores_by_kind
from agilepruner.report.lines import Table, build_tables
from agilepruner.report.statistics import Analysis, analyse
from agilepruner.report.styles import styles
from agilepruner.runner.rows import Row

HOME = "dashboard.html"
FOLDER = "documents"  # of the pages of all documents
ON_A_PAGE = 200  # documents
MOST_SUSPECTS = 1000  # documents that nobody gets whose answers are compared, per benchmark
HERE = Path(__file__).parent
SHARED = {"right": RIGHT, "grid": GRID}  # see ``report.flips``
SCRIPTS = ("core.js", "charts.js", "views.js", "documents.js", "main.js")
# What would end or change the script that the data stands in.
ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def dashboard_html(rows: Iterable[Row], name: str, kinds: Kinds | None = None) -> str:
    """The page as one string.

    Args:
        rows: finished and failed cells.
        name: title of the page.
        kinds: (benchmark, document index) -> simple, complex, ...; None leaves that part out.
    """
    tables = build_tables(rows)
    compared = [analyse(table) for table in tables]
    return page(tables, compared, name, kinds or {})


def page(
    tables: Sequence[Table],
    compared: Sequence[Analysis],
    name: str,
    kinds: Kinds,
    findings: Sequence[Finding] = (),
    reader: Reader | None = None,
    wanted: int = WANTED,
    folder: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page from tables and analyses that are already there.

    Args:
        tables: what ``build_tables`` gave.
        compared: what ``analyse`` said of each.
        name: title of the page.
        kinds: (benchmark, document index) -> kind of image.
        findings: analyses and claims to show.
        reader: of documents; None: the page shows none.
        wanted: documents at most; 0: none.
        folder: the pages of all documents, see ``document_pages``.
    """
    style = styles(line.strategy for table in tables for line in table.lines)
    data = []
    drawn = Drawn()
    room = ROOM
    for number, (table, one) in enumerate(zip(tables, compared)):
        marks = marks_of(table)
        if reader and wanted:
            chosen = sample(marks, _base(table), wanted // len(tables) or 1)
            room -= draw(number, table, marks, chosen, reader, drawn, room)
        data.append(
            {
                **table_data(table, one, style),
                "curves": plain(budget_sections(table, scores_by_kind(table, kinds))),
                "pareto": plain(pareto_sections(table)),
                "flips": flips_drawn(number, marks, _base(table), drawn.items),
                "grids": [grid_data(m, _answers(table, m, reader), _base(table)) for m in marks],
            }
        )
    about = (
        "A sample: of every line some answers that flipped against vanilla, and some of all others."
    )
    return assembled(
        {
            "name": name,
            "tables": data,
            "documents": drawn.plain(about) if drawn.items else None,
            "pages": list(folder),
            "home": "",
            **SHARED,
            "findings": [finding.plain() for finding in findings],
        }
    )


def _base(table: Table) -> int | None:
    return None if table.vanilla is None else table.lines.index(table.vanilla)


def _answers(table: Table, marks: Marks, reader: Reader | None) -> dict[int, dict[int, str]] | None:
    """What every line says of the units that nobody gets."""
    if reader is None:
        return None
    nobody = [d for d, share in zip(marks.documents, marks.share) if share == 0]
    return {
        i: {
            document: said.entry.answer or ""
            for document, said in reader.said(
                table.lines[i].rows[marks.benchmark][0], nobody[:MOST_SUSPECTS]
            ).items()
        }
        for i in marks.lines
    }


def document_pages(
    tables: Sequence[Table], compared: Sequence[Analysis], name: str, reader: Reader
) -> Iterator[tuple[dict[str, Any], str]]:
    """Pages of all documents, one after the other: what it is, and the page.

    Yields:
        ``table`` (its number), ``benchmark``, ``file``, ``first`` and ``last`` document; the HTML.
    """
    style = styles(line.strategy for table in tables for line in table.lines)
    for number, (table, one) in enumerate(zip(tables, compared)):
        for b, marks in enumerate(every := marks_of(table)):
            for start in range(0, len(marks.documents), ON_A_PAGE):
                units = range(start, min(start + ON_A_PAGE, len(marks.documents)))
                drawn = Drawn()
                draw(number, table, every, [(b, u) for u in units], reader, drawn, None)
                first, last = (marks.documents[u] for u in (units[0], units[-1]))
                about = f"{marks.label}, documents {first} to {last}."
                file = f"{marks.benchmark}-{number}-{first}.html"
                said = {"table": number, "benchmark": marks.benchmark, "file": file}
                only = {
                    **table_data(table, one, style, references=False),
                    **{"curves": [], "pareto": [], "grids": [grid_data(marks)]},
                }
                data = {
                    "name": name,
                    # A page has one table; its number in an address is that on the main page.
                    "tables": [{"name": t.name} if t is not table else only for t in tables],
                    "documents": drawn.plain(about),
                    "pages": [],
                    "home": f"../{HOME}",
                    **SHARED,
                    "findings": [],
                }
                yield {**said, "first": first, "last": last}, assembled(data)


def assembled(data: Mapping[str, Any]) -> str:
    """The page around its data."""
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate is no UTF-8
    parts = {
        "/*STYLE*/": _asset("page.css"),
        "/*SCRIPT*/": "\n".join(_asset(name) for name in SCRIPTS),
        "/*DATA*/null": text.translate(ESCAPES),
    }
    whole = _asset("page.html")
    for place, content in parts.items():
        before, _, after = whole.partition(place)
        whole = before + content + after
    return whole


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").rstrip("\n")

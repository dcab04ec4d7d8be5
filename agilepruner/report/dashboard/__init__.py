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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agilepruner.report.dashboard.charts import budget_sections, pareto_sections, plain
from agilepruner.report.dashboard.findings import Finding
from agilepruner.report.dashboard.grid import grid_data, marks_of
from agilepruner.report.dashboard.results import table_data
from agilepruner.report.kinds import Kinds, scores_by_kind
from agilepruner.report.lines import Table, build_tables
from agilepruner.report.statistics import Analysis, analyse
from agilepruner.report.styles import styles
from agilepruner.runner.rows import Row

HERE = Path(__file__).parent
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
) -> str:
    """The page from tables and analyses that are already there.

    Args:
        tables: what ``build_tables`` gave.
        compared: what ``analyse`` said of each.
        name: title of the page.
        kinds: (benchmark, document index) -> kind of image.
        findings: analyses and claims to show.
    """
    style = styles(line.strategy for table in tables for line in table.lines)
    drawn = [_table(table, one, kinds, style) for table, one in zip(tables, compared)]
    return assembled(
        {
            "name": name,
            "tables": drawn,
            "documents": None,
            "findings": [finding.plain() for finding in findings],
        }
    )


def _table(
    table: Table, analysis: Analysis, kinds: Kinds, style: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    return {
        **table_data(table, analysis, style),
        "curves": plain(budget_sections(table, scores_by_kind(table, kinds))),
        "pareto": plain(pareto_sections(table)),
        "grids": [grid_data(marks) for marks in marks_of(table)],
    }


def assembled(data: Mapping[str, Any]) -> str:
    """The page around its data."""
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
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

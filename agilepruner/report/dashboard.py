"""The dashboard: one HTML page that opens from disk, with every number of the report in it.

The page (``dashboard.html``) draws from one JSON object; this module builds that object. It loads
nothing from anywhere: no network, no library, no font.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agilepruner.report import published
from agilepruner.report.kinds import Kinds, scores_by_kind
from agilepruner.report.lines import AVERAGE, VANILLA, Column, Line, Table, build_tables
from agilepruner.report.sheets import main_sheet
from agilepruner.report.statistics import Difference, differences
from agilepruner.runner.rows import Row

PAGE = Path(__file__).with_name("dashboard.html")

# Okabe and Ito's colours that hold on white and on black; told apart by the colour-blind.
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00")
MARKERS = ("circle", "square", "diamond", "triangle", "cross")
NEUTRAL = "#8A8A8A"
# A strategy has one colour and marker in every table and chart, whatever else is shown.
KNOWN = (
    *("agilepruner", "divprune", "fastervlm", "uniform", "vispruner", "visionzip"),
    *("cdpruner", "fps", "prumergeplus", "fastv", "pyramiddrop", "sparsevlm"),
    *("agilepruner_constant", "bat", "prumerge", "pooling", "fastervlm_divprune"),
    *("agilepruner_entropy", "bat_erank", "vispruner_erank", "fastervlm_divprune_erank"),
    *(
        "prumerge_adaptive",
        "prumergeplus_adaptive",
        "bat_inverse",
        "vispruner_inverse",
        "fastervlm_divprune_inverse",
    ),
)
PLAIN = {VANILLA: "circle", "random": "square", "blind": "cross"}


def style(strategy: str) -> tuple[str, str]:
    """Colour and marker of a strategy: grey for vanilla, random and blind, fixed for the rest."""
    if strategy in PLAIN:
        return NEUTRAL, PLAIN[strategy]
    place = KNOWN.index(strategy) if strategy in KNOWN else zlib.crc32(strategy.encode())
    return COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]


def dashboard_html(rows: Iterable[Row], name: str, kinds: Kinds | None = None) -> str:
    """The page as one string.

    Args:
        rows: finished and failed cells.
        name: title of the page.
        kinds: (benchmark, document index) -> simple, complex, ...; None leaves that part out.
    """
    tables = build_tables(rows)
    compared = [difference for table in tables for difference in differences(table)]
    return page(tables, compared, name, kinds or {})


def page(tables: Sequence[Table], compared: Sequence[Difference], name: str, kinds: Kinds) -> str:
    """The page from tables and differences that are already there."""
    data = {"name": name, "tables": [_table(table, compared, kinds) for table in tables]}
    text = json.dumps(data, ensure_ascii=False, sort_keys=True).replace("</", "<\\/")
    return PAGE.read_text(encoding="utf-8").replace("/*DATA*/null", text)


def _table(table: Table, compared: Sequence[Difference], kinds: Kinds) -> dict[str, Any]:
    columns = [*table.columns, AVERAGE] if table.averaged else table.columns
    position = {id(line): i for i, line in enumerate(table.lines)}
    sheet = main_sheet(table, inline_spread=True)
    bold = {(sheet_group, i, column - 1) for sheet_group, i, column in sheet.bold}
    lines = []
    for g, group in enumerate(table.groups):
        for i, line in enumerate(group.lines):
            best = [(g, i, c) in bold for c in range(len(columns))]
            title = sheet.sections[g][1][i][0]
            lines.append({"title": title, **_line(table, line, columns, best)})
    return {
        "name": table.name,
        "full": table.full,
        "unanchored": bool(published.unanchored(table)),
        "notes": sheet.notes,
        "columns": [_column(table, column) for column in columns],
        "groups": [
            {"heading": group.heading, "lines": [position[id(line)] for line in group.lines]}
            for group in table.groups
        ],
        "lines": lines,
        "kinds": [
            {"kind": scores.kind, "units": scores.units, "values": scores.values}
            for scores in scores_by_kind(table, kinds)
        ],
        "differences": [
            {
                "line": position[id(d.line)],
                "best": position[id(d.best)],
                "benchmark": d.benchmark,
                "difference": d.difference,
                "low": d.low,
                "high": d.high,
                "verdict": d.verdict,
            }
            for d in compared
            if d.table is table
        ],
    }


def _column(table: Table, column: Column) -> dict[str, Any]:
    return {
        "benchmark": column.benchmark,
        "title": column.title,
        "heading": column.heading,
        "digits": column.digits,
        "chair": column.benchmark == "chair",
        "average": column is AVERAGE,
        "base": 100.0 if column is AVERAGE else table.base(column),
    }


def _line(
    table: Table, line: Line, columns: Sequence[Column], best: Sequence[bool]
) -> dict[str, Any]:
    colour, marker = style(line.strategy)
    cells = []
    for column, marked in zip(columns, best):
        cell = table.average(line) if column is AVERAGE else line.cell(column)
        rows = line.rows.get(column.benchmark, [])
        cells.append(
            {
                "text": cell.text(column.digits),
                "value": cell.value,
                "spread": cell.spread,
                "relative": cell.value if column is AVERAGE else table.relative(line, column),
                "n": max((row.n for row in rows), default=0),
                "error": next((row.error for row in rows if row.error), ""),
                "best": marked,
            }
        )
    return {
        "strategy": line.strategy,
        "label": line.label,
        "family": line.family,
        "colour": colour,
        "marker": marker,
        "budget": line.budget,
        "kept": line.kept,
        "seeds": line.seeds,
        "vanilla": line is table.vanilla,
        "choice": line.choice,
        "flops": line.audit("flops", "total"),
        "prefill": line.audit("flops", "prefill"),
        "cells": cells,
    }

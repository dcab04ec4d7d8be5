"""The dashboard: one HTML page that opens from disk, with every number of the report in it.

The page (``dashboard.html``) draws from one JSON object; this module builds that object. It loads
nothing from anywhere: no network, no library, no font.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agilepruner.places import CONFIGS
from agilepruner.report import published
from agilepruner.report.kinds import Kinds, scores_by_kind
from agilepruner.report.lines import AVERAGE, VANILLA, Column, Line, Table, build_tables
from agilepruner.report.sheets import difference_sheet, main_sheet
from agilepruner.report.statistics import Analysis, analyse
from agilepruner.runner.rows import Row

PAGE = Path(__file__).with_name("dashboard.html")

# Okabe and Ito's colours that hold on white and on black; told apart by the colour-blind.
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00")
MARKERS = ("circle", "square", "diamond", "triangle", "cross", "wedge", "plus", "flag", "pillar")
NEUTRAL = "#8A8A8A"
PLAIN = {VANILLA: "circle", "random": "square", "blind": "cross"}
# What would end or change the script that the data stands in.
ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def styles(shown: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each strategy: grey for vanilla, random and blind.

    A strategy with a config has a place of its own, so its style does not depend on what else is
    shown: those of the main table first, so that their colours differ, then those of the others,
    then by name. Strategies without one get a place from their name, moved on where it is taken.
    """
    known = [name for name in _in_order() if name not in PLAIN]
    places = {name: i for i, name in enumerate(known)}
    count = len(COLOURS) * len(MARKERS)
    for name in sorted(set(shown) - set(known) - set(PLAIN)):
        start = zlib.crc32(name.encode())
        free = (start + i for i in range(count) if (start + i) % count not in places.values())
        places[name] = next(free, start) % count
    found = {}
    for name, place in places.items():
        turn = place + place // len(COLOURS)  # neighbours differ in both, and no pair comes twice
        found[name] = COLOURS[place % len(COLOURS)], MARKERS[turn % len(MARKERS)]
    return found | {name: (NEUTRAL, marker) for name, marker in PLAIN.items()}


@cache
def _in_order() -> tuple[str, ...]:
    """Every strategy with a config: as the tables list them, the main one first, then by name."""
    tables = sorted((CONFIGS / "table").glob("*.yaml"), key=lambda p: (p.stem != "main", p.stem))
    listed: list[str] = []
    for path in tables:
        recipe: Any = OmegaConf.load(path)
        for entry in recipe.get("defaults", []):
            listed += entry.get("override /strategy", []) if hasattr(entry, "get") else []
    every = sorted(path.stem for path in (CONFIGS / "strategy").glob("*.yaml"))
    return tuple(dict.fromkeys([*(name for name in listed if name in every), *every]))


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


def page(tables: Sequence[Table], compared: Sequence[Analysis], name: str, kinds: Kinds) -> str:
    """The page from tables and analyses that are already there."""
    style = styles(line.strategy for table in tables for line in table.lines)
    drawn = [_table(table, one, kinds, style) for table, one in zip(tables, compared)]
    data = {"name": name, "tables": drawn}
    text = json.dumps(data, ensure_ascii=False, sort_keys=True).translate(ESCAPES)
    return PAGE.read_text(encoding="utf-8").replace("/*DATA*/null", text)


def _table(
    table: Table,
    analysis: Analysis,
    kinds: Kinds,
    style: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    columns = [*table.columns, AVERAGE] if table.averaged else table.columns
    position = {id(line): i for i, line in enumerate(table.lines)}
    sheet = main_sheet(table, True, analysis)
    bold = {(sheet_group, i, column - 1) for sheet_group, i, column in sheet.bold}
    differences = difference_sheet(table, analysis)
    lines = []
    for g, group in enumerate(table.groups):
        for i, line in enumerate(group.lines):
            best = [(g, i, c) in bold for c in range(len(columns))]
            title = sheet.sections[g][1][i][0]
            colour, marker = style[line.strategy]
            drawn = _line(table, line, columns, best)
            lines.append({"title": title, "colour": colour, "marker": marker, **drawn})
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
                "reference": position[id(d.reference)],
                "column": columns.index(d.column),
                "difference": d.difference,
                "low": d.low,
                "high": d.high,
                "verdict": d.verdict,
                "margin": d.margin,
                "smallest": d.smallest,
            }
            for d in analysis.differences
        ],
        "differenceNotes": differences.notes if differences else [],
    }


def _column(table: Table, column: Column) -> dict[str, Any]:
    shown = table.shown.get(column.benchmark)
    return {
        "benchmark": column.benchmark,
        "title": column.title,
        "heading": column.heading,
        "digits": column.digits,
        "charts": shown.charts if shown else {},
        "average": column is AVERAGE,
        "base": 100.0 if column is AVERAGE else table.base(column),
    }


def _line(
    table: Table, line: Line, columns: Sequence[Column], best: Sequence[bool]
) -> dict[str, Any]:
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
        "budget": line.budget,
        "kept": line.kept,
        "seeds": line.seeds,
        "vanilla": line is table.vanilla,
        "choice": line.choice,
        "flops": line.audit("flops", "total"),
        "prefill": line.audit("flops", "prefill"),
        "cells": cells,
    }

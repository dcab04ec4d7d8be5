"""The page's table: columns, lines and cells, and how each compares with every reference."""

from collections.abc import Mapping, Sequence
from typing import Any

from agilepruner.report import published
from agilepruner.report.dashboard.charts import is_pruned
from agilepruner.report.estimates import VERDICTS
from agilepruner.report.lines import AVERAGE, Column, Line, Table
from agilepruner.report.sheets import difference_sheet, main_sheet
from agilepruner.report.statistics import BEST, Analysis, analyse

DECIMALS = 4  # of a difference, on the page


def table_data(
    table: Table,
    analysis: Analysis,
    style: Mapping[str, tuple[str, str]],
    references: bool = True,
) -> dict[str, Any]:
    """The table as plain data: what the page prints, and what its tooltips say.

    Args:
        table: which.
        analysis: of it.
        style: colour and marker of each strategy.
        references: with the differences to every line that can be one.
    """
    columns = columns_of(table)
    position = {id(line): i for i, line in enumerate(table.lines)}
    sheet = main_sheet(table, True, analysis)
    bold = {(group, i, column - 1) for group, i, column in sheet.bold}
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
        "reference": analysis.reference,
        "references": _references(table, analysis, columns) if references else {},
        "verdicts": list(VERDICTS),
    }


def columns_of(table: Table) -> list[Column]:
    """The table's columns, and the Average behind them where there is one."""
    return [*table.columns, AVERAGE] if table.averaged else table.columns


def _column(table: Table, column: Column) -> dict[str, Any]:
    return {
        "benchmark": column.benchmark,
        "title": column.title,
        "heading": column.heading,
        "digits": column.digits,
        "average": column is AVERAGE,
    }


def _line(
    table: Table, line: Line, columns: Sequence[Column], best: Sequence[bool]
) -> dict[str, Any]:
    cells = []
    for column, marked in zip(columns, best):
        cell = table.average(line) if column is AVERAGE else line.cell(column)
        cells.append(
            {
                "text": cell.text(column.digits),
                "value": cell.value,
                "spread": cell.spread,
                "best": marked,
                "words": "\n".join(_words(table, line, column)),
            }
        )
    return {
        "key": _key(table, line),
        "strategy": line.strategy,
        "label": line.label,
        "family": line.family,
        "budget": line.budget,
        "vanilla": line is table.vanilla,
        "pruned": is_pruned(table, line),
        "choice": line.choice,
        "cells": cells,
    }


def _key(table: Table, line: Line) -> str:
    """What an address calls a line: strategy@budget, and which of several such."""
    name = f"{line.strategy}@{line.budget}"
    same = [one for one in table.lines if f"{one.strategy}@{one.budget}" == name]
    number = next(i for i, one in enumerate(same) if one is line)
    return f"{name}.{number}" if number else name


def _words(table: Table, line: Line, column: Column) -> list[str]:
    """What a reader is told who points at a number."""
    cell = table.cell(line, column)
    rows = line.rows.get(column.benchmark, [])
    spread = "" if cell.spread is None else f" ±{cell.spread:.{column.digits}f}"
    words = [
        f"{line.label}, {line.budget} tokens",
        f"{column.title}: {cell.text(column.digits)}{spread}",
    ]
    relative = None if column is AVERAGE else table.relative(line, column)
    if relative is not None:
        words.append(f"{relative:.1f} % of vanilla")
    if line.kept is not None and abs(line.kept - line.budget) > 0.5:
        words.append(f"keeps {line.kept:.1f} tokens on average")
    if count := max((row.n for row in rows), default=0):
        words.append(f"n = {count}")
    if line.seeds > 1:
        words.append(f"mean of {line.seeds} seeds")
    return words + [row.error for row in rows if row.error][:1]


def _references(
    table: Table, analysis: Analysis, columns: Sequence[Column]
) -> dict[str, dict[str, Any]]:
    """Config name of each possible reference -> the table's differences to it."""
    names = dict.fromkeys([analysis.reference, *(line.strategy for line in table.lines), BEST])
    labels = {line.strategy: line.label for line in reversed(table.lines)}
    found = {}
    for name in names:
        own = (
            analysis
            if name == analysis.reference
            else analyse(table, name, analysis.margins, analysis.samples)
        )
        differences = _differences(table, own, columns)
        if differences:
            sheet = difference_sheet(table, own)
            found[name] = {
                "label": labels.get(name, "the best of each budget"),
                "differences": differences,
                "notes": sheet.notes if sheet else [],
            }
    return found


def _differences(table: Table, analysis: Analysis, columns: Sequence[Column]) -> list[list[Any]]:
    """Line, reference, column, difference, low, high, verdict, what this n could have shown."""
    position = {id(line): i for i, line in enumerate(table.lines)}
    place = {column: c for c, column in enumerate(columns)}
    return [
        [
            position[id(d.line)],
            position[id(d.reference)],
            place[d.column],
            *(round(value, DECIMALS) for value in (d.difference, d.low, d.high)),
            VERDICTS.index(d.verdict),
            round(d.smallest, DECIMALS),
        ]
        for d in analysis.differences
    ]

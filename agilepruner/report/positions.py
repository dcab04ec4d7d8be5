"""Positions of kept tokens: each strategy with the positions kept against the same with them reset.

Which line belongs to which is read from the rows: the same strategy, hyper-parameters and budget.
"""

from collections.abc import Iterator

from agilepruner.report import published
from agilepruner.report.lines import AVERAGE, Column, Group, Line, Table, signed
from agilepruner.report.sheets import POSITIONS, Sheet
from agilepruner.report.statistics import Analysis, Difference, against_each


def pairs(table: Table) -> Iterator[tuple[Group, Line, Line]]:
    """Group, the line that keeps positions and the one that resets them, in the table's order."""
    for group in table.groups:
        own = [line for line in group.lines if not line.positions]
        asked = [line for line in group.lines if line.positions]
        for line in own:
            for other in asked:
                if (line.strategy, line.parameters) == (other.strategy, other.parameters):
                    kept = other.positions == "keep"
                    yield (group, other, line) if kept else (group, line, other)


def differences(table: Table, analysis: Analysis) -> list[Difference]:
    """Kept minus reset, per column and on average; a family of their own."""
    return against_each(analysis.samples, pairs(table), analysis.margins)


def positions_sheet(table: Table, analysis: Analysis) -> Sheet | None:
    """Both rules side by side, judged: the Average, or each column of a table without one."""
    columns = [AVERAGE] if table.averaged else [c for c in table.columns if c.better]
    judged = {(id(d.line), d.column): d for d in differences(table, analysis)}
    sections: dict[str, list[list[str]]] = {}
    for column in columns:
        for group, kept, reset in pairs(table):
            heading = group.heading + (f", {column.title}" if len(columns) > 1 else "")
            found = judged.get((id(kept), column))
            texts = _texts(table, kept, reset, column, found)
            sections.setdefault(heading, []).append(texts)
    if not sections:
        return None
    margin = analysis.margins.average if table.averaged else analysis.margins.benchmark
    unit = "points" if table.averaged else "% of the scale"
    notes = [
        f"keep: {POSITIONS['keep']}; reset: {POSITIONS['reset']}. The same documents with the same "
        "tokens, paired by document; 95 % intervals by leaving out images, not corrected.",
        f"better, worse: of keeping, not chance at 5 %, corrected for {len(judged)} comparisons by "
        f"Holm's method. equivalent: else, and within ±{margin:g} {unit}, corrected too. cannot "
        "tell: neither. could show: the smallest true difference that this n shows 4 times in 5.",
    ]
    if table.averaged:
        notes.append("Per column: differences.csv.")
    for measured in published.positions():
        if measured.benchmark in table.shown and not table.synthetic:
            sections[f"Published: {measured.documents}, {measured.source}"] = [_published(measured)]
            notes.append(f"{measured.model}, unpruned: {measured.unpruned:g}. {measured.note}")
    head = [
        "Strategy",
        "reset",
        "keep",
        "keep minus reset",
        "95 % interval",
        "verdict",
        "could show",
    ]
    return Sheet(f"{table.name}: positions of kept tokens", head, list(sections.items()), notes)


def _texts(
    table: Table, kept: Line, reset: Line, column: Column, found: Difference | None
) -> list[str]:
    digits = column.digits
    cells = [table.cell(line, column) for line in (reset, kept)]
    values = [cell.text(digits) for cell in cells]
    label = kept.label if not kept.positions else reset.label  # that of the model's own rule
    if found is None:
        return [label, *values, "–", "–", "–", "–"]
    low, high = (signed(number, digits) for number in (found.low, found.high))
    difference = signed(found.difference, digits)
    return [
        *(label, *values, difference, f"[{low}, {high}]"),
        *(found.verdict, f"{found.smallest:.{digits}f}"),
    ]


def _published(measured: published.Positions) -> list[str]:
    difference = signed(measured.keep - measured.reset, 2)
    return [
        *(measured.model, f"{measured.reset:g}", f"{measured.keep:g}", difference),
        *("–", "–", "–"),
    ]

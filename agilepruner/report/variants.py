"""A strategy guided per image against the fixed one inside it: what does the guidance add?

The paper's enhancement tables print such deltas (BAT + Ours against BAT). Which line belongs to
which is read from the hyper-parameters: a variant has its fixed strategy as one of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from agilepruner.report import published
from agilepruner.report.lines import AVERAGE, Column, Group, Line, Table, signed
from agilepruner.report.sheets import Sheet
from agilepruner.report.statistics import Analysis, Difference, against_each


def pairs(table: Table) -> Iterator[tuple[Group, Line, Line]]:
    """Group, variant and its fixed line, in the order of the table."""
    for group in table.groups:
        for line in group.lines:
            fixed = _inside(line)
            same = [other for other in group.lines if other.positions == line.positions]
            found = [other for other in same if fixed and _is(other, fixed)]
            if found:
                yield group, line, found[0]


def _inside(line: Line) -> Mapping[str, Any] | None:
    """The strategy that is a hyper-parameter of a line's."""
    values = (v for v in line.parameters.values() if isinstance(v, Mapping) and "class" in v)
    return next(values, None)


def _is(line: Line, strategy: Mapping[str, Any]) -> bool:
    """Whether a line's strategy is that one, with its own hyper-parameters."""
    row = next(iter(line.rows.values()))[0]
    own = {"class": row.identity.get("strategy", {}).get("class"), **line.parameters}
    return own == dict(strategy)


def differences(table: Table, analysis: Analysis) -> list[Difference]:
    """Every variant minus its fixed line, per column and on average; a family of their own."""
    return against_each(analysis.samples, pairs(table), analysis.margins)


def variants_sheet(table: Table, analysis: Analysis) -> Sheet | None:
    """Fixed and guided side by side: numbers, differences, and the published ones."""
    columns = [*table.columns, AVERAGE] if table.averaged else table.columns
    printed = {(id(c.line), c.column): c for c in published.compare(table)}
    judged = {(id(d.line), d.column): d for d in differences(table, analysis)}
    sections: dict[str, list[list[str]]] = {}
    shown: set[int] = set()
    for group, line, fixed in pairs(table):
        lines = sections.setdefault(group.heading, [])
        if id(fixed) not in shown:
            shown.add(id(fixed))
            lines.append([fixed.label, "measured", *_values(table, fixed, columns)])
        lines.append([line.label, "measured", *_values(table, line, columns)])
        lines.append(["", "minus fixed", *_deltas(table, line, fixed, columns)])
        own = [judged.get((id(line), column)) for column in columns]
        if any(own):
            lines.append(["", "95 % interval", *[_interval(d) for d in own]])
            lines.append(["", "verdict", *[d.verdict if d else "–" for d in own]])
        theirs = [
            _published(printed.get((id(line), c)), printed.get((id(fixed), c)), c) for c in columns
        ]
        if any(text != "–" for text in theirs):
            lines.append(["", "published", *theirs])
    if not sections:
        return None
    notes = [
        "minus fixed: the number of a strategy whose share of attention follows each image's "
        "effective rank (erank), or runs against it (inverse), minus that of the fixed share.",
        "Intervals and verdicts as in the table of differences, corrected over these comparisons.",
    ]
    if printed:
        notes.append("published: the difference of the two published numbers.")
    head = ["Strategy", "", *[column.heading for column in columns]]
    return Sheet(f"{table.name}: guided and fixed", head, list(sections.items()), notes)


def _values(table: Table, line: Line, columns: list[Column]) -> list[str]:
    return [table.cell(line, column).text(column.digits) for column in columns]


def _deltas(table: Table, line: Line, fixed: Line, columns: list[Column]) -> list[str]:
    """Differences of the printed numbers, also where there is no interval."""
    texts = []
    for column in columns:
        own, theirs = (table.cell(one, column).value for one in (line, fixed))
        known = own is not None and theirs is not None
        texts.append(signed(own - theirs, column.digits) if known else "–")  # type: ignore[operator]
    return texts


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    digits = difference.column.digits
    return f"[{signed(difference.low, digits)}, {signed(difference.high, digits)}]"


def _published(
    own: published.Comparison | None, theirs: published.Comparison | None, column: Column
) -> str:
    """The difference of two published numbers; ``?`` where one of them is suspect."""
    if own is None or theirs is None:
        return "–"
    doubt = "?" if own.suspect or theirs.suspect else ""
    return signed(own.published - theirs.published, column.digits) + doubt

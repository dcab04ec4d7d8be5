"""Tables as the paper prints them, as plain text and as Markdown.

Vanilla first, then one group per budget; the best number of a group and column is marked only where
it is better than the next one beyond chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from textwrap import wrap

from agilepruner.report import published
from agilepruner.report.estimates import VERDICTS
from agilepruner.report.flips import CHANGES, FEWEST, GRID, Flips
from agilepruner.report.lines import AVERAGE, Column, Line, Table, relative_average, signed
from agilepruner.report.statistics import Analysis, Difference, analyse
from agilepruner.runner.rows import BEST

BEYOND = (
    "better than the next of its group beyond chance (5 %, Holm over the table), not just larger"
)
POSITIONS = {
    "keep": "kept tokens, and the text behind them, have the positions of the unpruned prompt",
    "reset": "kept tokens, and the text behind them, have the positions of a prompt never longer",
}
NOTE_WIDTH = 126  # characters per line of a note in the terminal


@dataclass(frozen=True)
class Sheet:
    """A table of strings, ready to be rendered.

    Attributes:
        title: one line above. head: column titles, the first one for the labels.
        sections: (heading, lines of texts); an empty heading is not printed.
        bold: (section, line, column) of the marked texts.
        notes: lines below.
    """

    title: str
    head: list[str]
    sections: list[tuple[str, list[list[str]]]]
    notes: list[str]
    bold: set[tuple[int, int, int]] = field(default_factory=set)


def render_text(sheet: Sheet) -> str:
    """Plain text in aligned columns; marked numbers carry a star."""
    body = [line for _, lines in sheet.sections for line in lines]
    widths = [max(len(line[i]) for line in [sheet.head, *body]) for i in range(len(sheet.head))]
    widths[0] += 2  # labels are indented under their group

    def aligned(line: Sequence[str], marks: Sequence[str]) -> str:
        cells = [text.rjust(width) + mark for text, width, mark in zip(line, widths, marks)]
        return " ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip()

    plain = [" "] * len(sheet.head)
    out = [sheet.title, "", aligned(sheet.head, plain)]
    rule = "─" * max(len(aligned(line, plain)) for line in [sheet.head, *body])
    for s, (heading, lines) in enumerate(sheet.sections):
        out.append(rule)
        out += [heading] if heading else []
        for i, line in enumerate(lines):
            marks = ["*" if (s, i, c) in sheet.bold else " " for c in range(len(line))]
            out.append(aligned(["  " + line[0], *line[1:]], marks))
    notes = [
        part for note in sheet.notes for part in wrap(note, NOTE_WIDTH, subsequent_indent="  ")
    ]
    return "\n".join([*out, rule, *notes]) + "\n"


def render_markdown(sheet: Sheet) -> str:
    """A Markdown table; marked numbers are bold, group headings are rows of their own."""
    aligns = ["---", *["---:"] * (len(sheet.head) - 1)]
    out = [f"## {sheet.title}", "", _markdown_row(sheet.head), _markdown_row(aligns)]
    for s, (heading, lines) in enumerate(sheet.sections):
        if heading:
            out.append(_markdown_row([f"*{heading}*", *[""] * (len(sheet.head) - 1)]))
        for i, line in enumerate(lines):
            bold = [f"**{t}**" if (s, i, c) in sheet.bold else t for c, t in enumerate(line)]
            out.append(_markdown_row(bold))
    notes = [f"- {note}" for note in sheet.notes]
    return "\n".join([*out, "", *notes]) + "\n"


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def main_sheet(table: Table, inline_spread: bool, analysis: Analysis | None = None) -> Sheet:
    """The main table: every benchmark's columns and the Average.

    Args:
        table: rows of one model, suite and protocol.
        inline_spread: print ``58.3 ±0.4`` in one cell (Markdown) instead of a second line.
        analysis: of this table, if it is there already.
    """
    leaders = (analysis or analyse(table)).leaders
    columns = [*table.columns, AVERAGE] if table.averaged else table.columns
    markers = _choice_markers(table)
    sections, bold = [], set()
    for s, group in enumerate(table.groups):
        lines: list[list[str]] = []
        for line in group.lines:
            marked = [c for c, column in enumerate(columns) if leaders.get((s, column)) is line]
            bold |= {(s, len(lines), c + 1) for c in marked}
            lines += _line_texts(table, line, columns, markers, inline_spread)
        sections.append((group.heading, lines))
    head = ["Strategy", *[column.heading for column in columns]]
    unanchored = published.unanchored(table)
    title = table.name + (" · unanchored" if unanchored else "")
    return Sheet(title, head, sections, _notes(table, unanchored, markers, bool(bold)), bold)


def _line_texts(
    table: Table,
    line: Line,
    columns: Sequence[Column],
    markers: dict[str, int],
    inline_spread: bool,
) -> list[list[str]]:
    cells = [table.cell(line, column) for column in columns]
    label = line.label + (f" [{markers[line.choice]}]" if line.choice else "")
    if line.kept is not None and abs(line.kept - line.budget) > 0.5:
        label += f", keeps {line.kept:.0f}"
    if inline_spread and line.seeds > 1:
        label += f", {line.seeds} seeds"
    texts = [[label, *[c.text(k.digits, inline_spread) for c, k in zip(cells, columns)]]]
    if not inline_spread and line.seeds > 1:
        spreads = [
            "" if c.spread is None else f"{c.spread:.{k.digits}f}" for c, k in zip(cells, columns)
        ]
        texts.append([f"  ± over {line.seeds} seeds", *spreads])
    return texts


def _choice_markers(table: Table) -> dict[str, int]:
    """Number of the footnote of each choice of ours, in order of appearance."""
    choices = dict.fromkeys(line.choice for line in table.lines if line.choice)
    return {choice: i for i, choice in enumerate(choices, start=1)}


def _notes(table: Table, unanchored: list[str], markers: dict[str, int], marked: bool) -> list[str]:
    """What a reader must know to use the numbers."""
    notes = [f"n: {_sizes(table)}. Protocol {table.protocol}."]
    notes += [said for said in (published.follows(table), _average_note(table)) if said]
    notes += [row.about for row in table.shown.values() if row.about]
    notes.append(f"Marked: {BEYOND}." if marked else f"None is marked: no number is {BEYOND}.")
    if any(line.kept and abs(line.kept - line.budget) > 0.5 for line in table.lines):
        notes.append(
            "keeps N: mean visual tokens per layer of the language model, where it is "
            "not the budget."
        )
    notes += [
        f"positions={asked}: {POSITIONS[asked]}; the model's own rule is the other one."
        for asked in sorted({line.positions for line in table.lines} - {""})
    ]
    if any(line.seeds > 1 for line in table.lines):
        notes.append("±: standard deviation over seeds, around their mean.")
    notes += [_noise(table, line) for line in table.again]
    if table.synthetic:
        notes.append(
            f"Suite {table.suite}: synthetic scenes in the benchmarks' formats, not the "
            "benchmarks. Compare lines with each other, never with published numbers."
        )
    if unanchored:
        notes.append(f"Unanchored: vanilla misses its published number: {'; '.join(unanchored)}.")
    notes += [f"[{number}] our choice: {choice}" for choice, number in markers.items()]
    notes += [f"failed: {sentence}" for sentence in failures(table)]
    notes += [f"Left out: {sentence}." for sentence in table.duplicates]
    notes += _mixed(table)
    notes += _row_notes(table)
    return notes


def _noise(table: Table, line: Line) -> str:
    """What changes when nothing is pruned and only the batches are others."""
    flips = Flips(table)
    units = [one for name in line.rows for one in flips.units(line, name)]
    same = [one.same_answer for one in units]
    total = sum(len(one.right) for one in units)
    lost, won = (
        sum(int(getattr(one, name).sum()) for one in units)
        for name in ("right_to_wrong", "wrong_to_right")
    )
    changed = total - sum(int(one.sum()) for one in same if one is not None)
    said = (
        f"{changed:,} of {total:,} units get another answer, "
        if all(one is not None for one in same)
        else ""
    )
    values = {c: line.cell(c).value for c in table.averaged}
    average = relative_average(values, {c: table.base(c) for c in table.averaged})
    moved = f"; its Average is {average:.2f}" if average is not None else ""
    return (
        f"Noise floor, {line.label}: {said}{lost:,} turn right to wrong, {won:,} wrong to right"
        f"{moved}."
    )


def _sizes(table: Table) -> str:
    """Documents per benchmark; a range when lines differ."""
    every = {row.n for row in table.rows if row.status == "done"}
    if len(every) == 1:
        return f"{every.pop()} documents of each benchmark"
    sizes = []
    for name, shown in table.shown.items():
        counts = sorted({r.n for r in table.rows if r.benchmark == name and r.status == "done"})
        size = "–".join(str(n) for n in counts[:: len(counts) - 1 or 1]) or "–"
        sizes.append(f"{shown.benchmark_label} {size}")
    return ", ".join(sizes)


def _average_note(table: Table) -> str:
    if table.vanilla is None:
        return "No Average: there is no vanilla row to be relative to."
    count = len(table.averaged)
    if not count:
        return ""
    over = f"mean over {count} benchmarks of " if count > 1 else ""
    return f"Average: 100 × {over}value / vanilla value (– where a line lacks one)."


def failures(table: Table) -> list[str]:
    """One sentence per failed cell: which, and the first line of why."""
    return [
        f"{line.label}, {line.budget} tokens, {row.benchmark_label}: "
        f"{(row.error.strip() or row.status).splitlines()[0]}"
        for line in table.lines
        for rows in line.rows.values()
        for row in rows
        if row.status != "done"
    ]


def _mixed(table: Table) -> list[str]:
    """Say which columns hold numbers of two versions of the scoring code or formulas."""
    digests: dict[str, set[str]] = {}
    for row in table.rows:
        if row.status == "done":
            digests.setdefault(row.benchmark_label, set()).add(row.scoring)
    mixed = [label for label, found in digests.items() if len(found) > 1]
    if not mixed:
        return []
    return [
        f"Mixed: {', '.join(mixed)} were scored by different versions of the code or its formulas; "
        "`agilepruner score NAME` brings all to today's."
    ]


def _row_notes(table: Table) -> list[str]:
    """Notes that rows carry, each once, with the benchmarks that carry it."""
    carriers: dict[str, list[str]] = {}
    for row in table.rows:
        for note in row.notes:
            carriers.setdefault(note, []).append(row.benchmark_label)
    return [f"{', '.join(dict.fromkeys(labels))}: {note}" for note, labels in carriers.items()]


def comparison_sheet(table: Table) -> Sheet | None:
    """Measured, published and difference for every number that the paper printed too."""
    comparisons = published.compare(table)
    if not comparisons:
        return None
    columns = list(dict.fromkeys(c.column for c in comparisons if c.column is not AVERAGE))
    columns += [AVERAGE] if any(c.column is AVERAGE for c in comparisons) else []
    sections = []
    for group in table.groups:
        lines: list[list[str]] = []
        for line in group.lines:
            own = {c.column: c for c in comparisons if c.line is line}
            lines += _comparison_texts(line, own, columns) if own else []
        if lines:
            sections.append((group.heading, lines))
    others = published.other_splits(comparisons)
    over = ", ".join(c.title for c in columns if c.average and c not in others)
    notes = [
        "Published: AgilePruner (arXiv 2603.01236), results/published"
        + (f"; averages recomputed over {over}." if AVERAGE in columns else "."),
        *[f"Another split: {sentence}." for sentence in others.values()],
        *[_suspect_note(c) for c in comparisons if c.suspect],
        *[f"Other documents: {sentence}." for sentence in published.other_documents(table)],
    ]
    head = ["Strategy", "", *[column.heading for column in columns]]
    return Sheet(f"{table.name}: measured and published", head, sections, notes)


def _comparison_texts(
    line: Line, own: dict[Column, published.Comparison], columns: Sequence[Column]
) -> list[list[str]]:
    measured, printed, difference = [], [], []
    for column in columns:
        found = own.get(column)
        measured.append(f"{found.measured:.{column.digits}f}" if found else "–")
        printed.append(_published_text(found, column) if found else "–")
        difference.append(
            "–"
            if found is None or found.difference is None
            else signed(found.difference, column.digits)
        )
    return [
        [line.label, "measured", *measured],
        ["", "published", *printed],
        ["", "difference", *difference],
    ]


def _published_text(found: published.Comparison, column: Column) -> str:
    split = f" {found.split}" if found.split else ""
    return f"{found.published:.{column.digits}f}{'?' if found.suspect else ''}{split}"


def _suspect_note(found: published.Comparison) -> str:
    return (
        f"? {found.line.label}, {found.line.budget} tokens, {found.column.title}: printed "
        f"{found.printed:g}, suspect: {found.note}."
    )


def difference_sheet(table: Table, analysis: Analysis) -> Sheet | None:
    """Differences of the Average to the reference, and how many columns say what.

    A table without an Average (CHAIR's) has each column's difference instead.
    """
    if not table.averaged:
        return _column_differences(table, analysis)
    sections = []
    for group in table.groups:
        own = [d for d in analysis.differences if d.group is group]
        lines = [
            _difference_texts(line, [d for d in own if d.line is line]) for line in group.lines
        ]
        lines = [line for line in lines if line]
        if lines:
            sections.append((f"{group.heading}: minus {own[0].reference.label}", lines))
    if not sections:
        return None
    head = ["Strategy", "Average", "95 % interval", "verdict", "could show"]
    head += [f"{verdict} on" for verdict in VERDICTS]
    margins, averages = analysis.margins, [d for d in analysis.differences if d.column is AVERAGE]
    chosen = (
        " The reference is the highest Average of this table, chosen after seeing it: what it is "
        "ahead by is overstated."
        if analysis.reference == BEST
        else ""
    )
    notes = [
        "Differences of the printed numbers (each benchmark's own aggregate), paired by document; "
        f"95 % intervals by leaving out images, not corrected.{chosen}",
        f"better, worse: not chance at 5 %, corrected for {_many(len(averages), 'Average')} (and "
        f"{_many(len(analysis.differences) - len(averages), 'column')}) by Holm's method. "
        f"equivalent: else, and within ±{margins.average:g} points of the Average "
        f"(±{margins.benchmark:g} % of a benchmark's scale), corrected too. cannot tell: neither.",
        "could show: the smallest true difference of the Average that this n shows 4 times in 5 "
        "after that correction. Per column: differences.csv.",
    ]
    if len(averages) < len({id(d.line) for d in analysis.differences}):
        notes.append(
            "–: a benchmark of the Average has too few images, or rows without what intervals need."
        )
    name = "the best of this table" if analysis.reference == BEST else "the reference"
    return Sheet(f"{table.name}: differences to {name} per budget", head, sections, notes)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _column_differences(table: Table, analysis: Analysis) -> Sheet | None:
    """Each column's difference to the reference, with interval and verdict."""
    columns = [column for column in table.columns if column.better]
    found = {(id(d.line), d.column): d for d in analysis.differences}
    sections = []
    for group in table.groups:
        own = [d for d in analysis.differences if d.group is group]
        lines = []
        for line in group.lines:
            known = [found.get((id(line), column)) for column in columns]
            if any(known):
                lines.append([line.label, *map(_judged, known)])
        if lines:
            sections.append((f"{group.heading}: minus {own[0].reference.label}", lines))
    if not sections:
        return None
    notes = [
        "Differences of the printed numbers, paired by document; 95 % intervals by leaving out "
        "images, not corrected.",
        f"better, worse: not chance at 5 %, corrected for {len(found)} comparisons by Holm's "
        f"method. equivalent: else, and within ±{analysis.margins.benchmark:g} % of the scale, "
        "corrected too. cannot tell: neither. What this n could have shown: differences.csv.",
    ]
    head = ["Strategy", *[column.heading for column in columns]]
    return Sheet(f"{table.name}: differences to the reference per budget", head, sections, notes)


def _judged(difference: Difference | None) -> str:
    """``−1.2 [−3.0, +0.6] cannot tell``."""
    if difference is None:
        return "–"
    digits = difference.column.digits
    low, high = (signed(number, digits) for number in (difference.low, difference.high))
    return f"{signed(difference.difference, digits)} [{low}, {high}] {difference.verdict}"


def _difference_texts(line: Line, own: Sequence[Difference]) -> list[str]:
    if not own:
        return []
    verdicts = [d.verdict for d in own if d.column is not AVERAGE]
    counts = [str(verdicts.count(verdict)) for verdict in VERDICTS]
    average = next((d for d in own if d.column is AVERAGE), None)
    if average is None:
        return [line.label, "–", "–", "–", "–", *counts]
    interval = f"[{signed(average.low, 2)}, {signed(average.high, 2)}]"
    shown = [signed(average.difference, 2), interval, average.verdict, f"{average.smallest:.2f}"]
    return [line.label, *shown, *counts]


CHANGE_HEADS = ("right→wrong", "wrong→right", "same answer", "hard subset")


def flips_sheet(table: Table) -> Sheet | None:
    """What the Average hides: changed answers per line, over the benchmarks of the Average."""
    flips, sections, hard = Flips(table), [], 0
    for group in table.groups:
        again = table.again if group.lines[0] is table.vanilla else []
        lines = []
        for line in [*group.lines, *again]:
            found = flips.of_line(line)
            texts = [found[name].text() if name in found else "–" for name in CHANGES]
            if found:
                lines.append([line.label, *texts, f"{found['right_to_wrong'].n:,}"])
            hard = found["hard"].n if "hard" in found else hard
        if lines:
            sections.append((group.heading, lines))
    if not sections:
        return None
    over = len(flips.benchmarks)
    notes = [
        f"Percent of units, mean over {over} benchmark{'s' if over > 1 else ''}, with 95 % "
        "intervals by leaving out images. n: units of all of them.",
        "right→wrong, wrong→right: against vanilla's answer to the same unit (a document, an MME "
        "pair, a rotated MMBench question); right is at least half of its points, our choice.",
        "same answer: units answered as vanilla does, case, white space and a final full stop "
        "aside. Captions hardly ever are.",
        f"hard subset: accuracy where vanilla is right and the {GRID} grid of the same budget is "
        f"wrong, the units of all benchmarks together; not shown under {FEWEST} units. The "
        "grid has 0 there by definition, and every other line some by chance.",
    ]
    head = ["Strategy", *CHANGE_HEADS, "n"]
    return Sheet(f"{table.name}: what the Average hides", head, sections, notes)


def changes_sheet(table: Table) -> Sheet | None:
    """The same for every cell, with its n."""
    flips, sections = Flips(table), []
    for group in table.groups:
        again = table.again if group.lines[0] is table.vanilla else []
        lines = []
        for line in [*group.lines, *again]:
            for name, shown in table.shown.items():
                found = flips.of_cell(line, name)
                if not found:
                    continue
                texts = [found[one].text() if one in found else "–" for one in CHANGES]
                sizes = [str(found["right_to_wrong"].n), "–"]
                sizes[1] = str(found["hard"].n) if "hard" in found else "–"
                lines.append([f"{line.label}, {shown.benchmark_label}", *texts, *sizes])
        if lines:
            sections.append((group.heading, lines))
    if not sections:
        return None
    head = ["Strategy, benchmark", *CHANGE_HEADS, "n", "hard n"]
    notes = [f"As above, per cell; a hard subset of fewer than {FEWEST} units is not shown."]
    return Sheet(f"{table.name}: changed answers per cell", head, sections, notes)


def cost_sheet(table: Table) -> Sheet:
    """What each line cost and kept: means over its benchmarks and documents."""
    totals = [line.audit("flops", "total") or 0.0 for line in table.lines]
    unit, name = (1e12, "T") if max(totals, default=0.0) >= 1e12 else (1e9, "G")
    head = ["Strategy", "kept min", "mean", "max", "layer mean", "text tokens"]
    parts = ["vision", "projector", "selection", "prefill", "decode", "total"]
    head += [*parts, "of vanilla", "paper MACs", "erank in", "erank kept", "entropy"]
    base = table.vanilla.audit("flops", "total") if table.vanilla else None
    sections = []
    for group in table.groups:
        lines = [_cost_texts(line, parts, unit, base) for line in group.lines]
        sections.append((group.heading, lines))
    notes = [
        f"FLOPs in {name}FLOPs per document = 2 × multiply-accumulates: vision tower, projector, "
        "selection (an estimate), prefill with the head, decode with a key-value cache.",
        f"paper MACs: {name}MACs of the visual tokens alone in the language model, the papers' "
        "formula.",
        "erank: effective rank of the visual tokens before and after selection; entropy of the "
        "CLS attention, nats.",
    ]
    return Sheet(f"{table.name}: cost", head, sections, notes)


def _count(tokens: float | None) -> str:
    """A number of tokens: whole when it is."""
    return "–" if tokens is None else f"{tokens:.1f}".removesuffix(".0")


def _cost_texts(line: Line, parts: Sequence[str], unit: float, base: float | None) -> list[str]:
    def shown(name: str, key: str, digits: int, scale: float = 1.0) -> str:
        value = line.audit(name, key)
        return "–" if value is None else f"{value / scale:.{digits}f}"

    done = [row.kept for rows in line.rows.values() for row in rows if row.kept]
    kept = {key: [k[key] for k in done] for key in ("min", "mean", "max", "layer_mean")}
    total = line.audit("flops", "total")
    text = [row.text_tokens for rows in line.rows.values() for row in rows]
    known = [value for value in text if value is not None]
    return [
        line.label,
        _count(min(kept["min"], default=None)),
        _count(mean(kept["mean"]) if kept["mean"] else None),
        _count(max(kept["max"], default=None)),
        _count(mean(kept["layer_mean"]) if kept["layer_mean"] else None),
        f"{sum(known) / len(known):.1f}" if known else "–",
        *[shown("flops", key, 3, unit) for key in parts],
        f"{100 * total / base:.1f} %" if total is not None and base else "–",
        shown("flops", "paper_macs", 3, unit),
        *[shown("complexity", key, 1) for key in ("erank_input", "erank_kept")],
        shown("complexity", "entropy", 2),
    ]

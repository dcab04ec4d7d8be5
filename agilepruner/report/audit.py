"""What does not add up in the published tables: averages, deltas, bold, headings, repeated rows.

Everything is recomputed from the printed cells in ``results/published``; nothing there is edited.
A finding says what is printed, what the cells give, how we read it, and how sure that is. Suggested
readings come from ``corrections.csv`` and are tried out: a reading that restores the printed
average says so.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from agilepruner.places import PUBLISHED
from agilepruner.report.lines import VANILLA, relative_average
from agilepruner.report.published import ABOUT, read
from agilepruner.report.sheets import NOTE_WIDTH, signed

TOLERANCE = 0.05  # points of an average: half a unit of the coarsest printed one
FEWEST_REPEATS = 3  # cells of a row that equal those of the same method at another budget
HEADINGS = {
    "average": "Averages that do not follow from their cells",
    "delta": "Deltas that are not the difference of their numbers",
    "repeat": "Rows with the cells of another budget",
    "contradiction": "Cells that two tables print differently",
    "bold": "Bold that is not best of its block",
    "heading": "Headings",
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not add up.

    Attributes:
        kind: one of ``HEADINGS``.
        table: the image it was read from. where: row (and column) of it.
        printed: as printed. recomputed: what the printed cells give.
        reading: how we read it. confidence: ``certain`` (arithmetic), ``high``, ``medium``,
            ``low`` or ``unresolved``.
    """

    kind: str
    table: str
    where: str
    printed: str
    recomputed: str
    reading: str
    confidence: str


@dataclass(frozen=True)
class Line:
    """A printed row: a method at a budget in one table.

    Attributes:
        cells: column -> its record. columns of one benchmark and two metrics have two names.
    """

    table: str
    method: str
    strategy: str
    budget: str
    cells: dict[str, dict[str, str]]

    @property
    def where(self) -> str:
        """The row in words."""
        return f"{self.method}, {self.budget} tokens"

    @property
    def average(self) -> str:
        """The printed average; empty where there is none."""
        return next(iter(self.cells.values()))["printed_average"]

    @property
    def values(self) -> dict[str, float]:
        """Column -> printed number."""
        return {column: float(cell["printed"]) for column, cell in self.cells.items()}


def audit(directory: Path = PUBLISHED) -> list[Finding]:
    """Every finding, by kind and in the order of the tables."""
    lines = _lines(directory)
    fixes = {
        (fix["table"], fix["method"], fix["budget"], fix["benchmark"]): fix
        for fix in read(directory / "corrections.csv")
    }
    return [
        *_averages(lines, fixes),
        *_deltas(lines, fixes),
        *_repeats(lines),
        *_contradictions(lines, fixes),
        *_bold(lines, directory),
        *_headings(fixes, directory),
    ]


def _lines(directory: Path) -> list[Line]:
    found: dict[tuple[str, str, str], Line] = {}
    paths = {path for path in directory.glob("*.csv") if path.name not in ABOUT}
    for path in sorted(paths):
        for cell in read(path):
            key = cell["table"], cell["method"], cell["budget"]
            line = found.setdefault(key, Line(key[0], key[1], cell["strategy"], key[2], {}))
            line.cells[cell["column"]] = cell
    return list(found.values())


def _vanilla(lines: list[Line], table: str) -> Line:
    return next(line for line in lines if line.table == table and line.strategy == VANILLA)


def averages(lines: list[Line]) -> Iterator[tuple[Line, float]]:
    """Every pruned row with a printed average, and the average that its cells give."""
    for line in lines:
        if line.average and line.strategy != VANILLA:
            value = relative_average(line.values, _vanilla(lines, line.table).values)
            if value is not None:
                yield line, value


def slack(line: Line, vanilla: Line) -> float:
    """How far rounding of the printed cells and average can move an average, in points."""
    moved = []
    for column, cell in line.cells.items():
        base = vanilla.cells[column]["printed"]
        share = float(cell["printed"]) / float(base)
        moved.append(100 * (_half(cell["printed"]) + _half(base) * share) / float(base))
    return sum(moved) / len(moved) + _half(line.average)


def _half(printed: str) -> float:
    """Half a unit of the last printed digit."""
    return 0.5 * _unit(printed)


def _unit(printed: str) -> float:
    return 10.0 ** -len(printed.partition(".")[2])


def _averages(lines: list[Line], fixes: Mapping[tuple, dict[str, str]]) -> Iterator[Finding]:
    for line, value in averages(lines):
        if abs(value - float(line.average)) > TOLERANCE:
            reading, confidence = _read_average(lines, line, value, fixes)
            seen = f"its cells give {value:.3f} ({signed(value - float(line.average), 3)})"
            yield Finding(
                "average", line.table, line.where, line.average, seen, reading, confidence
            )


def _read_average(
    lines: list[Line], line: Line, value: float, fixes: Mapping[tuple, dict[str, str]]
) -> tuple[str, str]:
    """How an average that does not follow from its cells is read, and how sure that is."""
    vanilla = _vanilla(lines, line.table)
    own = {
        column: fix
        for (table, method, budget, column), fix in fixes.items()
        if (table, method, budget) == (line.table, line.method, line.budget)
    }
    cells = {column: float(fix["suggested"]) for column, fix in own.items() if column in line.cells}
    if cells:
        corrected = relative_average(line.values | cells, vanilla.values)
        if corrected is not None and abs(corrected - float(line.average)) <= _half(line.average):
            changes = ", ".join(
                f"{column} {line.cells[column]['printed']} → {own[column]['suggested']}"
                for column in cells
            )
            return f"{changes} gives the printed average", _weakest(own[c] for c in cells)
    digits = len(line.average.partition(".")[2])
    if "Rel." in own:
        return f"the average of the cells, {own['Rel.']['suggested']}", own["Rel."]["confidence"]
    room = slack(line, vanilla)
    if abs(value - float(line.average)) <= room and digits < 2:
        return f"rounded cells explain up to {room:.2f}; from them {value:.{digits}f}", "medium"
    return f"the average of the cells, {value:.{digits}f}", "unresolved"


def _weakest(fixes: Iterator[dict[str, str]]) -> str:
    found = {fix["confidence"] for fix in fixes}
    return next(word for word in ("low", "medium", "high") if word in found)


def _deltas(lines: list[Line], fixes: Mapping[tuple, dict[str, str]]) -> Iterator[Finding]:
    known = {(line.table, line.method, line.budget): line for line in lines}
    for line in lines:
        first = next(iter(line.cells.values()))
        base = known.get((line.table, first.get("delta_against", ""), line.budget))
        if base is None:
            continue
        own = {c: (cell["printed"], cell["printed_delta"]) for c, cell in line.cells.items()}
        theirs = {c: cell["printed"] for c, cell in base.cells.items()}
        own["Rel."], theirs["Rel."] = (line.average, first["printed_average_delta"]), base.average
        for column, (number, delta) in own.items():
            true = float(number) - float(theirs[column])
            # Both numbers are rounded, so the true delta may round to one unit beside.
            if abs(true - float(delta)) > 1.01 * _unit(delta):
                fix = fixes.get((line.table, line.method, line.budget, f"{column} delta"))
                digits = len(delta.partition(".")[2])
                yield Finding(
                    "delta",
                    line.table,
                    f"{line.where}, {column}",
                    delta.replace("-", "−"),
                    f"it is {signed(true, digits)} ({number} − {theirs[column]})",
                    signed(true, digits),
                    fix["confidence"] if fix else "certain",
                )


def _repeats(lines: list[Line]) -> Iterator[Finding]:
    for i, line in enumerate(lines):
        for other in lines[i + 1 :]:
            if (line.table, line.method) == (other.table, other.method):
                same = [c for c, v in line.values.items() if other.values.get(c) == v]
                if len(same) >= FEWEST_REPEATS:
                    yield Finding(
                        "repeat",
                        line.table,
                        f"{line.method}, {line.budget} and {other.budget} tokens",
                        f"{len(same)} equal cells of {len(line.cells)}",
                        ", ".join(f"{c} {line.cells[c]['printed']}" for c in same),
                        "one row's cells were copied into the other's",
                        "high",
                    )


def _contradictions(lines: list[Line], fixes: Mapping[tuple, dict[str, str]]) -> Iterator[Finding]:
    printed: dict[tuple[str, ...], list[tuple[Line, str]]] = defaultdict(list)
    for line in lines:
        for column, cell in line.cells.items():
            key = cell["model"], cell["strategy"], line.budget, cell["benchmark"], cell["metric"]
            printed[key].append((line, column))
    for places in printed.values():
        values = {line.cells[column]["printed"] for line, column in places}
        if len(values) < 2:
            continue
        found = [
            fixes.get((line.table, line.method, line.budget, column)) for line, column in places
        ]
        fix = next((one for one in found if one is not None), None)
        line, column = places[0]
        yield Finding(
            "contradiction",
            " and ".join(one.table for one, _ in places),
            f"{line.where}, {column}",
            " and ".join(one.cells[name]["printed"] for one, name in places),
            "one cell, two numbers",
            fix["suggested"] if fix else "open",
            fix["confidence"] if fix else "unresolved",
        )


def _bold(lines: list[Line], directory: Path) -> Iterator[Finding]:
    known = {(line.table, line.method, line.budget): line for line in lines}
    for mark in read(directory / "bold.csv"):
        column, line = mark["column"], known[mark["table"], mark["method"], mark["budget"]]
        block = [
            one
            for one in lines
            if (one.table, one.budget) == (line.table, line.budget) and one.strategy != VANILLA
        ]
        if column == "average":
            values = {one.method: one.average for one in block}
        else:
            values = {one.method: one.cells[column]["printed"] for one in block}
        sign = -1 if mark["better"] == "lower" else 1
        own = values[line.method]
        better = {m: v for m, v in values.items() if sign * float(v) > sign * float(own)}
        if better:
            best = ", ".join(f"{m} {v}" for m, v in better.items())
            yield Finding(
                "bold",
                line.table,
                f"{line.where}, {column}",
                f"{own} in bold",
                f"better are {best}",
                "bold marks the paper's own method, not the best",
                "certain",
            )


def _headings(fixes: Mapping[tuple, dict[str, str]], directory: Path) -> Iterator[Finding]:
    for heading in read(directory / "headings.csv"):
        printed = heading["printed_reduction"]
        true = 100 * (1 - int(heading["budget"]) / int(heading["full"]))
        if abs(true - float(printed)) > _half(printed) + 1e-9:
            key = (heading["table"], "(block heading)", heading["budget"], "reduction")
            fix = fixes.get(key)
            yield Finding(
                "heading",
                heading["table"],
                f"block of {heading['budget']} tokens",
                f"{printed} % reduction",
                f"it is {true:.1f} % of {heading['full']}",
                f"{true:.1f} %" + (f"; {fix['evidence'].split('; ')[-1]}" if fix else ""),
                "certain",
            )


def audit_text(directory: Path = PUBLISHED) -> str:
    """The findings in sentences, with how much was checked."""
    found = audit(directory)
    out = ["AgilePruner (arXiv 2603.01236): what does not add up in its tables", ""]
    for kind in dict.fromkeys(finding.kind for finding in found):
        out.append(HEADINGS[kind])
        for finding in [one for one in found if one.kind == kind]:
            seen = f"{finding.where}: printed {finding.printed}, {finding.recomputed}"
            reading = f"reading: {finding.reading} ({finding.confidence}) [{finding.table}]"
            for text, indent in ((seen, "  "), (reading, "      ")):
                out += wrap(text, NOTE_WIDTH, initial_indent=indent, subsequent_indent=indent)
        out.append("")
    checked = len(list(averages(_lines(directory))))
    wrong = sum(finding.kind == "average" for finding in found)
    notes = [
        f"{wrong} of {checked} printed averages differ by more than {TOLERANCE} points from "
        "100 × mean(value / full-token value) of their printed cells.",
        "Confidence: certain is arithmetic on printed numbers; high, medium and low grade a "
        "suggested reading; unresolved: no reading fits.",
        "Data and evidence: results/published. The tables there stay as printed; in comparisons "
        "only readings of high confidence replace a cell, marked with a question mark.",
    ]
    return "\n".join(out + [part for note in notes for part in wrap(note, NOTE_WIDTH)]) + "\n"

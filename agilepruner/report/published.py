"""Published numbers, as data with their source, beside what we measured.

Files and their columns: ``results/published/README.md``. A correction of high confidence replaces
a printed value, which stays beside it; a cell with any correction is suspect. Averages are always
recomputed from the cells. A benchmark of another split than the published column is shown beside
it and never subtracted from it.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean

from agilepruner.errors import unknown
from agilepruner.places import PUBLISHED
from agilepruner.report.lines import AVERAGE, VANILLA, Column, Line, Table, relative_average
from agilepruner.runner.rows import Row

# The other files there are tables.
ABOUT = (
    *("bold.csv", "corrections.csv", "headings.csv", "positions.csv", "study.csv"),
    "tolerances.csv",
)


@dataclass(frozen=True)
class Published:
    """One number of a published table.

    Attributes:
        model, strategy, benchmark: names of our configs; method, column: as printed.
        budget: visual tokens kept per image; the model's full count for the unpruned row.
        metric: what the number is, e.g. ``accuracy`` or ``perception+cognition``.
        printed: as printed. value: with corrections of high confidence applied.
        suspect: the cell contradicts another one or its average. note: how.
        source: the image it was read from.
    """

    model: str
    strategy: str
    method: str
    budget: int
    benchmark: str
    column: str
    metric: str
    printed: float
    value: float
    printed_average: float | None
    suspect: bool
    note: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """A measured number beside the published one, and the one printed before any correction.

    Attributes:
        split: the published column's documents, where they are not ours; else empty.
    """

    line: Line
    column: Column
    measured: float
    published: float
    printed: float | None
    suspect: bool
    note: str
    split: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the units of the column; None across splits."""
        return None if self.split else self.measured - self.published


@dataclass(frozen=True)
class Shared:
    """A column that was both measured and published.

    Attributes:
        column: ours, with a title that says the metric or split where that is needed.
        benchmark, metric: names of the published column.
        split: the published column's documents, where they are not ours; else empty.
    """

    column: Column
    benchmark: str
    metric: str
    split: str


def read(path: Path) -> list[dict[str, str]]:
    """The records of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def load(directory: Path = PUBLISHED) -> tuple[Published, ...]:
    """Every published number; empty when the project is installed without its results folder."""
    if not directory.is_dir():
        return ()
    fixes = {
        (fix["table"], fix["method"], fix["budget"], fix["benchmark"]): fix
        for fix in read(directory / "corrections.csv")
    }
    numbers = []
    tables = set(directory.glob("*.csv")) - {directory / name for name in ABOUT}
    for path in sorted(tables):
        for cell in read(path):
            fix = fixes.get((cell["table"], cell["method"], cell["budget"], cell["column"]))
            certain = fix is not None and fix["confidence"] == "high"
            numbers.append(
                Published(
                    model=cell["model"],
                    strategy=cell["strategy"],
                    method=cell["method"],
                    budget=int(cell["budget"]),
                    benchmark=cell["benchmark"],
                    column=cell["column"],
                    metric=cell["metric"],
                    printed=float(cell["printed"]),
                    value=float(fix["suggested"] if fix and certain else cell["printed"]),
                    printed_average=float(cell["printed_average"] or "nan"),
                    suspect=fix is not None,
                    note=f"{fix['evidence']} ({fix['confidence']} confidence)" if fix else "",
                    source=cell["table"],
                )
            )
    return tuple(numbers)


@dataclass(frozen=True)
class Positions:
    """A published measurement of both rules for the positions of kept tokens.

    Attributes:
        model: as printed. benchmark: name of our config. documents: which, as printed.
        unpruned, reset, keep: in units of the metric. source, note: where from, what is not said.
    """

    model: str
    benchmark: str
    documents: str
    metric: str
    unpruned: float
    reset: float
    keep: float
    source: str
    note: str


@cache
def positions(directory: Path = PUBLISHED) -> tuple[Positions, ...]:
    """Published measurements of positions; empty when there is no results folder."""
    path = directory / "positions.csv"
    lines = read(path) if path.is_file() else []
    return tuple(
        Positions(
            *(line["model"], line["benchmark"], line["documents"], line["metric"]),
            *(float(line["unpruned"]), float(line["reset"]), float(line["keep"])),
            *(line["source"], line["note"]),
        )
        for line in lines
    )


@cache
def sizes(directory: Path = PUBLISHED) -> dict[str, int]:
    """Benchmark -> documents of the paper's column (LLaVA tables)."""
    path = directory / "tolerances.csv"
    return {t["benchmark"]: int(t["documents"]) for t in read(path)} if path.is_file() else {}


def other_documents(table: Table) -> list[str]:
    """Say which benchmarks were measured on another number of documents than the paper's."""
    if not compare(table):
        return []
    said = []
    for name, size in sizes().items():
        if name in table.shown and other_split(table.shown[name]):
            continue
        counts = {row.n for row in table.rows if row.benchmark == name and row.status == "done"}
        if counts - {size}:
            seen = ", ".join(f"{count:,}" for count in sorted(counts))
            said.append(f"{name} {seen} (published: {size:,})")
    return said


@cache
def tolerances(directory: Path = PUBLISHED) -> dict[tuple[str, str], float]:
    """(benchmark, metric) -> how far a measured vanilla number may be from the published one."""
    path = directory / "tolerances.csv"
    if not path.is_file():
        return {}
    return {(t["benchmark"], t["metric"]): float(t["tolerance"]) for t in read(path)}


@dataclass(frozen=True)
class Reference:
    """The published numbers of one model: the first table that prints a cell counts."""

    model: str
    full: int
    cells: dict[tuple[str, int, str, str], Published]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(benchmark, metric) of every published column, in the order of the tables."""
        return list(dict.fromkeys((c.benchmark, c.metric) for c in self.cells.values()))

    def budget(self, line: Line, full: int) -> int | None:
        """The published budget that a line of a model with ``full`` tokens corresponds to.

        Budgets per tile (128 of 576 in each of five tiles) are the published 640 of 2880.
        """
        if line.strategy == VANILLA:
            return self.full
        if line.positions:  # nobody published them
            return None
        return line.budget * (self.full // full) if self.full % full == 0 else None

    def cell(self, strategy: str, budget: int, benchmark: str, metric: str) -> Published | None:
        """One number, or None when it was not published."""
        return self.cells.get((strategy, budget, benchmark, metric))


def check_table(name: str | None) -> None:
    """Refuse a table that the paper does not have.

    Raises:
        UserError: with those that it has.
    """
    known = {number.source for number in load()}
    if name is not None and known and name not in known:
        raise unknown("table of the paper", name, known)


def reference(model: str, first: str | None = None) -> Reference | None:
    """The published numbers of a model config; None for models that the paper does not have.

    Args:
        model: name of the config.
        first: the table whose numbers count where several print a cell; None: the main one.
    """
    found = [number for number in load() if number.model == model]
    if not found:
        return None
    chosen = [n for n in found if n.source == first]
    main = [n for n in found if not n.source.startswith("analysis")]
    cells: dict[tuple[str, int, str, str], Published] = {}
    for number in chosen + main + found:
        key = (number.strategy, number.budget, number.benchmark, number.metric)
        cells.setdefault(key, number)
    return Reference(model, max(n.budget for n in found), cells)


def other_split(row: Row) -> str:
    """The published column's documents where a row's are others; empty where they are the same."""
    return row.published_split if row.published_split != row.split else ""


def measured(row: Row, metric: str) -> float | None:
    """The number of a done row that a published metric stands for; None when it has none."""
    if row.status != "done" or metric not in row.published:
        return None
    keys = row.published[metric]
    if keys is None:
        return row.value
    known = [row.metrics[key] for key in keys if key in row.metrics]
    return sum(known) if len(known) == len(keys) else None


def _measured(line: Line, benchmark: str, metric: str) -> float | None:
    """Mean over the seeds of a line."""
    values = [measured(row, metric) for row in line.rows.get(benchmark, [])]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def compare(table: Table) -> list[Comparison]:
    """Every number of a table that the paper also printed, and the averages over those columns.

    Empty for synthetic suites: their documents are not the benchmarks'.
    """
    against = reference(table.model, table.paper)
    if against is None or table.synthetic:
        return []
    return [c for line in table.lines for c in _compare_line(table, line, against)]


def of_line(table: Table, line: Line, benchmark: str) -> list[Published]:
    """What the paper printed for one line and benchmark, one number per metric."""
    against = reference(table.model, table.paper)
    budget = against.budget(line, table.full) if against else None
    if against is None or budget is None or table.synthetic:
        return []
    cells = (against.cell(line.strategy, budget, *column) for column in against.columns)
    return [cell for cell in cells if cell is not None and cell.benchmark == benchmark]


def _compare_line(table: Table, line: Line, against: Reference) -> Iterator[Comparison]:
    budget = against.budget(line, table.full)
    if budget is None:
        return
    own: dict[Column, float | None] = {}
    theirs: dict[Column, float | None] = {}
    for shared in shared_columns(table, against):
        column = shared.column
        cell = against.cell(line.strategy, budget, shared.benchmark, shared.metric)
        value = _measured(line, shared.benchmark, shared.metric)
        if column.average and not shared.split:
            own[column], theirs[column] = value, cell.value if cell else None
        if cell is not None and value is not None:
            numbers = (value, cell.value, cell.printed, cell.suspect, cell.note)
            yield Comparison(line, column, *numbers, shared.split)
    average = relative_average(own, _vanilla(table, against, published=False))
    printed = relative_average(theirs, _vanilla(table, against, published=True))
    if average is not None and printed is not None:
        yield Comparison(line, AVERAGE, average, printed, None, False, "")


def shared_columns(table: Table, against: Reference) -> list[Shared]:
    """Columns that were both published and measured."""
    found = []
    for benchmark, metric in against.columns:
        row = table.shown.get(benchmark)
        if row is None or metric not in row.published:
            continue
        keys, split = row.published[metric], other_split(row)
        own = [c for c in table.columns if c.benchmark == benchmark]
        exact = [c for c in own if keys is not None and keys == [c.metric]]
        column = (exact or own)[0]
        several = not exact and sum(name == benchmark for name, _ in against.columns) > 1
        title = column.title + (f" {metric}" if several else "")
        title += f" ({row.split})" if split else ""
        found.append(Shared(replace(column, title=title), benchmark, metric, split))
    return found


def other_splits(comparisons: Sequence[Comparison]) -> dict[Column, str]:
    """Column -> what it was measured on and what was published, where these are two splits."""
    return {
        c.column: f"{c.column.title} is beside the published number of {c.split}: no difference, "
        "no anchor, in neither average"
        for c in comparisons
        if c.split
    }


def _vanilla(table: Table, against: Reference, published: bool) -> dict[Column, float | None]:
    """The unpruned numbers of the columns in the Average, ours or theirs."""
    values: dict[Column, float | None] = {}
    for shared in shared_columns(table, against):
        if not shared.column.average or shared.split:
            continue
        cell = against.cell(VANILLA, against.full, shared.benchmark, shared.metric)
        if published:
            values[shared.column] = cell.value if cell else None
        else:
            own = table.vanilla
            values[shared.column] = _measured(own, shared.benchmark, shared.metric) if own else None
    return values


def unanchored(table: Table) -> list[str]:
    """Say which vanilla numbers miss the published ones by more than their tolerance."""
    against = reference(table.model, table.paper)
    if against is None or table.synthetic or table.vanilla is None:
        return []
    limits = tolerances()
    said = []
    for shared in shared_columns(table, against):
        column, benchmark, metric = shared.column, shared.benchmark, shared.metric
        cell = against.cell(VANILLA, against.full, benchmark, metric)
        value = None if shared.split else _measured(table.vanilla, benchmark, metric)
        limit = limits.get((benchmark, metric))
        if cell is None or value is None or limit is None or abs(value - cell.value) <= limit:
            continue
        said.append(
            f"{column.title} {value:.{column.digits}f}, published {cell.value:g} "
            f"(tolerance {limit:g})"
        )
    return said


def follows(table: Table) -> str:
    """Say which table of the paper this one follows, and what of it is not here; else nothing."""
    theirs = [number for number in load() if number.source == table.paper]
    if not theirs:
        return ""
    own, full = theirs[0].model == table.model, max(number.budget for number in theirs)
    lacks = [
        *dict.fromkeys(n.column for n in theirs if n.benchmark not in table.shown),
        *_missing_lines(table, [n for n in theirs if n.strategy != VANILLA]),
    ]
    said = f"Not here: {', '.join(lacks)}." if lacks else ""
    if own:
        return said and f"Of the paper's table ({table.paper}): {said}"
    plain = next(number.method for number in theirs if number.strategy == VANILLA)
    budgets = sorted({number.budget for number in theirs} - {full}, reverse=True)
    if full != table.full:
        listed = ", ".join(str(budget) for budget in budgets)
        said = f"The paper keeps {listed} of {full:,} tokens. {said}"
    return (
        f"Lines and columns follow the paper's table of {plain} ({table.paper}); the numbers are "
        f"those of model {table.model} and say nothing about {plain}. {said}"
    ).rstrip()


def _missing_lines(table: Table, theirs: Sequence[Published]) -> Iterator[str]:
    """Published methods that the table does not have, or not at every budget that they have."""
    ranked = sorted({number.budget for number in theirs}, reverse=True)
    ours = [group.budget for group in table.groups if group.budget < table.full]
    for strategy, method in dict.fromkeys((n.strategy, n.method) for n in theirs):
        have = {line.budget for line in table.lines if line.strategy == strategy}
        if not have:
            yield method
        elif len(ranked) == len(ours):
            budgets = {n.budget for n in theirs if n.strategy == strategy}
            wanted = [own for own, budget in zip(ours, ranked) if budget in budgets]
            without = [str(budget) for budget in wanted if budget not in have]
            if without:
                yield f"{method} at {', '.join(without)}"

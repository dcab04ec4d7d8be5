"""Rows arranged as a table: one line per strategy and budget, one column per benchmark.

A table holds one model, suite and protocol, and is made of groups: vanilla first, then one group
per budget, largest first. Everything else in the report (renderings, differences, dashboard) reads
these objects, so that a number has one definition.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import isfinite
from statistics import mean, stdev
from typing import Any

from agilepruner.runner.rows import Row

VANILLA = "vanilla"
SEED = "seed"
OWN_COUNT = "No budget: the strategy decides how many tokens it keeps"
FAMILY_ORDER = ("baseline", "decoder", "attention", "diversity", "adaptive")
BETTER = {"higher": 1, "lower": -1, "neither": 0}


@dataclass(frozen=True)
class Aggregate:
    """How a column's number comes from what rows carry per unit.

    Attributes:
        of: ``mean`` (of one part over units), ``ratio`` (of two sums) or ``f1`` (of true
            positives, false positives and false negatives).
        parts: names in ``Row.parts``; ``score`` is ``Row.scores``.
        points: what 1.0 of it is in the column.
        strata: ``mean`` or ``sum`` over ``Row.strata`` of the number of each; None: all pooled.
    """

    of: str = "mean"
    parts: tuple[str, ...] = ("score",)
    points: float = 100.0
    strata: str | None = None


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        benchmark: name of its config.
        metric: key of ``Row.metrics``; None for the headline value.
        title: what the table prints, without the arrow.
        better: 1 when higher is better, -1 when lower is, 0 when neither.
        digits: decimals printed.
        average: whether it is in the Average.
        log: the name it is logged under.
        aggregate: how it comes from the units.
    """

    benchmark: str
    metric: str | None
    title: str
    better: int
    digits: int
    average: bool = False
    log: str = ""
    aggregate: Aggregate = Aggregate()

    @property
    def heading(self) -> str:
        """The title with its arrow."""
        return self.title + {1: "↑", -1: "↓", 0: ""}[self.better]

    def value(self, row: Row) -> float | None:
        """This column's number of a row; None when the row does not have it."""
        value = row.value if self.metric is None else row.metrics.get(self.metric)
        return value if value is not None and isfinite(value) else None


AVERAGE = Column("average", None, "Average", 1, 2)


def columns_of(row: Row) -> list[Column]:
    """The columns that a row says its benchmark has."""
    return [
        Column(
            row.benchmark,
            shown["metric"],
            shown["title"],
            BETTER[shown["better"]],
            shown["digits"],
            shown["average"],
            shown["log"],
            Aggregate(**shown["aggregate"] | {"parts": tuple(shown["aggregate"]["parts"])}),
        )
        for shown in row.columns
    ]


@dataclass(frozen=True)
class Cell:
    """What a table shows at one line and column.

    Attributes:
        status: ``done``, ``failed`` or ``missing``.
        value: the number, mean over seeds; None unless done.
        spread: standard deviation over seeds; None with one seed.
    """

    status: str
    value: float | None = None
    spread: float | None = None

    def text(self, digits: int, with_spread: bool = False) -> str:
        """The printed number, ``failed`` or a dash."""
        if self.value is None:
            return "failed" if self.status == "failed" else "–"
        spread = f" ±{self.spread:.{digits}f}" if with_spread and self.spread is not None else ""
        return f"{self.value:.{digits}f}{spread}"


MISSING = Cell("missing")


@dataclass(frozen=True)
class Line:
    """One strategy at one budget: its rows by benchmark, one per seed.

    Attributes:
        strategy: config name. family: its class of method.
        label: printed name, with the parameters that tell it from others of the same name.
        parameters: hyper-parameters without the seed.
        budget: visual tokens kept per image.
        positions: of the kept tokens, where they are not the model's own; else empty.
        rows: benchmark -> rows, ordered by seed.
    """

    strategy: str
    family: str
    label: str
    parameters: dict[str, Any]
    budget: int
    rows: dict[str, list[Row]]
    positions: str = ""

    @property
    def seeds(self) -> int:
        """Number of seeds that the fullest cell has."""
        return max(len(rows) for rows in self.rows.values())

    @property
    def choice(self) -> str:
        """What we chose where the paper is silent."""
        return next((r.choice for rows in self.rows.values() for r in rows if r.choice), "")

    def cell(self, column: Column) -> Cell:
        """The number of a benchmark: mean and spread over seeds, failed if any seed failed."""
        rows = self.rows.get(column.benchmark, [])
        if any(row.status != "done" for row in rows):
            return Cell("failed")
        return _over_seeds([column.value(row) for row in rows])

    @property
    def kept(self) -> float | None:
        """Visual tokens in the language model: mean over layers, documents and benchmarks."""
        return self.audit("kept", "layer_mean")

    def audit(self, name: str, key: str) -> float | None:
        """Mean over the line's done rows of one audit number, e.g. ``("flops", "total")``."""
        rows = [row for rows in self.rows.values() for row in rows if row.status == "done"]
        values = [getattr(row, name).get(key) for row in rows]
        known = [value for value in values if value is not None]
        return mean(known) if known else None


@dataclass(frozen=True)
class Group:
    """The lines that keep the same number of tokens."""

    budget: int
    heading: str
    lines: list[Line]


@dataclass(frozen=True)
class Table:
    """All rows of one model, suite and protocol.

    Attributes:
        full: visual tokens per image before pruning.
        columns: those of its benchmarks, in their order.
        shown: benchmark -> the row that says how it is shown.
        vanilla: the unpruned line; None when it was not run.
        groups: vanilla (when there) and the budgets, largest first.
        paper: the paper's table that it follows (``table`` in results/published), if any.
        again: the unpruned line answered once more, each time with another batch size.
        duplicates: sentences on rows that were left out because another claims the same cell.
    """

    model: str
    suite: str
    protocol: str
    full: int
    columns: list[Column]
    shown: dict[str, Row]
    vanilla: Line | None
    groups: list[Group]
    duplicates: list[str]
    paper: str | None = None
    again: list[Line] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Model, suite and protocol in one string."""
        return f"{self.model} · suite {self.suite} · protocol {self.protocol}"

    @property
    def lines(self) -> list[Line]:
        """Every line, in the order of the groups."""
        return [line for group in self.groups for line in group.lines]

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of the table."""
        return [row for line in self.lines for rows in line.rows.values() for row in rows]

    @property
    def synthetic(self) -> bool:
        """The documents are made up; the numbers compare with each other only."""
        return any(row.synthetic for row in self.rows) or self.suite == "embedded"

    @property
    def averaged(self) -> list[Column]:
        """Columns of the Average."""
        return [c for c in self.columns if c.average]

    def first(self, benchmark: str) -> Column | None:
        """A benchmark's first column: its headline; None when it has none."""
        return next((c for c in self.columns if c.benchmark == benchmark), None)

    def cell(self, line: Line, column: Column) -> Cell:
        """What the table shows at a line and column, the Average's too."""
        return self.average(line) if column is AVERAGE else line.cell(column)

    def relative(self, line: Line, column: Column) -> float | None:
        """Percent of the vanilla value (mean over seeds)."""
        own, base = line.cell(column).value, self.base(column)
        return 100 * own / base if own is not None and base else None

    def base(self, column: Column) -> float | None:
        """The vanilla value of a column."""
        return self.vanilla.cell(column).value if self.vanilla else None

    def average(self, line: Line) -> Cell:
        """Mean over the averaged columns of 100 x value / vanilla value, mean over seeds.

        Missing when vanilla or the line lacks one of the columns: an average over other columns
        could not be compared.
        """
        if any(line.cell(column).status == "failed" for column in self.averaged):
            return Cell("failed")
        bases = {c: self.base(c) for c in self.averaged}
        by_seed: dict[float, dict[Column, float | None]] = defaultdict(dict)
        for column in self.averaged:
            for row in line.rows.get(column.benchmark, []):
                by_seed[seed_of(row)][column] = column.value(row)
        return _over_seeds([relative_average(values, bases) for values in by_seed.values()])


def _over_seeds(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return MISSING
    return Cell("done", mean(known), stdev(known) if len(known) > 1 else None)


def relative_average(
    values: Mapping[Any, float | None], vanilla: Mapping[Any, float | None]
) -> float | None:
    """100 x mean over columns of value / vanilla value, as the paper's Average column.

    None unless there is a value for every column of ``vanilla``.
    """
    ratios = []
    for column, base in vanilla.items():
        value = values.get(column)
        if value is None or not base:
            return None
        ratios.append(value / base)
    return 100 * mean(ratios) if ratios else None


def build_tables(
    rows: Iterable[Row], again: Sequence[Sequence[Row]] = (), paper: str | None = None
) -> list[Table]:
    """Arrange rows into one table per model, suite and protocol, in a fixed order.

    Args:
        rows: finished and failed cells.
        again: per repetition, rows of the same cells as vanilla's, answered once more.
        paper: see ``Table``.
    """
    grouped: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r.id):
        grouped[row.model, row.suite, row.protocol].append(row)
    tables = [_build(key, grouped[key]) for key in sorted(grouped)]
    return [replace(table, again=_again(table, again), paper=paper) for table in tables]


def _again(table: Table, repeated: Iterable[Sequence[Row]]) -> list[Line]:
    """Lines of the rows that are vanilla's cells once more."""
    if table.vanilla is None:
        return []
    ids = {row.id for rows in table.vanilla.rows.values() for row in rows}
    found = []
    for rows in repeated:
        own = {row.benchmark: [row] for row in rows if row.id in ids and row.status == "done"}
        if own:
            size = next(iter(own.values()))[0].environment.get("batch_size", "?")
            label = f"{table.vanilla.label} again, batch_size={size}"
            found.append(replace(table.vanilla, label=label, rows=own))
    return found


def _build(key: tuple[str, str, str], rows: list[Row]) -> Table:
    shown = _shown(rows)
    columns = _columns(rows, shown)
    duplicates: list[str] = []
    plain = [row for row in rows if row.strategy == VANILLA]
    full = max(row.full for row in plain or rows)
    pruned = sorted((row for row in rows if row.strategy != VANILLA), key=lambda r: -r.budget)
    groups = []
    if plain:
        heading = f"All {full} tokens"
        groups.append(Group(full, heading, _lines(plain, columns, duplicates)[:1]))
    for budget, members in groupby(pruned, key=lambda r: r.budget):
        heading = f"Retain {budget} tokens (↓ {100 * (1 - budget / full):.1f} %)"
        heading = heading if budget < full else OWN_COUNT
        groups.append(Group(budget, heading, _lines(list(members), columns, duplicates)))
    vanilla = groups[0].lines[0] if plain else None
    return Table(*key, full, columns, shown, vanilla, groups, duplicates)


def _shown(rows: list[Row]) -> dict[str, Row]:
    """Benchmark -> a row of it, done if any is, in the order of the columns."""
    found = {row.benchmark: row for row in rows if row.status == "done"}
    for row in rows:
        found.setdefault(row.benchmark, row)
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def _columns(rows: list[Row], shown: Mapping[str, Row]) -> list[Column]:
    """The columns that any row has a number for; all of a benchmark that failed everywhere."""
    done = [row for row in rows if row.status == "done"]
    columns = []
    for name, row in shown.items():
        own = [other for other in done if other.benchmark == name]
        columns += [
            c
            for c in columns_of(row)
            if c.metric is None or not own or any(c.metric in other.metrics for other in own)
        ]
    return columns


def _lines(rows: list[Row], columns: list[Column], duplicates: list[str]) -> list[Line]:
    """The lines of one budget: by family, then label, then parameters."""
    variants: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        key = row.strategy, _identity(_without_seed(row.parameters)), asked_positions(row)
        variants[key].append(row)
    labels = _labels([members[0] for members in variants.values()])
    order = {name: i for i, name in enumerate(dict.fromkeys(c.benchmark for c in columns))}
    lines = []
    for (strategy, _, positions), members in variants.items():
        first = members[0]
        by_benchmark: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(members, key=lambda r: (order[r.benchmark], seed_of(r), r.id)):
            taken = by_benchmark[row.benchmark]
            if taken and seed_of(taken[-1]) == seed_of(row):
                duplicates.append(
                    f"{first.label} at {row.budget}, {row.benchmark_label}: cells {taken[-1].id} "
                    f"and {row.id} differ in more than this table shows; {taken[-1].id} is shown"
                )
                continue
            taken.append(row)
        label, parameters = labels[first.id], _without_seed(first.parameters)
        lines.append(
            Line(
                *(strategy, first.family, label, parameters, first.budget, dict(by_benchmark)),
                positions,
            )
        )
    return sorted(lines, key=_line_rank)


def _line_rank(line: Line) -> tuple[int, str, str]:
    known = line.family in FAMILY_ORDER
    family = FAMILY_ORDER.index(line.family) if known else len(FAMILY_ORDER)
    return (family, line.label.lower(), _identity(line.parameters))


def _labels(firsts: list[Row]) -> dict[str, str]:
    """Row id -> label; lines of equal labels are told apart by the parameters that differ."""
    labels = {}
    for row in firsts:
        same = [other for other in firsts if other.strategy == row.strategy]
        own = _without_seed(row.parameters)
        differing = [
            key for key in sorted(own) if any(o.parameters.get(key) != own[key] for o in same)
        ]
        label = row.label
        if any(o.label == row.label and o.strategy != row.strategy for o in firsts):
            label = f"{label} [{row.strategy}]"
        settings = [f"{key}={_short(own[key])}" for key in differing]
        asked = asked_positions(row)
        shown = ", ".join([*settings, *([f"positions={asked}"] if asked else [])])
        labels[row.id] = f"{label} ({shown})" if shown else label
    return labels


def asked_positions(row: Row) -> str:
    """What a row's kept tokens do with their positions, where it is not the model's own."""
    return row.positions if row.positions != row.own_positions else ""


def signed(number: float, digits: int) -> str:
    """A difference with its sign; zero has none."""
    text = f"{number:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_seed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key != SEED}


def _identity(parameters: Mapping[str, Any]) -> str:
    return repr(sorted(parameters.items()))


def seed_of(row: Row) -> float:
    """The seed of a row; 0 where its strategy has none."""
    return float(row.parameters.get(SEED, 0))

"""What the page's charts show, worked out here; the page scales axes and draws marks.

A chart is a dictionary of plain data (``asdict(Chart)``); a point names the table's line that it
is, so that colour, marker and words come from one place.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agilepruner.report.kinds import KindScores
from agilepruner.report.lines import AVERAGE, Column, Line, Table

WHOLE = 0.5  # a line that keeps all but so many tokens is no point of a curve


@dataclass(frozen=True)
class Point:
    """One mark.

    Attributes:
        line: position in ``Table.lines``.
        x, y: in the units of the axes. spread: standard deviation of y over seeds.
        words: what its tooltip says besides the line's name.
        front: no other point of the chart is at least as good on both axes and better on one.
    """

    line: int
    x: float
    y: float
    spread: float | None = None
    words: str = ""
    front: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title, note: its caption. x, y: what the axes say.
        series: points that belong together, in order of x; its first point gives the style.
        base: a dashed line at vanilla's value. ticks: places on the x axis; None: round numbers.
        log: whether x is drawn by its logarithm. wide: twice the width.
        range: lowest and highest y; None: as the points need.
        digits: decimals of y.
        front: draw a line through the points of the Pareto front instead of through the series.
    """

    title: str
    x: str
    y: str
    series: list[list[Point]]
    note: str = ""
    base: float | None = None
    ticks: list[float] | None = None
    log: bool = False
    wide: bool = False
    range: tuple[float, float] | None = None
    digits: int = 1
    front: bool = False


@dataclass(frozen=True)
class Section:
    """Charts under one heading."""

    title: str
    text: str
    charts: list[Chart] = field(default_factory=list)


def plain(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Sections that have charts, as plain data."""
    return [asdict(section) for section in sections if section.charts]


def kept(line: Line) -> float:
    """Visual tokens in the language model, as measured where anything was."""
    return line.budget if line.kept is None else line.kept


def is_pruned(table: Table, line: Line) -> bool:
    """Whether a line has a place on an axis of tokens kept (Blind and vanilla have none)."""
    return line is not table.vanilla and kept(line) < table.full - WHOLE


def budget_sections(table: Table, kinds: Sequence[KindScores]) -> list[Section]:
    """Each column against tokens kept, then what has a section of its own."""
    own: dict[str, Section] = {}
    main = Section("Accuracy against budget", "")
    for column in [*([AVERAGE] if table.averaged else []), *table.columns]:
        row = table.shown.get(column.benchmark)
        charts = row.charts if row else {}
        where = main
        if charts.get("title"):
            where = own.setdefault(charts["title"], Section(charts["title"], charts["text"]))
        where.charts.append(_budget_chart(table, column))
    return [main, *own.values(), _kinds(table, kinds)]


def _budget_chart(table: Table, column: Column) -> Chart:
    def point(i: int, line: Line) -> Point | None:
        cell = table.cell(line, column)
        return None if cell.value is None else Point(i, kept(line), cell.value, cell.spread)

    beside = [
        f"{line.label} {table.cell(line, column).text(column.digits)}"
        for line in table.lines
        if line is not table.vanilla
        and not is_pruned(table, line)
        and table.cell(line, column).value is not None
    ]
    base = 100.0 if column is AVERAGE else table.base(column)
    return Chart(
        column.heading,
        "visual tokens kept",
        column.title,
        _series(table, point),
        note=", ".join(beside),
        base=base,
        ticks=_budgets(table),
        log=True,
        digits=column.digits,
    )


def _budgets(table: Table) -> list[float]:
    return sorted({float(line.budget) for line in table.lines if line.budget < table.full})


def _series(table: Table, point: Callable[[int, Line], Point | None]) -> list[list[Point]]:
    """The pruned lines of one label, by x."""
    found: dict[str, list[Point]] = {}
    for i, line in enumerate(table.lines):
        made = point(i, line) if is_pruned(table, line) else None
        if made is not None:
            found.setdefault(line.label, []).append(made)
    return [sorted(points, key=lambda p: p.x) for points in found.values()]


def _kinds(table: Table, kinds: Sequence[KindScores]) -> Section:
    drawn = [
        value
        for scores in kinds
        for line, value in zip(table.lines, scores.values)
        if value is not None and is_pruned(table, line)
    ]
    low, high = min([100.0, *drawn]), max([100.0, *drawn])
    pad = 0.09 * ((high - low) or 1.0)
    charts = []
    for scores in kinds:

        def point(i: int, line: Line, scores: KindScores = scores) -> Point | None:
            value = scores.values[i]
            words = f"{scores.kind}: % of vanilla on the same images"
            return None if value is None else Point(i, kept(line), value, words=words)

        charts.append(
            Chart(
                scores.kind,
                "visual tokens kept",
                "percent of vanilla",
                _series(table, point),
                note=f"{scores.units} scores",
                base=100.0,
                ticks=_budgets(table),
                log=True,
                range=(low - pad, high + pad),
            )
        )
    text = "Relative average on the images of one kind, from scores per document."
    return Section("Simple and complex images", text, charts)


# --- what a number costs ---


@dataclass(frozen=True)
class Cost:
    """Something to pay for an answer: its title, note, and a line's price."""

    title: str
    note: str
    axis: str
    price: Callable[[Line], float | None]


def pareto_sections(table: Table) -> list[Section]:
    """Accuracy, and each metric of hallucination, over every cost; hallucination against recall."""
    columns = [AVERAGE] if table.averaged and table.vanilla else list(table.averaged)
    accuracy = Section(
        "What accuracy costs",
        "Average: 100 × mean over the benchmarks of value / vanilla value. The line joins the "
        "Pareto front: points that no other beats on both axes. FLOPs = 2 × multiply-accumulates; "
        "no method that prunes behind the vision tower can go below the tower.",
        [_cost_chart(table, column, cost) for column in columns for cost in _costs(table)],
    )
    apart = [c for c in table.columns if table.shown[c.benchmark].charts and c.better < 0]
    hallucination = Section(
        "Hallucination: against what is found, and what it costs",
        "Lower is better for hallucination, higher for recall: who says less hallucinates less. "
        "The line joins the Pareto front.",
        [
            *(c for column in apart for c in _against_recall(table, column)),
            *(_cost_chart(table, column, cost) for column in apart for cost in _costs(table)),
        ],
    )
    return [
        Section(one.title, one.text, [c for c in one.charts if c.series])
        for one in (accuracy, hallucination)
    ]


def _costs(table: Table) -> list[Cost]:
    largest = max((line.audit("flops", "total") or 0.0 for line in table.lines), default=0.0)
    unit, letter = (1e12, "T") if largest >= 1e12 else (1e9, "G")

    def flops(name: str) -> Callable[[Line], float | None]:
        def price(line: Line) -> float | None:
            found = line.audit("flops", name)
            return found / unit if found else None

        return price

    axis = f"{letter}FLOPs per document"
    return [
        Cost("all FLOPs", "vision, projector, selection, prefill, decode", axis, flops("total")),
        Cost("prefill FLOPs", "of the language model", axis, flops("prefill")),
        Cost(
            "measured time",
            "selection and generation, a share of batches that hold several lines; the vision "
            "tower runs once for all and is not in it",
            "ms per answer",
            milliseconds,
        ),
    ]


def milliseconds(line: Line) -> float | None:
    """Selection and generation per answer, over the line's rows that measured them."""
    rows = [row for rows in line.rows.values() for row in rows if row.status == "done" and row.n]
    timed = [row for row in rows if row.seconds.get("generate")]
    spent = sum(row.seconds.get("select", 0.0) + row.seconds["generate"] for row in timed)
    return 1000 * spent / sum(row.n for row in timed) if timed else None


def _cost_chart(table: Table, column: Column, cost: Cost) -> Chart:
    base_price = cost.price(table.vanilla) if table.vanilla else None

    def point(i: int, line: Line) -> Point | None:
        cell, price = table.cell(line, column), cost.price(line)
        if cell.value is None or price is None:
            return None
        share = f", {100 * price / base_price:.1f} % of vanilla" if base_price else ""
        return Point(i, price, cell.value, cell.spread, f"{price:.4g} {cost.axis}{share}")

    return Chart(
        f"{column.heading} over {cost.title}",
        cost.axis,
        column.title,
        with_front(_every_line(table, point), -1, column.better),
        note=cost.note,
        wide=True,
        digits=column.digits,
        front=True,
    )


def _against_recall(table: Table, column: Column) -> list[Chart]:
    """A column where lower is better over the one of its benchmark where higher is."""
    beside = next(
        (c for c in table.columns if c.benchmark == column.benchmark and c.better > 0), None
    )
    if beside is None:
        return []

    def point(i: int, line: Line) -> Point | None:
        x, y = table.cell(line, beside), table.cell(line, column)
        if x.value is None or y.value is None:
            return None
        words = f"{beside.title}: {x.text(beside.digits)}"
        return Point(i, x.value, y.value, y.spread, words)

    title = f"{column.heading} against {beside.heading}"
    series = with_front(_every_line(table, point), 1, -1)
    return [
        Chart(
            title, beside.title, column.title, series, wide=True, digits=column.digits, front=True
        )
    ]


def _every_line(table: Table, point: Callable[[int, Line], Point | None]) -> list[list[Point]]:
    """As ``_series``, with vanilla as a series of its own: it is a choice too."""
    found = _series(table, point)
    if table.vanilla is not None:
        made = point(table.lines.index(table.vanilla), table.vanilla)
        found += [[made]] if made else []
    return found


def with_front(series: list[list[Point]], better_x: int, better_y: int) -> list[list[Point]]:
    """The same points, those of the Pareto front marked.

    Args:
        series: the points.
        better_x: 1 where a higher x is better, -1 where a lower one is.
        better_y: the same for y.
    """
    every = [(better_x * p.x, better_y * p.y) for points in series for p in points]

    def beaten(x: float, y: float) -> bool:
        return any(a >= x and b >= y and (a, b) != (x, y) for a, b in every)

    return [
        [
            Point(
                *(p.line, p.x, p.y, p.spread, p.words),
                front=not beaten(better_x * p.x, better_y * p.y),
            )
            for p in points
        ]
        for points in series
    ]

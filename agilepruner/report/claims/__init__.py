"""What the paper says, and what is doubted of it, held against what was measured.

A claim is one file here: a class with the statement, its source, the cells that it needs, and a
method that yields its parts, each a difference that the statement gives a sign to. Files are found,
not listed. Nothing here loads a model.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pandas as pd

from agilepruner.report import published
from agilepruner.report.contrasts import FEWEST, of_images
from agilepruner.report.estimates import Estimate, judge
from agilepruner.report.lines import AVERAGE, VANILLA, Column, Line, Table, relative_average
from agilepruner.report.statistics import MARGINS, Samples
from agilepruner.runner.rows import Row

AGREES, DISAGREES, NO_DIFFERENCE, CANNOT_TELL = WORDS = (
    "agrees",
    "disagrees",
    "no difference",
    "cannot tell",
)
NOT_MEASURED = "not measured"
PAPER, DOUBT = "paper", "doubt"
ERANK_MARGIN = 0.5  # of an effective rank (our choice)
BUDGETS = (64,)  # asked for where a run has none
BENCHMARKS = ("gqa", "scienceqa_img", "pope", "mme")  # the paper's, where it needs only a few
PRINTED = "llava_1_5_7b"  # whose published numbers stand beside models that have none


@dataclass(frozen=True)
class Part:
    """One difference that a claim says something of.

    Attributes:
        what: first minus second, in words, with the number it is of.
        budget: visual tokens kept.
        says: 1 when the claim says that it is above zero, -1 below, 0 no difference.
        estimate: the difference and its error, in ``unit``.
        margin: within which it does not matter.
        units, images: scores compared, and images among them.
        published: the same difference in the paper; None where it printed none.
        cells: strategies compared and the benchmark, for the CSV.
    """

    what: str
    budget: int
    says: int
    estimate: Estimate
    margin: float
    units: int
    images: int
    unit: str = "points"
    published: float | None = None
    strategy: str = ""
    against: str = ""
    benchmark: str = ""


class Measured:
    """What a table and its journals give to claims.

    Args:
        table: one model, suite and protocol.
        read: rows -> a line per document (``report.frames.documents_frame``); called only by claims
            that need documents.
        place: ``name=...`` of the run, for commands that add to it.
    """

    def __init__(
        self, table: Table, read: Callable[[Sequence[Row]], pd.DataFrame], place: str = ""
    ) -> None:
        self.table, self.samples, self._read, self.place = table, Samples(table), read, place

    @property
    def budgets(self) -> list[int]:
        """Budgets of the pruned lines, largest first."""
        found = {line.budget for line in self.table.lines if line.budget < self.table.full}
        return sorted(found, reverse=True)  # lines that choose their own number have none

    def lines(self, strategy: str, budget: int) -> list[Line]:
        """The lines of a strategy at a budget, one per set of hyper-parameters."""
        return [
            line
            for line in self.table.lines
            if (line.strategy, line.budget) == (strategy, budget) and line is not self.table.vanilla
        ]

    def columns(self, benchmark: str) -> list[Column]:
        """The columns of a benchmark; empty where it was not measured."""
        return [column for column in self.table.columns if column.benchmark == benchmark]

    def compare(self, line: Line, other: Line, column: Column, says: int) -> Iterator[Part]:
        """Line minus other in a column: one part, or none where it cannot be had.

        Args:
            line: of the table.
            other: another one, or vanilla.
            column: of the table, or ``AVERAGE``.
            says: sign of the difference of the printed numbers.
        """
        estimate = self.samples.estimate(line, other, column)
        if estimate is None:
            return
        average = column is AVERAGE
        yield Part(
            f"{line.label} − {other.label}, {column.title}",
            line.budget,
            says,
            estimate,
            MARGINS.average if average else MARGINS.benchmark / 100 * self.samples.scale(column),
            *self.samples.counts(column),
            unit="points" if column.better else "tokens",  # a length has no better
            published=self._printed(line, other, column),
            strategy=line.strategy,
            against=other.strategy,
            benchmark=column.benchmark,
        )

    def documents(self, strategies: Iterable[str], benchmarks: Iterable[str] = ()) -> pd.DataFrame:
        """The documents of some strategies, and of all or some benchmarks.

        Returns:
            as ``report.frames.documents_frame`` with complexity; empty where nothing was measured.
        """
        names, wanted = set(strategies), set(benchmarks)
        rows = [row for row in self.table.rows if row.strategy in names]
        return self.documents_of(row for row in rows if not wanted or row.benchmark in wanted)

    def documents_of(self, rows: Iterable[Row]) -> pd.DataFrame:
        """The documents of some rows of the table."""
        return self._read(list(rows))

    def compare_erank(
        self, line: Line, other: Line, says: int, benchmarks: Sequence[str] = ()
    ) -> Iterator[Part]:
        """Erank of what a line keeps minus what another does, paired by image: a part, or none."""
        frames = [
            self.documents_of(
                row
                for name, rows in one.rows.items()
                for row in rows
                if not benchmarks or name in benchmarks
            )
            for one in (line, other)
        ]
        means = [frame.groupby("image")["erank_kept"].mean() for frame in frames]
        gap = (means[0] - means[1]).dropna()
        if len(gap) < FEWEST:
            return
        shared = set(line.rows) & set(other.rows)
        yield Part(
            f"{line.label} − {other.label}, erank of the kept tokens",
            line.budget,
            says,
            of_images(gap),
            ERANK_MARGIN,
            len(gap),
            len(gap),
            "effective rank",
            strategy=line.strategy,
            against=other.strategy,
            benchmark="+".join(name for name in line.rows if name in shared),
        )

    def _printed(self, line: Line, other: Line, column: Column) -> float | None:
        """The published difference, where the paper prints both numbers."""
        known = published.reference(self.table.model) or published.reference(PRINTED)
        if known is None:
            return None

        def cells(one: Line) -> dict[tuple[str, str], float | None]:
            budget = known.budget(one, self.table.full)
            if budget is None:
                return {}
            found = {key: known.cell(one.strategy, budget, *key) for key in known.columns}
            return {key: cell.value for key, cell in found.items() if cell is not None}

        own, their = cells(line), cells(other)
        if column is AVERAGE:
            base = {k: v for k, v in _vanilla(known).items() if k in own and k in their}
            numbers = relative_average(own, base), relative_average(their, base)
        else:
            metric = self._metric(column)
            numbers = own.get((column.benchmark, metric)), their.get((column.benchmark, metric))
        first, second = numbers
        return None if first is None or second is None else first - second

    def _metric(self, column: Column) -> str:
        """The published metric that a column prints; empty where it is none."""
        for name, keys in self.table.shown[column.benchmark].published.items():
            if keys == ([column.metric] if column.metric else None):
                return name
        return ""


def _vanilla(known: published.Reference) -> dict[tuple[str, str], float | None]:
    """The published full-token numbers that averages are relative to."""
    found = {
        (benchmark, metric): known.cell(VANILLA, known.full, benchmark, metric)
        for benchmark, metric in known.columns
        if benchmark != "chair"
    }
    return {key: cell.value for key, cell in found.items() if cell is not None}


class Claim(ABC):
    """A statement that cells can be held against.

    Attributes:
        says: the statement, one sentence.
        source: who says it, and where.
        kind: ``PAPER`` or ``DOUBT``.
        strategies, benchmarks: the cells that it needs; no benchmarks: those of the Average, and
            the paper's four where a run has none.
        overrides: more of the command that measures them, e.g. values of a hyper-parameter.
    """

    says: ClassVar[str]
    source: ClassVar[str]
    kind: ClassVar[str] = PAPER
    strategies: ClassVar[tuple[str, ...]]
    benchmarks: ClassVar[tuple[str, ...]] = ()
    overrides: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def parts(self, measured: Measured) -> Iterator[Part]:
        """The differences that it gives a sign to; none where they were not measured."""

    def command(self, measured: Measured) -> str:
        """Measures all its cells, for this table; what is done is not run again."""
        benchmarks, budgets = self._cells(measured)
        words = ["agilepruner", *_about(measured.table)]
        if self.strategies:
            words.append(f"strategy={_listed(self.strategies)}")
        words += [f"benchmark={_listed(benchmarks)}", f"budget={_listed(budgets)}"]
        return " ".join([*words, *self.overrides, measured.place]).rstrip()

    def complete(self, measured: Measured) -> bool:
        """Whether all its cells are there, whatever their hyper-parameters."""
        table, (benchmarks, budgets) = measured.table, self._cells(measured)
        done = {
            (line.strategy, line.budget, name)
            for line in table.lines
            for name, rows in line.rows.items()
            if all(row.status == "done" for row in rows)
        }
        pruned = [name for name in self.strategies if name != VANILLA]
        needed = {
            (one, budget, name) for one in pruned for budget in budgets for name in benchmarks
        }
        needed |= {(VANILLA, table.full, name) for name in benchmarks}
        return needed <= done

    def _cells(self, measured: Measured) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The benchmarks and budgets that it needs."""
        averaged = tuple(dict.fromkeys(column.benchmark for column in measured.table.averaged))
        return self.benchmarks or averaged or BENCHMARKS, tuple(measured.budgets) or BUDGETS


def _listed(values: Iterable[object]) -> str:
    return f"[{','.join(map(str, values))}]"


def _about(table: Table) -> Iterator[str]:
    """What of a command says which table its cells are for, where it is no default."""
    limits = [limit for row in table.rows if (limit := row.identity.get("limit")) is not None]
    yield from [f"model={table.model}"] if table.model != "demo" else []
    if table.suite not in ("embedded", "hub"):
        yield "suite=local suite.directory=DIRECTORY"
    elif table.suite != "embedded":
        yield f"suite={table.suite}"
    yield from [f"protocol={table.protocol}"] if table.protocol != "lmms" else []
    yield from [f"limit={min(limits)}"] if limits else []


@cache
def claims() -> tuple[Claim, ...]:
    """Every claim: the paper's, then doubts, by name."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        own = [one for one in vars(loaded).values() if _is_claim(one, loaded.__name__)]
        found += [one() for one in own]
    return tuple(sorted(found, key=lambda claim: (claim.kind != PAPER, claim.name)))


def _is_claim(one: object, module: str) -> bool:
    return isinstance(one, type) and issubclass(one, Claim) and one.__module__ == module


@dataclass(frozen=True)
class Finding:
    """A part of a claim, judged.

    Attributes:
        verdict: one of ``WORDS``. p: of no difference, after Holm's correction over the claim.
        smallest: the smallest true difference that this n shows with 80 % power.
    """

    part: Part
    verdict: str
    p: float
    smallest: float


@dataclass(frozen=True)
class Judged:
    """A claim held against a table.

    Attributes:
        verdict: one of ``WORDS``, or ``NOT_MEASURED``.
        findings: its parts, judged.
        command: measures what is missing; empty when nothing is.
    """

    claim: Claim
    table: Table
    verdict: str
    findings: list[Finding]
    command: str


def hold(claim: Claim, measured: Measured) -> Judged:
    """Hold a claim against what was measured."""
    parts = list(claim.parts(measured))
    estimates = [part.estimate for part in parts]
    found = judge(estimates, [part.margin for part in parts], [part.says or 1 for part in parts])
    findings = [
        Finding(part, _word(verdict, part.says), p, part.estimate.smallest(0.05 / len(parts)))
        for part, (verdict, p) in zip(parts, found)
    ]
    words = [finding.verdict for finding in findings]
    command = "" if parts and claim.complete(measured) else claim.command(measured)
    return Judged(claim, measured.table, overall(words), findings, command)


def _word(verdict: str, says: int) -> str:
    """A verdict on a difference as one on what the claim says of it."""
    if verdict == "cannot tell":
        return CANNOT_TELL
    if says == 0:
        return AGREES if verdict == "equivalent" else DISAGREES
    return {"better": AGREES, "worse": DISAGREES, "equivalent": NO_DIFFERENCE}[verdict]


def overall(words: Sequence[str]) -> str:
    """The word on a claim, which says something of each of its parts.

    One part that disagrees, or shows that there is no difference, decides; it agrees only where
    all parts do.
    """
    if not words:
        return NOT_MEASURED
    for word in (DISAGREES, NO_DIFFERENCE):
        if word in words:
            return word
    return AGREES if set(words) == {AGREES} else CANNOT_TELL

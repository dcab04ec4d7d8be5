"""What means hide: answers that change against the unpruned model, and in which direction.

An average that stays where it was may be as many answers made wrong as made right ("Accuracy is Not
All You Need", arXiv 2407.09141, calls them flips). Everything here is read from rows: a score and a
fingerprint of the answers per unit (a document; a pair of MME, a rotated question of MMBench).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
import pandas as pd

from agilepruner.report.contrasts import estimate
from agilepruner.report.estimates import Estimate, average_of, leave_one_out, mean_of_seeds
from agilepruner.report.frames import CELL, identity_of
from agilepruner.report.lines import Aggregate, Line, Table, build_tables, seed_of
from agilepruner.runner.rows import Row

RIGHT = 0.5  # our choice: a unit with half of its points counts as right (VQA scores have thirds)
FEWEST = 30  # units of a hard subset that its accuracy needs to be shown
GRID = "uniform"  # what a hard unit is too hard for
UNIT = ("document", "image", "vanilla_score", "score")
CHANGES = ("right_to_wrong", "wrong_to_right", "same_answer", "hard")
MEAN, SHARE = Aggregate(), Aggregate("ratio")


@dataclass(frozen=True)
class Units:
    """One cell beside vanilla's of the same benchmark, unit by unit.

    Attributes:
        row, vanilla: the cells. grid: the uniform grid's at the same budget, if there is one.
    """

    row: Row
    vanilla: Row
    grid: Row | None = None

    @cached_property
    def right(self) -> np.ndarray:
        """(U,) whether each unit is right."""
        return np.array(self.row.scores) >= RIGHT

    @cached_property
    def was_right(self) -> np.ndarray:
        """(U,) whether vanilla had it right."""
        return np.array(self.vanilla.scores) >= RIGHT

    @property
    def right_to_wrong(self) -> np.ndarray:
        """(U,) units that pruning costs."""
        return self.was_right & ~self.right

    @property
    def wrong_to_right(self) -> np.ndarray:
        """(U,) units that pruning wins."""
        return ~self.was_right & self.right

    @property
    def same_answer(self) -> np.ndarray | None:
        """(U,) units answered as vanilla does (loyalty); None where a row has no fingerprints."""
        own, theirs = self.row.answers, self.vanilla.answers
        return None if own is None or theirs is None else np.array(own) == np.array(theirs)

    @property
    def hard(self) -> np.ndarray | None:
        """(U,) units that vanilla has right and the uniform grid wrong."""
        if self.grid is None or not _alike(self.grid, self.vanilla):
            return None
        return self.was_right & (np.array(self.grid.scores) < RIGHT)


def units_of(row: Row, vanilla: Row | None, grid: Row | None = None) -> Units | None:
    """A cell beside vanilla; None where they did not answer the same units."""
    if vanilla is None or row is vanilla or not _alike(row, vanilla):
        return None
    return Units(row, vanilla, grid)


def _alike(row: Row, other: Row) -> bool:
    """Whether two finished cells have scores of the same units."""
    done = row.status == other.status == "done" and bool(row.scores) and bool(other.scores)
    return done and row.clusters == other.clusters and row.documents == other.documents


@dataclass(frozen=True)
class Share:
    """How many units something is true of, in percent.

    Attributes:
        estimate: with the error of the images drawn; of a mean over seeds that of seeds too.
        n: units that it is a share of.
    """

    estimate: Estimate
    n: int

    @property
    def percent(self) -> float:
        """The share."""
        return self.estimate.point

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        low, high = self.estimate.interval()
        return max(low, 0.0), min(high, 100.0)

    def text(self, digits: int = 1) -> str:
        """``4.8 [3.9, 5.7]``."""
        low, high = self.interval
        return f"{self.percent:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def shares(seeds: Sequence[Units]) -> dict[str, Share]:
    """The shares of ``CHANGES`` in one cell, or over the seeds of a line; none that is not known.

    ``hard`` is the accuracy on the hard units, and only there with ``FEWEST`` of them.
    """
    found: dict[str, Share] = {}
    for name in CHANGES[:3]:
        true = [getattr(units, name) for units in seeds]
        if all(one is not None for one in true):
            _add(found, name, seeds, MEAN, [[one] for one in true], len(true[0]))
    hard = seeds[0].hard
    if hard is not None and hard.sum() >= FEWEST:
        parts = [[units.right & hard, hard] for units in seeds]
        _add(found, "hard", seeds, SHARE, parts, int(hard.sum()))
    return found


def _add(
    found: dict[str, Share],
    name: str,
    seeds: Sequence[Units],
    rule: Aggregate,
    parts: Sequence[Sequence[np.ndarray]],
    n: int,
) -> None:
    """A share and its error by leaving out images, where there is something to divide by."""
    _, members = np.unique(np.asarray(seeds[0].row.clusters), return_inverse=True)
    strata = np.zeros_like(members)
    number = mean_of_seeds(
        {
            seed_of(units.row): leave_one_out(rule, np.array(one, float), members, strata)
            for units, one in zip(seeds, parts)
        }
    )
    share = Share(estimate(number), n)
    if isfinite(share.estimate.error):
        found[name] = share


class Flips:
    """Every line of a table beside vanilla, computed once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._units: dict[tuple[int, str], list[Units]] = {}
        for group in table.groups:
            grid = next((line for line in group.lines if line.strategy == GRID), None)
            for line in group.lines:
                self._pair(line, grid)
        for line in table.again:
            self._pair(line, None)

    def _pair(self, line: Line, grid: Line | None) -> None:
        for benchmark, rows in line.rows.items():
            vanilla = _first(self.table.vanilla, benchmark)
            found = [units_of(row, vanilla, _first(grid, benchmark)) for row in rows]
            known = [units for units in found if units is not None]
            if known and len(known) == len(rows):
                self._units[id(line), benchmark] = known

    @property
    def benchmarks(self) -> list[str]:
        """Those of the Average; all where there is none."""
        return [c.benchmark for c in self.table.averaged] or list(self.table.shown)

    def units(self, line: Line, benchmark: str) -> list[Units]:
        """A line's cells of a benchmark, one per seed; empty where they cannot be compared."""
        return self._units.get((id(line), benchmark), [])

    def of_cell(self, line: Line, benchmark: str) -> dict[str, Share]:
        """Shares of a line on one benchmark, its seeds together."""
        units = self.units(line, benchmark)
        return shares(units) if units else {}

    def of_line(self, line: Line) -> dict[str, Share]:
        """Means over the benchmarks of the Average, each with the same weight.

        The hard units of all benchmarks are one set: most have few. Empty where the line lacks a
        benchmark, since means over others could not be compared.
        """
        every = [self.units(line, name) for name in self.benchmarks]
        if not every or not all(every):
            return {}
        each = [shares(units) for units in every]
        found = {}
        for name in CHANGES[:3]:
            if all(name in one for one in each):
                mean = average_of([one[name].estimate for one in each])
                found[name] = Share(mean, sum(one[name].n for one in each))
        hard = self._hard(every)
        return found | ({"hard": hard} if hard else {})

    def _hard(self, every: Sequence[Sequence[Units]]) -> Share | None:
        """Accuracy on the hard units of several benchmarks."""
        if any(units[0].hard is None for units in every):
            return None
        hard = np.concatenate([units[0].hard for units in every])  # type: ignore[arg-type]
        if hard.sum() < FEWEST:
            return None
        clusters = [
            f"{units[0].row.benchmark} {image}"
            for units in every
            for image in units[0].row.clusters or []
        ]
        _, members = np.unique(np.asarray(clusters), return_inverse=True)
        by_seed = {}
        for number in range(min(len(units) for units in every)):
            right = np.concatenate([units[number].right for units in every])
            parts = np.array([right & hard, hard], float)
            seed = seed_of(every[0][number].row)
            by_seed[seed] = leave_one_out(SHARE, parts, members, np.zeros_like(members))
        share = Share(estimate(mean_of_seeds(by_seed)), int(hard.sum()))
        return share if isfinite(share.estimate.error) else None


def _first(line: Line | None, benchmark: str) -> Row | None:
    return next(iter(line.rows.get(benchmark, [])), None) if line else None


def cell_numbers(tables: Iterable[Table]) -> dict[str, dict[str, float]]:
    """Cell -> the shares of its own answers, for CSV and W&B.

    Each of ``CHANGES`` in percent, with ``_low``, ``_high`` and ``_n``; what is not known is left
    out.
    """
    found: dict[str, dict[str, float]] = {}
    for table in tables:
        flips = Flips(table)
        for line in table.lines:
            for benchmark in line.rows:
                for units in flips.units(line, benchmark):
                    found[units.row.id] = _numbers(shares([units]))
    return found


def _numbers(known: Mapping[str, Share]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, share in known.items():
        low, high = share.interval
        numbers |= {name: share.percent, f"{name}_low": low, f"{name}_high": high}
        numbers[f"{name}_n"] = share.n
    return numbers


def changes_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per pruned cell and unit: what became of vanilla's answer.

    Args:
        rows: finished cells, vanilla's among them; failed ones are left out.

    Returns:
        columns ``frames.CELL``, ``UNIT`` and ``CHANGES``: the last are True, False, or None where
        it is not known (a row without fingerprints; a budget without the uniform grid).
    """
    frames = []
    for table in build_tables(rows):
        flips = Flips(table)
        for line in table.lines:
            for benchmark in line.rows:
                frames += [_frame(units) for units in flips.units(line, benchmark)]
    columns = [*CELL, *UNIT, *CHANGES]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _frame(units: Units) -> pd.DataFrame:
    row = units.row
    count = len(row.scores or [])
    documents = row.documents if row.documents is not None else list(range(count))
    unit = (documents, row.clusters, units.vanilla.scores, row.scores)
    changed = {name: getattr(units, name) for name in CHANGES}
    data = {**identity_of(row), **dict(zip(UNIT, unit)), **changed}
    return pd.DataFrame(data, index=range(count))

"""Rows of several runs in one table: which can stand beside each other, and where they are from.

Runs may be of other machines: copy their folders together. What decides is in every row: the model
as loaded, the documents, what was asked, the limit. Rows that differ in one of these are left out,
each with its reason; rows that differ only in code or libraries stand together, and it is said.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agilepruner.report.sheets import Sheet
from agilepruner.runner.rows import Row

log = logging.getLogger(__name__)

MODEL = {
    "files": "weights",
    "max_new_tokens": "new tokens",
}  # where a key of identity says it worse
ASKED = ("protocol", "unit", "strata", "task")  # of identity: what was asked of the documents
ENVIRONMENT = ("agilepruner", "python", "torch", "transformers", "lmms-eval", "hardware", "dtype")


@dataclass(frozen=True)
class LeftOut:
    """A row that stands in no table, and why."""

    run: str
    row: Row
    reason: str


@dataclass(frozen=True)
class Joined:
    """Rows that can stand in tables.

    Attributes:
        rows: as runs had them. origin: id of a row -> its run. left_out: the others.
    """

    rows: list[Row]
    origin: dict[str, str]
    left_out: list[LeftOut]

    @property
    def sheets(self) -> list[Sheet]:
        """Where the rows are from; which were left out."""
        return [sheet for sheet in (origins(self), left_out_sheet(self)) if sheet is not None]


def join(runs: Mapping[str, Sequence[Row]]) -> Joined:
    """Join runs.

    The newest row of the first run that has a table says what its rows must have in common. Of two
    rows of one cell the finished one is shown, then the first run's, then the newest.

    Args:
        runs: name -> its rows, the oldest first.
    """
    known = [(run, row) for run, rows in runs.items() for row in reversed(rows)]
    standards: dict[tuple[str, ...], Row] = {}
    asked: dict[tuple[str, ...], Row] = {}
    shown: dict[tuple[Any, ...], tuple[str, Row]] = {}
    left_out = []
    for run, row in sorted(known, key=lambda each: each[1].status != "done"):
        standard = standards.setdefault(table_of(row), row)
        reason = other_model(row, standard)
        if not reason:
            reason = other_documents(row, asked.setdefault((*table_of(row), row.benchmark), row))
        cell = (*table_of(row), *line_of(row), row.benchmark)
        if not reason and cell in shown:
            reason = same_cell(row, *shown[cell])
        if reason:
            left_out.append(LeftOut(run, row, reason))
        else:
            shown[cell] = run, row
    chosen = {id(row): run for run, row in shown.values()}
    rows = [row for run in runs.values() for row in run if id(row) in chosen]
    return Joined(rows, {row.id: chosen[id(row)] for row in rows}, left_out)


def table_of(row: Row) -> tuple[str, str, str]:
    """Which table a row stands in: rows of one model, suite and protocol."""
    return row.model, row.suite, row.protocol


def line_of(row: Row) -> tuple[Any, ...]:
    """Which line of its table a row stands in."""
    return row.strategy, str(sorted(row.parameters.items())), row.budget, row.positions


def other_model(row: Row, standard: Row) -> str:
    """Why a row is of another model or size than the table's; empty where it is not."""
    own, their = (one.identity.get("model") or {} for one in (row, standard))
    differing = [_differs(MODEL.get(key, key), own.get(key), their.get(key)) for key in
                 sorted(own.keys() | their.keys()) if own.get(key) != their.get(key)]  # fmt: skip
    own, their = (one.identity.get("limit") for one in (row, standard))
    if own != their:
        differing.append(_differs("limit", own, their))
    return ", ".join(differing)


def other_documents(row: Row, standard: Row) -> str:
    """Why a row's documents or questions are others than the column's; empty where not."""
    own, their = row.identity, standard.identity
    known = own.get("documents"), their.get("documents")  # None: they could not be had
    if None not in known and known[0] != known[1]:
        return "other documents, or another revision of them"
    keys = [key for key in ASKED if own.get(key) != their.get(key)]
    return f"asked or scored otherwise ({', '.join(keys)})" if keys else ""


def same_cell(row: Row, run: str, shown: Row) -> str:
    """Why the second row of a cell is left out."""
    place = f" in {run}" if run else ""
    if row.status != "done" and shown.status == "done":
        return f"failed; the cell is done{place}"
    if row.id == shown.id:
        numbers = (one.value for one in (row, shown))
        if row.value == shown.value:
            return f"the same cell is{place or ' there'}"
        first, second = (f"{number:g}" if number is not None else "–" for number in numbers)
        return f"the same cell is{place or ' there'} with another value: {second}, here {first}"
    own, their = row.identity.get("versions") or {}, shown.identity.get("versions") or {}
    what = [_differs(name, own.get(name), their.get(name)) for name in
            sorted(own.keys() | their.keys()) if own.get(name) != their.get(name)]  # fmt: skip
    if row.identity.get("code") != shown.identity.get("code"):
        what.append("other code")
    return f"answered once more{place} ({', '.join(what) or 'other settings'}), which is shown"


def _differs(name: str, own: Any, their: Any) -> str:
    def said(value: Any) -> str:
        return "none" if value is None else str(value)

    return f"{name} {said(own)}, the table's {said(their)}"


def origins(joined: Joined) -> Sheet | None:
    """A line per run and set of versions."""
    groups: Counter[tuple[str, ...]] = Counter()
    for row in joined.rows:
        weights = str((row.identity.get("model") or {}).get("files", ""))
        versions = [str(row.environment.get(name, "")) for name in ENVIRONMENT]
        groups[row.model, joined.origin[row.id], weights[:12], *versions] += 1
    if not groups:
        return None
    lines: dict[str, list[list[str]]] = defaultdict(list)
    for (model, run, *rest), count in groups.items():
        lines[model].append([run or "this run", str(count), *(text or "–" for text in rest)])
    notes = ["weights: hash of the checkpoint as loaded. All else is as the rows say."]
    notes += _data(joined.rows)
    notes += [f"{what}." for what in _mixed_code(joined.rows)]
    head = ["Rows of", "cells", "weights", *ENVIRONMENT]
    return Sheet("Where the rows are from", head, list(lines.items()), notes)


def _data(rows: Iterable[Row]) -> Iterator[str]:
    """The bytes behind each column: commit of a data set of the hub, hash of a file."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        documents = row.identity.get("documents") or {}
        parts = [f"{repo}@{commit[:12]}" for repo, commit, *_ in documents.get("hub", ())]
        parts += [f"file {documents['file'][:12]}"] if "file" in documents else []
        found[row.benchmark_label] |= dict.fromkeys(parts)
    said = [f"{label} {' and '.join(parts)}" for label, parts in found.items() if parts]
    if said:
        yield f"Data: {', '.join(said)}."


def _mixed_code(rows: Iterable[Row]) -> Iterator[str]:
    """Lines whose cells of one benchmark were answered by several versions of the code."""
    digests: dict[tuple[str, str], set[str]] = defaultdict(set)
    revisions: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        digests[row.strategy, row.benchmark].add(str(row.identity.get("code")))
        if revision := row.environment.get("revision"):
            revisions[row.model].add(str(revision))
    mixed = defaultdict(list)
    for (strategy, benchmark), found in digests.items():
        if len(found) > 1:
            mixed[strategy].append(benchmark)
    for strategy, benchmarks in mixed.items():
        yield f"{strategy} was answered by several versions of the code: {', '.join(benchmarks)}"
    for model, found in revisions.items():
        yield f"{model}: revision {', '.join(sorted(found))}"


def left_out_sheet(joined: Joined) -> Sheet | None:
    """A line per row that was left out, with its reason; None where none was."""
    if not joined.left_out:
        return None
    sections: dict[str, list[list[str]]] = defaultdict(list)
    for one in joined.left_out:
        row = one.row
        what = f"{row.label}, {row.budget} tokens, {row.benchmark_label} ({row.model})"
        sections[one.run or "this run"].append([what, one.reason])
    head = ["Row", "why it is in no table"]
    return Sheet("Rows left out", head, list(sections.items()), [])


def warn(joined: Joined) -> None:
    """Say on stderr how many rows were left out, by reason."""
    counts = Counter(one.reason for one in joined.left_out)
    for reason, count in counts.items():
        log.warning("%d row%s left out: %s", count, "" if count == 1 else "s", reason)

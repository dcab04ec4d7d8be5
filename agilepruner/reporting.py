"""Rows to a printed and written report: what runs, sweeps and the commands on disk share."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError

log = logging.getLogger(__name__)

SETTINGS = ("results", "reference", "documents")  # of commands that write a report


def report(
    rows: list[Any],
    directory: Path,
    name: str,
    reference: str | None = None,
    runs: Sequence[Path] = (),
    documents: int | str | None = None,
    sources: Sequence[Any] = (),
) -> list[str]:
    """Print and write a report; what could not be written.

    Args:
        rows: cells to show.
        directory: where the files go.
        name: title.
        reference: strategy that the others are held against.
        runs: directories that the rows are from; none: ``directory``.
        documents: how many the page shows, or ``all``; None: a sample.
        sources: sheets on where the rows are from.
    """
    from agilepruner.documents import OnDisk
    from agilepruner.report.dashboard.documents import WANTED
    from agilepruner.report.dashboard.findings import findings_in
    from agilepruner.report.kinds import kinds_of
    from agilepruner.report.table import make_report

    places = list(dict.fromkeys([directory, *runs]))
    made = make_report(
        rows,
        name,
        kinds_of(rows),
        reference,
        findings=[finding for place in places for finding in findings_in(place)],
        reader=OnDisk(places),
        sources=sources,
        documents=WANTED if documents is None else documents,
    )
    show(made.text)
    return write(made, directory)


def documents(said: str | None) -> int | str | None:
    """How many documents a page shows, as typed: a number or ``all``; None: not said.

    Raises:
        UserError: it is neither.
    """
    if said is None or said == "all":
        return said
    if not said.isdecimal():
        raise UserError(f"documents={said}, expected a number of documents to show, or all.")
    return int(said)


def write(made: Any, directory: Path) -> list[str]:
    """Write a report's files, one process at a time; what could not be written."""
    from agilepruner.runner.claims import Claims

    try:
        with Claims(directory) as claims:
            claims.take("report", wait=True)
            made.write(directory)
    except (OSError, UserError) as error:
        return [f"The report could not be written to {directory}: {error}."]
    return []


def joined(runs: Sequence[Path]) -> Any:
    """The rows of several runs that can stand in one table; the others are said."""
    from agilepruner.report.join import join, warn
    from agilepruner.runner.stored import rows_in

    found = join({run.name: rows_in(run) for run in runs})
    warn(found)
    return found


def together(rows: list[Any]) -> list[Any]:
    """Of a run's rows, the oldest first, those that can stand in one table; the others are said."""
    from agilepruner.report.join import join, warn

    found = join({"": rows})
    warn(found)
    return found.rows


def show(text: str) -> None:
    """Print a result; a closed or full stdout is said on stderr and costs nothing else."""
    try:
        print(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        log.error("the result could not be printed (%s); it is in the results directory", error)

"""Rows to a printed and written report: what runs, sweeps and the commands on disk share."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError

log = logging.getLogger(__name__)

# Of commands that write a report, as the config of a run has them.
SETTINGS = ("results", "reference", "margins.average", "margins.benchmark", "paper", "documents")
USAGE = "NAME... [results=DIR] [reference=STRATEGY] [margins.average=POINTS] [documents=N|all]"


def settings_of(directories: Sequence[Path], given: Mapping[str, str]) -> Any:
    """What the runs' own reports were asked for, where they agree, and what is asked now.

    Raises:
        UserError: a value means nothing.
    """
    from agilepruner.config import MarginsConfig
    from agilepruner.ranges import conform
    from agilepruner.report.published import check_table
    from agilepruner.report.settings import Settings
    from agilepruner.report.statistics import Margins

    found = {Settings.read(directory) for directory in directories}
    settings = found.pop() if len(found) == 1 else Settings()
    margins: dict[str, Any] = asdict(settings.margins)
    for key in given.keys() & {"margins.average", "margins.benchmark"}:
        name = key.rpartition(".")[2]
        margins[name] = given[key]  # what is no number is refused below
        with suppress(ValueError):
            margins[name] = float(given[key])
    check_table(given.get("paper"))
    return Settings(
        given.get("reference", settings.reference),
        Margins(**conform(MarginsConfig, margins, "margins")),
        given.get("paper", settings.paper),
    )


def place_of(runs: Sequence[Path], given: Mapping[str, str]) -> Path:
    """Where a report of runs goes: asked for otherwise than they were, in a folder of its own.

    Raises:
        UserError: a value means nothing.
    """
    directory = runs[0].parent / "+".join(run.name for run in runs)
    if settings_of(runs, given) == settings_of(runs, {}):
        return directory
    asked = sorted(f"{key}={given[key]}" for key in given.keys() - {"results", "documents"})
    log.info("the report of the run itself stays; this one is in %s", directory / ",".join(asked))
    return directory / ",".join(asked)


def report(
    rows: list[Any],
    directory: Path,
    name: str,
    settings: Any,
    runs: Sequence[Path] = (),
    documents: int | str | None = None,
    sources: Sequence[Any] = (),
    printed: bool = True,
) -> list[str]:
    """Print and write a report; what could not be written.

    Args:
        rows: cells to show.
        directory: where the files go.
        name: title.
        settings: how it judges, see ``report.settings``.
        runs: directories that the rows are from; none: ``directory``.
        documents: how many the page shows, or ``all``; None: a sample.
        sources: sheets on where the rows are from.
        printed: False: files only.
    """
    from agilepruner.documents import OnDisk
    from agilepruner.report.dashboard.documents import WANTED
    from agilepruner.report.dashboard.findings import findings_in
    from agilepruner.report.kinds import kinds_of
    from agilepruner.report.table import make_report
    from agilepruner.runner.stored import repetitions

    places = list(dict.fromkeys([directory, *runs]))
    made = make_report(
        rows,
        name,
        kinds_of(rows),
        settings,
        findings=[finding for place in places for finding in findings_in(place)],
        again=[repeated for place in places for repeated in repetitions(place)],
        reader=None if documents == 0 else OnDisk(places),
        sources=sources,
        documents=WANTED if documents is None else documents,
    )
    if printed:
        show(made.text)
    return write(made, directory)


def refreshed(directory: Path, name: str, settings: Any) -> list[str]:
    """Bring tables and page up to date with all that a run's directory holds; what went wrong."""
    from agilepruner.runner.stored import rows_in

    rows = together(rows_in(directory))
    if settings.reference not in {row.strategy for row in rows}:
        settings = replace(settings, reference=None)
    try:
        return report(rows, directory, name, settings, printed=False) if rows else []
    except UserError as error:
        return [f"The page was not brought up to date: {error}"]


def analysed(planned: Any, rows: list[Any]) -> list[str]:
    """Print an analysis and write its files; what stood in the way."""
    from hydra.utils import get_method

    from agilepruner.documents import OnDisk
    from agilepruner.measures import measured
    from agilepruner.report.analyses import analyse, check_done
    from agilepruner.report.sheets import render_text

    try:
        function = planned.config["analysis"]
        measure = planned.config.get("measure")
        check_done(rows, bool(measure))
        images = measured(planned, get_method(measure)) if measure else None
        finding = analyse(function, rows, planned.directory, images, OnDisk([planned.directory]))
        show(render_text(finding.sheet))
        where = planned.directory / "analyses" / function.rpartition(".")[2]
        finding.write(where)
    except (OSError, UserError) as error:
        return [f"The analysis was not made: {error}"]
    log.info("data, figure and table: %s", where)
    return []


def failures(rows: Sequence[Any], cells: int) -> list[str]:
    """What to say of a run whose rows are not all done; nothing where they are.

    Args:
        rows: of the run.
        cells: how many it has.
    """
    failed = [row for row in rows if row.status != "done"]
    if not failed:
        return []
    named = ", ".join(f"{r.strategy}@{r.budget} on {r.benchmark}" for r in failed[:5])
    return [
        f"{len(failed)} of {cells} cells failed ({named}): {failed[0].error}. Fix the cause and "
        "run the same command again: it retries the documents that failed."
    ]


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


def finished_rows(directory: Path) -> list[Any]:
    """The finished rows of a run that stand in tables.

    Raises:
        UserError: it has none.
    """
    from agilepruner.runner.stored import rows_in

    rows = [row for row in together(rows_in(directory)) if row.status == "done"]
    if not rows:
        raise UserError(f"{directory} has no finished cells.")
    return rows

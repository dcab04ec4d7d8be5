"""Show one document of a run: question, each strategy's answer, a map of the kept patches."""

from pathlib import Path
from typing import Any


def run(words: list[str]) -> int:
    """``agilepruner show NAME benchmark=pope doc=17 [strategy=a,b] [budget=32,64]``."""
    import sys
    from shutil import get_terminal_size

    from agilepruner.commands import one_directory, parsed
    from agilepruner.errors import UserError
    from agilepruner.report.terminal import ASCII, document_text
    from agilepruner.reporting import finished_rows, show

    usage = (
        "agilepruner show NAME benchmark=NAME doc=NUMBER [strategy=A,B] [budget=32,64] "
        "[results=DIR]"
    )
    known = ("benchmark", "doc", "strategy", "budget", "results")
    names, settings = parsed(words, usage, known)
    directory = one_directory(names, usage, settings.get("results", "results"))
    rows = finished_rows(directory)
    rows = _of("benchmark", settings.get("benchmark"), rows)
    if len({row.benchmark for row in rows}) > 1:
        have = ", ".join(sorted({row.benchmark for row in rows}))
        raise UserError(f"Name the benchmark: benchmark=... This run has {have}.")
    rows = _of("strategy", settings.get("strategy"), rows, "vanilla")
    rows = _of("budget", settings.get("budget"), rows, "vanilla")
    first, asked = _unit(rows, settings.get("doc"), directory, usage)
    number = int(settings["doc"])
    heading = f"{rows[0].benchmark_label}, document {number}, model {rows[0].model}"
    lines = [_shown(label, row, number, first, directory) for label, row in _in_order(rows)]
    width = get_terminal_size((100, 24)).columns
    text = document_text(heading, asked, [line for line in lines if line], width)
    show(text if _has_blocks(sys.stdout) else text.translate(ASCII))
    return 0


def _has_blocks(stream: Any) -> bool:
    """Whether a stream can print the characters of maps."""
    try:
        "█▀▄·".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _of(key: str, wanted: str | None, rows: list[Any], always: str = "") -> list[Any]:
    """The rows of the wanted names (vanilla stays beside them)."""
    from agilepruner.errors import unknown

    if wanted is None:
        return rows
    have = {str(getattr(row, key)) for row in rows}
    names = [name.strip() for name in wanted.strip("[]").split(",") if name.strip()]
    for name in names:
        if name not in have:
            raise unknown(key, name, have)
    return [row for row in rows if str(getattr(row, key)) in names or row.strategy == always]


def _unit(
    rows: list[Any], doc: str | None, directory: Path, usage: str
) -> tuple[int, dict[str, list[str]]]:
    """First document of the unit that a document is scored with; question -> references of it."""
    from agilepruner.documents import OnDisk
    from agilepruner.errors import UserError
    from agilepruner.report.frames import entries_of

    firsts = sorted({d for row in rows for d in row.documents or range(row.n)})
    if doc is None or not doc.isdecimal():
        raise UserError(f"doc={doc}: give the number of a document. Usage: {usage}")
    number = int(doc)
    before = [first for first in firsts if first <= number]
    for first, look in OnDisk([directory]).looks(rows[0], before[:-9:-1]):
        found = {q: references for index, q, references in look.asked if index == number}
        if found:
            return first, found
    if number not in firsts and number in entries_of(rows[0], directory):
        return before[-1], {}  # answered, of a data set that is not here
    if number not in firsts:
        some = ", ".join(map(str, firsts[:8])) + (", ..." if len(firsts) > 8 else "")
        raise UserError(
            f"Document {number} is not among the {len(firsts)} that this run scored: {some}"
        )
    return number, {}


def _in_order(rows: list[Any]) -> list[tuple[str, Any]]:
    """As tables have them: vanilla, then budget by budget; with their names there."""
    from agilepruner.report.lines import SEED, build_tables

    return [
        (
            f"{line.label} @ {row.budget}" + (f", seed {row.parameters[SEED]}" if same[1:] else ""),
            row,
        )
        for table in build_tables(rows)
        for line in table.lines
        for same in line.rows.values()
        for row in same
    ]


def _shown(label: str, row: Any, number: int, first: int, directory: Path) -> Any:
    from agilepruner.report.frames import entries_of, kept_in
    from agilepruner.report.terminal import Shown

    entry = entries_of(row, directory).get(number)
    if entry is None:
        return None
    documents = row.documents or list(range(row.n))
    score = None
    if row.scores and first in documents:
        score = row.scores[documents.index(first)]
    return Shown(label, entry, kept_in(entry), score, list(row.phases))

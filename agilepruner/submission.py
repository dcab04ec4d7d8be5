"""A handed-in result: do its scores follow from its journals, on the documents that it names?

A submission is a run's folder: ``cells/`` with journals and rows. All is recomputed with the code
here, and nothing in the folder is written. The check shows that nothing was damaged, mixed up or
scored otherwise; that a model really gave these answers only a run can show. A journal names code
by its path: only code of this project is called, whatever a stranger's journal says.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.report.sheets import Sheet
from agilepruner.runner.journal import Journal
from agilepruner.runner.rows import Row, read_row
from agilepruner.runner.score import CellFailed
from agilepruner.runner.stored import folders, recomputed

AGREES, DIFFERS, DAMAGED, UNCHECKED = "agrees", "differs", "damaged", "not checked"
COMPARED = (
    *("strategy", "budget", "benchmark", "model", "suite", "protocol", "parameters", "status"),
    *("metric", "value", "n", "metrics", "scores", "parts", "clusters", "kept", "flops"),
    *("complexity", "text_tokens", "new_tokens", "empty_answers", "failures"),
)
OURS = ("agilepruner", "evals")
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
FEW = 3  # differences named per cell


@dataclass(frozen=True)
class Checked:
    """One cell: its folder, what the check says (one of the four words above), and why."""

    cell: str
    verdict: str
    why: str


def check(directory: Path) -> list[Checked]:
    """Check every cell of a submission.

    Raises:
        UserError: there are no cells.
    """
    found, loaded = [], {}  # type: ignore[var-annotated]
    for folder, cell in folders(directory):
        verdict, why = _check(folder, cell, loaded)
        found.append(Checked(folder.name, verdict, why))
    if not found:
        raise UserError(
            f"{directory} holds no cells: hand in a run's folder with its cells/ and all in them."
        )
    return found


def _check(folder: Path, cell: str, loaded: dict[str, Any]) -> tuple[str, str]:
    journal = Journal(folder, cell)
    journal.refresh()
    row = read_row(folder / "row.json", cell)
    if journal.header is None:
        return DAMAGED, "no journal of this cell that can be read"
    if journal.left_out:
        return DAMAGED, f"{journal.left_out} lines of the journal are damaged or of another cell"
    if "positions" not in journal.header.get("identity", {}):
        return UNCHECKED, "answered by an earlier version"
    if strange := sorted(_strange(journal.header)):
        return UNCHECKED, f"names code that is not of this project: {', '.join(strange)}"
    if row is None:
        return DAMAGED, "no row of this cell that can be read (row.json, of this version)"
    if row.identity != journal.header.get("identity"):
        return DAMAGED, "row and journal are of two cells"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            ours = recomputed(journal, Path(scratch), loaded)
        except UserError as error:
            return UNCHECKED, f"needs its documents, {_documents(row)}: {error}"
        except CellFailed as error:
            return UNCHECKED, f"{error} (it names {_documents(row)})"
    apart = list(_differences(row, ours))
    if not apart:
        return AGREES, f"{row.metric} {row.value:g}, n {row.n}" if row.value is not None else ""
    more = f" and {len(apart) - FEW} more" if len(apart) > FEW else ""
    other = "" if row.scoring == ours.scoring else "; it was scored by another version"
    return DIFFERS, f"{', '.join(apart[:FEW])}{more}{other}"


def _strange(header: Mapping[str, Any]) -> set[str]:
    """Dotted names of code that a header would have called and that is not ours."""
    parts = header["identity"].get("strategy"), header.get("config", {}).get("benchmark")
    names = {text for part in parts for text in _texts(part) if DOTTED.fullmatch(text)}
    return {name for name in names if name.split(".")[0] not in OURS}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _documents(row: Row) -> str:
    """Which documents a row says that it is of, in words."""
    known = row.identity.get("documents") or {}
    if "hub" in known:
        return " and ".join(f"{repo} at commit {commit}" for repo, commit, *_ in known["hub"])
    return f"{row.benchmark}.parquet of suite {row.suite} with hash {str(known.get('file'))[:12]}"


def _differences(row: Row, ours: Row) -> Iterator[str]:
    """What a row says otherwise than its journal does."""
    for name in COMPARED:
        yield from _apart(name, getattr(row, name), getattr(ours, name))


def _apart(name: str, theirs: Any, ours: Any) -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _apart(f"{name}.{key}", theirs.get(key), ours.get(key))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        count = sum(not _same(first, second) for first, second in zip(theirs, ours))
        if count:
            yield f"{name}: {count} of {len(ours)}"
    elif not _same(theirs, ours):
        yield f"{name} {_short(theirs)}, recomputed {_short(ours)}"


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, int | float) and isinstance(second, int | float):
        return isclose(first, second, rel_tol=1e-9, abs_tol=1e-12) or first != first != second
    return bool(first == second)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{len(value)} values" if isinstance(value, list) else str(value)


def sheet(found: list[Checked], name: str) -> Sheet:
    """A line per cell, those that do not agree first."""
    order = (DAMAGED, DIFFERS, UNCHECKED, AGREES)
    sections = [
        (f"{word}: {len(own)}", [[one.cell, one.why] for one in own])
        for word in order
        if (own := [one for one in found if one.verdict == word])
    ]
    notes = [
        "agrees: identity, audit and every score of the row follow from the journal, on the "
        "documents that it names. That a model gave these answers only a run can show."
    ]
    return Sheet(f"{name}: {len(found)} cells", ["Cell", "what was found"], sections, notes)

"""The paper's study: each analysis is one file here and one YAML in configs/analysis.

An analysis is a function of two data frames, the cells that its YAML asks for and their documents
with complexity (``report.frames``), that returns a ``Finding``: a table, its data and a figure.
"""

import importlib
import inspect
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from agilepruner.errors import UserError
from agilepruner.report import published
from agilepruner.report.dashboard.documents import Reader
from agilepruner.report.figures import STYLE, drawn
from agilepruner.report.frames import cells_frame, documents_frame
from agilepruner.report.sheets import Sheet, render_markdown
from agilepruner.runner.rows import Row

SYNTHETIC = (
    "Measured on synthetic scenes (suite embedded) with the demo model: a statement about them, "
    "never to be compared with published numbers."
)
STUDY = "study.csv"  # in results/published
NAMED = 5  # images that could not be measured and are named; the others are counted
Pictures = Callable[[pd.DataFrame], list[Image.Image | None]]  # of lines of the documents frame


@dataclass(frozen=True)
class Finding:
    """What an analysis found.

    Attributes:
        sheet: the table, for people. data: its numbers, tidy. figure: the same, drawn.
    """

    sheet: Sheet
    data: pd.DataFrame
    figure: Figure

    def write(self, folder: Path) -> None:
        """Write table.md, data.csv, figure.svg and figure.png.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = {f"figure.{ending}": content for ending, content in drawn(self.figure).items()}
        files["table.md"] = render_markdown(self.sheet).encode()
        files["data.csv"] = self.data.to_csv(index=False, lineterminator="\n").encode()
        for name, content in files.items():
            temporary = folder / f"{name}.{os.getpid()}.tmp"
            temporary.write_bytes(content)
            temporary.replace(folder / name)


def analyse(
    function: str,
    rows: Iterable[Row],
    directory: Path,
    images: Sequence[Mapping[str, Any]] | None = None,
    reader: Reader | None = None,
) -> Finding:
    """Run an analysis on the cells of a run.

    Args:
        function: its dotted name, as the config has it.
        rows: of the cells that it asked for.
        directory: of the run, whose journals say how complex each image is.
        images: what its ``measure`` says of every image: a third frame; None: it has none. Those
            with a ``problem`` are left out, named and counted.
        reader: of documents, for an analysis that has a parameter ``pictures``.

    Raises:
        UserError: a cell failed (where answers are what it needs), nothing could be measured, or
            the documents are too few for the question.
    """
    known = list(rows)
    check_done(known, images is not None)
    module, _, name = function.rpartition(".")
    chosen = getattr(importlib.import_module(module), name)
    frames = [cells_frame(known), documents_frame(known, directory)]
    notes: list[str] = []
    if images is not None:
        measured, notes = _sound(images)
        frames.append(measured)
    more = {}
    if "pictures" in inspect.signature(chosen).parameters:
        more["pictures"] = partial(_pictures, {row.id: row for row in known}, reader)
    with matplotlib.rc_context(STYLE):
        found: Finding = chosen(*frames, **more)
    found.sheet.notes.extend(notes)
    if any(row.synthetic for row in known):
        found.sheet.notes.append(SYNTHETIC)
    return found


def check_done(rows: Sequence[Row], measures: bool) -> None:
    """Refuse failed cells, where answers are what an analysis needs.

    Args:
        rows: of its cells.
        measures: it measures images itself and needs no answers.
    """
    failed = [row for row in rows if row.status != "done"]
    if failed and not measures:
        raise UserError(f"{len(failed)} of the {len(rows)} cells that it needs have failed.")


def _sound(images: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """The images that could be measured, and a note on those that could not."""
    failed = [one for one in images if one.get("problem")]
    if len(failed) == len(images):
        raise UserError(f"No image could be measured: {failed[0]['problem'] if failed else 'none'}")
    named = [
        f"document {one['document']} of {one['benchmark_label']} ({one['problem']})"
        for one in failed[:NAMED]
    ]
    more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    notes = [
        f"{len(failed)} of {len(images)} images could not be measured and are left out: "
        f"{'; '.join(named)}{more}."
    ]
    sound = pd.DataFrame([one for one in images if not one.get("problem")])
    return sound, notes if failed else []


def _pictures(
    rows: Mapping[str, Row], reader: Reader | None, lines: pd.DataFrame
) -> list[Image.Image | None]:
    """The images of some lines of the documents frame; None where one cannot be had."""
    if reader is None:
        return [None] * len(lines)
    seen: dict[tuple[str, int], Image.Image] = {}
    for cell, group in lines.groupby("cell"):
        for document, look in reader.looks(rows[cell], group["document"].tolist()):
            if look.picture is not None:
                seen[cell, document] = Image.open(io.BytesIO(look.picture.data)).convert("RGB")
    return [seen.get(key) for key in zip(lines["cell"], lines["document"])]


def agreement(found: Iterable[tuple[str, str]]) -> str:
    """A note on whether what was found is what the paper says, for the study page.

    Args:
        found: of each comparison that the paper's statement is about: what it says, and the verdict
            here (``report.estimates.VERDICTS``, ``report.contrasts.MEASURED``).
    """
    pairs = list(found)
    if not pairs:
        return no_comparison("nothing here is what its statement is about")
    yes = sum(said == verdict for said, verdict in pairs)
    unsure = sum(verdict == "cannot tell" for _, verdict in pairs)
    no = len(pairs) - yes - unsure
    word = "mixed" if yes and no else "agrees" if yes else "disagrees" if no else "cannot tell"
    word += " in part" if unsure and word in ("agrees", "disagrees") else ""
    return (
        f"Agreement with the paper: {word} (of {len(pairs)} comparisons {yes} as it says, "
        f"{no} not, {unsure} cannot be told)."
    )


def no_comparison(why: str) -> str:
    """The note in place of ``agreement`` where what was found says nothing of the paper's."""
    return f"Agreement with the paper: cannot be compared ({why})."


def printed(analysis: str) -> pd.DataFrame:
    """What the paper says on an analysis's question: the lines of results/published/study.csv.

    Returns:
        columns ``analysis, model, what, strategy, budget, parameter, metric, value, source`` and
        ``confidence``; empty where the project is installed without that folder.
    """
    path = published.PUBLISHED / STUDY
    columns = ["what", "strategy", "budget", "parameter", "metric", "value", "source"]
    if not path.is_file():
        return pd.DataFrame(columns=["analysis", "model", *columns, "confidence"])
    every = pd.read_csv(path)
    return every[every["analysis"] == analysis].reset_index(drop=True)

"""The paper's study: each analysis is one file here and one YAML in configs/analysis.

An analysis is a function of two data frames, the cells that its YAML asks for and their documents
with complexity (``report.frames``), that returns a ``Finding``: a table, its data and a figure.
"""

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report import published
from agilepruner.report.figures import STYLE, drawn
from agilepruner.report.frames import cells_frame, documents_frame
from agilepruner.report.sheets import Sheet, render_markdown
from agilepruner.runner.rows import Row

SYNTHETIC = (
    "Measured on synthetic scenes (suite embedded) with the demo model: a statement about them, "
    "never to be compared with published numbers."
)
STUDY = "study.csv"  # in results/published


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
) -> Finding:
    """Run an analysis on the cells of a run.

    Args:
        function: its dotted name, as the config has it.
        rows: of the cells that it asked for.
        directory: of the run, whose journals say how complex each image is.
        images: what its ``measure`` says of every image: a third frame; None: it has none.

    Raises:
        UserError: a cell failed, or the documents are too few for the question.
    """
    known = list(rows)
    failed = [row for row in known if row.status != "done"]
    if failed:
        raise UserError(f"{len(failed)} of the {len(known)} cells that it needs have failed.")
    module, _, name = function.rpartition(".")
    frames = [cells_frame(known), documents_frame(known, directory)]
    frames += [] if images is None else [pd.DataFrame(images)]
    with matplotlib.rc_context(STYLE):
        found: Finding = getattr(importlib.import_module(module), name)(*frames)
    if any(row.synthetic for row in known):
        found.sheet.notes.append(SYNTHETIC)
    return found


def agreement(found: Iterable[tuple[str, str]]) -> str:
    """A note on whether what was found is what the paper says, for the study page.

    Args:
        found: of each comparison that the paper's statement is about: what it says, and the verdict
            here (``report.statistics.VERDICTS``).
    """
    pairs = list(found)
    yes = sum(said == verdict for said, verdict in pairs)
    unsure = sum(verdict == "cannot tell" for _, verdict in pairs)
    no = len(pairs) - yes - unsure
    word = "mixed" if yes and no else "agrees" if yes else "disagrees" if no else "cannot tell"
    return (
        f"Agreement with the paper: {word} (of {len(pairs)} comparisons {yes} as it says, "
        f"{no} not, {unsure} cannot be told)."
    )


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

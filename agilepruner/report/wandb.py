"""Weights & Biases as a sink: one run per cell and one per table, written after they are stored.

Nothing is ever read back from W&B; the rows are the record. What W&B is given is made here, as
plain data; ``report.wandb_send`` sends it.
"""

import hashlib
import importlib.util
import io
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agilepruner.errors import UserError
from agilepruner.report.dashboard.documents import Look, Reader, Said
from agilepruner.report.flips import Flips, cell_numbers
from agilepruner.report.frames import kept_in
from agilepruner.report.lines import Table, build_tables, columns_of
from agilepruner.report.wandb_send import Curve, Run, send
from agilepruner.runner.journal import Entry
from agilepruner.runner.kept import boxes_of, details_of
from agilepruner.runner.rows import Row

log = logging.getLogger(__name__)
MODES = ("auto", "online", "offline")
TAG = 64  # characters that W&B allows a tag
MOST_FLIPS = 200  # in a table's run
FLIP = ["strategy", "budget", "benchmark", "document", "change"]
SEEN = ["question", "references", "answer", "vanilla_answer", "image", "kept"]
AVERAGES = ["strategy", "label", "budget", "average", "spread"]
CURVES = {  # title and x of what a table's run draws, by the name it is logged as
    "curves/percent_of_vanilla_by_budget": ("percent of vanilla by budget", "budget"),
    "curves/percent_of_vanilla_against_FLOPs": ("percent of vanilla against FLOPs", "FLOPs"),
    "curves/hallucination_against_recall": ("hallucination against recall", "recall, percent"),
}
QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class Sink:
    """Where results go: ``project``, ``group`` and ``mode`` of W&B.

    Raises:
        UserError: wandb is not installed, or the mode is unknown (so said before a run).
    """

    project: str
    group: str
    mode: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(
                f"W&B mode '{self.mode}' is unknown. Choose one of: {', '.join(MODES)}."
            )
        known = "wandb" in sys.modules or importlib.util.find_spec("wandb") is not None
        if not known or sys.modules.get("wandb", ...) is None:
            raise UserError(
                "logger=wandb needs the wandb package, which is not installed. Install it "
                "(pip install wandb) or use logger=none."
            )


@dataclass(frozen=True)
class Logged:
    """How many cells and tables were new; the mode as resolved; why the rest was not sent."""

    cells: int
    tables: int
    mode: str
    failed: str


def log_results(
    rows: Iterable[Row],
    sink: Sink,
    directory: Path,
    reader: Reader | None = None,
    homes: Mapping[str, tuple[str, Path]] | None = None,
) -> Logged:
    """Log a run per finished cell and one per table; what was logged before is not sent again.

    Args:
        rows: cells; failed ones have no numbers and are left out until they are done.
        sink: where to.
        directory: of the report: W&B's files go to its ``wandb``; its CSV files and page go along
            where they are there.
        reader: what documents look like; None: flips have no question and no picture.
        homes: of cells of other runs: cell -> its group and its run's directory.

    Returns:
        What was logged. A failure of W&B is a warning: the rows are safe, and the same call logs
        the rest later.
    """
    known = [row for row in rows if row.status == "done"]
    tables = build_tables(known)
    relatives, changed = _relatives(tables), cell_numbers(tables)
    runs = []
    for row in known:
        numbers = _numbers(row, relatives.get(row.id), changed.get(row.id, {}))
        home = (homes or {}).get(row.id, (sink.group, directory))
        runs.append(_of_cell(row, numbers, *home))
    cells = {run.id for run in runs}
    runs += [_of_table(table, sink.group, directory, reader) for table in tables]
    sent = send(runs, sink.project, sink.mode)
    count = len(cells.intersection(sent.ids))
    if not sent.failed:
        log.info(
            "W&B (%s): %d cells and %d tables were new", sent.mode, count, len(sent.ids) - count
        )
    return Logged(count, len(sent.ids) - count, sent.mode, sent.failed)


def _of_cell(row: Row, numbers: dict[str, float], group: str, directory: Path) -> Run:
    """Identity as config, one history step of numbers."""
    start = {
        "job_type": row.benchmark,
        "name": f"{row.strategy}@{row.budget} {row.benchmark}",
        "tags": _tags(row.model, row.suite, row.protocol, row.family),
        "config": _identity(row),
    }
    return Run(row.id, group, str(directory), start, numbers)


def _of_table(table: Table, group: str, directory: Path, reader: Reader | None) -> Run:
    """The averages of its lines, flips, and the report's files."""
    names = table.model, table.suite, table.protocol
    digest = hashlib.sha256(json.dumps([group, *names]).encode()).hexdigest()[:12]
    start = {
        "job_type": "table",
        "name": " ".join(names),
        "tags": _tags(*names),
        "config": dict(zip(("model", "suite", "protocol"), names)),
    }
    averages = _averages(table)
    flips = flips_of(table)
    shown = [[*flip.words, *seen] for flip, seen in zip(flips, _seen(table, flips, reader))]
    page = directory / "dashboard.html"
    return Run(
        f"table-{digest}",
        group,
        str(directory),
        start,
        _named(averages),
        {"averages": (AVERAGES, averages), "flips": ([*FLIP, *SEEN], shown)},
        _curves(table),
        page.read_text(encoding="utf-8") if page.is_file() else None,
        [str(path) for path in sorted(directory.glob("*.csv"))],
    )


def _averages(table: Table) -> list[list[Any]]:
    """The columns ``AVERAGES`` per line: relative to vanilla, and its spread over seeds."""
    found = []
    for line in table.lines:
        cell = table.average(line)
        found.append([line.strategy, line.label, line.budget, cell.value, cell.spread])
    return found


def _curves(table: Table) -> dict[str, Curve]:
    """The curves of a table: a line per strategy. Vanilla is at 100 percent."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in CURVES}
    budget, cost, recall = found.values()
    for line in table.lines:
        if line is table.vanilla:
            continue
        rows = [same[0] for same in line.rows.values()]
        average = table.average(line).value
        totals = [row.flops["total"] for row in rows if "total" in row.flops]
        if average is not None:
            budget.setdefault(line.label, []).append((line.budget, average))
        if average is not None and totals:
            cost.setdefault(line.label, []).append((sum(totals) / len(totals), average))
        for row in rows:
            said = {column.log: column.value(row) for column in columns_of(row)}
            x, y = said.get("hallucination/recall"), said.get("hallucination/chair_s")
            if x is not None and y is not None:
                recall.setdefault(line.label, []).append((x, y))
    return {
        name: (*CURVES[name], {label: sorted(points) for label, points in lines.items()})
        for name, lines in found.items()
        if lines
    }


def _named(averages: list[list[Any]]) -> dict[str, float]:
    """Averages by strategy and budget; by label where a strategy has several lines."""
    names = [f"{strategy}@{budget}" for strategy, _, budget, *_ in averages]
    said: dict[str, float] = {}
    for name, (_, label, budget, value, _) in zip(names, averages):
        own = name if names.count(name) == 1 else f"{label}@{budget}"
        said |= {f"average/{own}": value} if value is not None else {}
    return said


@dataclass(frozen=True)
class Flip:
    """A unit that pruning made right or wrong. row: the cell; unit: which of its units."""

    row: Row
    unit: int
    right: bool

    @property
    def document(self) -> int:
        """Index of the unit's first document."""
        return self.unit if self.row.documents is None else self.row.documents[self.unit]

    @property
    def words(self) -> list[Any]:
        """The columns ``FLIP``."""
        row = self.row
        change = "wrong to right" if self.right else "right to wrong"
        return [row.label, row.budget, row.benchmark_label, self.document, change]


def flips_of(table: Table) -> list[Flip]:
    """At most ``MOST_FLIPS`` flips, cells in turn, and in each what was lost and won in turn."""
    flips = Flips(table)
    queues: list[list[Flip]] = []
    for line in table.lines:
        for benchmark in line.rows:
            for units in flips.units(line, benchmark)[:1]:  # of several seeds, the first
                lost = [Flip(units.row, int(u), False) for u in units.right_to_wrong.nonzero()[0]]
                won = [Flip(units.row, int(u), True) for u in units.wrong_to_right.nonzero()[0]]
                first = (lost, won) if len(queues) % 2 else (won, lost)
                queues.append(_in_turn(*first))
    return _in_turn(*queues)[:MOST_FLIPS]


def _in_turn(*queues: Sequence[Flip]) -> list[Flip]:
    """The first of each, then the second of each, and so on."""
    return [flip for turn in zip_longest(*queues) for flip in turn if flip is not None]


def _seen(table: Table, flips: Sequence[Flip], reader: Reader | None) -> list[list[Any]]:
    """The columns ``SEEN`` of each flip; None for what cannot be had.

    A data set is opened and a journal read once, whatever the order of the flips.
    """
    if reader is None or table.vanilla is None:
        return [[None] * len(SEEN)] * len(flips)
    plain = {benchmark: rows[0] for benchmark, rows in table.vanilla.rows.items()}
    wanted: dict[str, list[Flip]] = defaultdict(list)
    cells: dict[str, tuple[Row, set[int]]] = {}
    for flip in flips:
        wanted[flip.row.benchmark].append(flip)
        for row in (flip.row, plain[flip.row.benchmark]):
            cells.setdefault(row.id, (row, set()))[1].add(flip.document)
    said = {id: reader.said(row, documents) for id, (row, documents) in cells.items()}
    looks: dict[tuple[str, int], Look] = {}
    for benchmark, same in wanted.items():
        documents = sorted({flip.document for flip in same})
        for document, look in reader.looks(same[0].row, documents):
            looks[benchmark, document] = look
    seen = []
    for flip in flips:
        own, unpruned = (
            said[row.id].get(flip.document) for row in (flip.row, plain[flip.row.benchmark])
        )
        answers = [each.entry.answer if each else None for each in (own, unpruned)]
        shown = looks.get((flip.row.benchmark, flip.document))
        seen.append([*_asked(shown), *answers, *_pictures(shown, own)])
    return seen


def _asked(look: Look | None) -> list[str | None]:
    """Question and references."""
    if look is None:
        return [None, None]
    questions = "\n".join(asked[1] for asked in look.asked)
    return [questions, "; ".join(", ".join(asked[2]) for asked in look.asked)]


def _pictures(look: Look | None, said: Said | None) -> list[bytes | None]:
    """The picture, and the one with what was kept; one that cannot be drawn costs no table."""
    if look is None or look.picture is None:
        return [None, None]
    try:
        image = Image.open(io.BytesIO(look.picture.data)).convert("RGB")
        return [_jpeg(image), _jpeg(overlay(image, said.entry)) if said else None]
    except (OSError, ValueError) as error:
        log.warning("W&B: a picture cannot be drawn: %s", error)
        return [None, None]


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def overlay(image: Image.Image, entry: Entry) -> Image.Image:
    """A picture with the patches darkened that the language model does not see to the end.

    Args:
        image: what the document shows, of any size.
        entry: the answer; of several tiles those that cut the image are drawn, not the overview.
    """
    rows, columns = entry.grid or (1, 1)
    boxes = boxes_of(entry)
    there = np.zeros(len(boxes) * rows * columns, dtype=np.uint8)
    patches = kept_in(entry).last
    there[[patch for patch in patches if 0 <= patch < len(there)]] = 255
    mask = Image.new("L", image.size, 0)
    for tile in details_of(entry):
        left, top, right, bottom = (
            round(edge * size) for edge, size in zip(boxes[tile], 2 * image.size)
        )
        own = there.reshape(-1, rows, columns)[tile]
        size = max(1, right - left), max(1, bottom - top)
        mask.paste(Image.fromarray(own).resize(size, Image.Resampling.NEAREST), (left, top))
    dark = Image.blend(image, Image.new("RGB", image.size), 0.75)
    return Image.composite(image, dark, mask)


def _tags(*names: str) -> list[str]:
    """Tags W&B takes: none empty, none twice, a long one cut and told apart by its hash."""
    tags = []
    for name in dict.fromkeys(names):
        if len(name) > TAG:
            digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
            name = f"{name[: TAG - 9]}-{digest}"
        if name:
            tags.append(name)
    return tags


def _identity(row: Row) -> dict[str, Any]:
    """What the cell is: everything that tells it from another one."""
    names = ["model", "strategy", "family", "label", "parameters", "choice", "budget", "full"]
    names += ["positions", "benchmark", "protocol", "suite", "metric", "higher_is_better", "scale"]
    identity = {name: getattr(row, name) for name in names}
    return identity | {"cell": row.id, "environment": row.environment}


def _relatives(tables: Sequence[Table]) -> dict[str, float]:
    """Cell -> percent of its vanilla value, where vanilla is among the rows."""
    found = {}
    for table in tables:
        for column in table.averaged:
            base = table.base(column)
            for row in table.rows:
                value = column.value(row) if row.benchmark == column.benchmark else None
                if base and value is not None:
                    found[row.id] = 100 * value / base
    return found


def _numbers(row: Row, relative: float | None, changed: Mapping[str, float]) -> dict[str, float]:
    """The benchmark's columns, every metric, FLOPs, kept tokens, complexity, changed answers."""
    values: dict[str, float | None] = {"n": row.n, "failures": row.failures}
    values |= {column.log: column.value(row) for column in columns_of(row)}
    values |= {"relative_to_vanilla_percent": relative}
    values |= {f"metric/{name}": value for name, value in row.metrics.items()}
    values |= {f"flops/{name}": value for name, value in row.flops.items()}
    values |= {f"kept/{name}": value for name, value in row.kept.items()}
    values |= {f"changed/{name}": value for name, value in changed.items()}
    values |= {f"complexity/{name}": value for name, value in row.complexity.items()}
    values |= {"text_tokens": row.text_tokens, "new_tokens": row.new_tokens}
    return {name: float(value) for name, value in values.items() if value is not None}

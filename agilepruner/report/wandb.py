"""Weights & Biases as a sink: one run per cell and one per table, written after they are stored.

Nothing is ever read back from W&B; the rows are the record. A cell is logged once: a marker in the
directory holds what was sent, so a second call sends only what is new or has changed.
"""

import hashlib
import importlib.util
import io
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from agilepruner.runner.journal import Entry
from agilepruner.runner.kept import boxes_of, details_of
from agilepruner.runner.rows import Row, write_atomically

log = logging.getLogger(__name__)
MODES = ("auto", "online", "offline")
TAG = 64  # characters that W&B allows a tag
MOST_FLIPS = 200  # in a table's run
FLIP = ["strategy", "budget", "benchmark", "document", "change"]
SEEN = ["question", "references", "answer", "vanilla_answer", "kept"]


def log_rows(rows: Iterable[Row], project: str, group: str, mode: str, directory: Path) -> int:
    """Log every finished cell that was not logged before.

    Args:
        rows: cells; failed ones have no numbers and are left out until they are done.
        project: W&B project.
        group: W&B group, one per sweep.
        mode: ``online``, ``offline``, or ``auto``: online when logged in to W&B.
        directory: holds W&B's files (``wandb/``) and the markers (``wandb/logged/<cell>.json``).

    Returns:
        How many cells were logged. A failure of W&B is a warning: the rows are safe, and the same
        call logs the rest later.

    Raises:
        UserError: wandb is not installed, or the mode is unknown (`check` says so before a run).
    """
    check(mode)
    known = [row for row in rows if row.status == "done"]
    relatives, changed = _relatives(known), cell_numbers(build_tables(known))
    sent = [
        (row, _identity(row), _scalars(row, relatives.get(row.id), changed.get(row.id, {})))
        for row in known
    ]
    runs = [_of_cell(*each) for each in sent]
    logged, mode = _send(runs, project, group, mode, directory)
    log.info("W&B: %d cells logged (%s), %d in all", logged, mode, len(known))
    return logged


def _of_cell(row: Row, identity: dict[str, Any], scalars: dict[str, float]) -> "_Run":
    """Identity as config, one history step of scalars."""
    start = {
        "job_type": row.benchmark,
        "name": f"{row.strategy}@{row.budget} {row.benchmark}",
        "tags": _tags(row.model, row.suite, row.protocol, row.family),
        "config": identity,
    }
    return _Run(row.id, [identity, scalars], start, lambda wandb, run: run.log(scalars))


def check(mode: str) -> None:
    """Refuse what cannot work, before anything is run.

    Raises:
        UserError: wandb is not installed, or the mode is unknown.
    """
    if mode not in MODES:
        raise UserError(f"W&B mode '{mode}' is unknown. Choose one of: {', '.join(MODES)}.")
    known = "wandb" in sys.modules or importlib.util.find_spec("wandb") is not None
    if not known or sys.modules.get("wandb", ...) is None:
        raise UserError(
            "logger=wandb needs the wandb package, which is not installed. Install it "
            "(pip install wandb) or use logger=none."
        )


def _resolve(wandb: Any, mode: str) -> str:
    """Online only when somebody is logged in; never ask for a key."""
    if mode != "auto":
        return mode
    return "online" if wandb.api.api_key else "offline"


@dataclass(frozen=True)
class _Run:
    """A run of W&B to be.

    Attributes:
        id: its name there, and that of its marker.
        content: tells whether it was logged as it is now.
        start: what ``wandb.init`` gets besides what all runs have.
        log: called with wandb and the run.
    """

    id: str
    content: list[Any]
    start: dict[str, Any]
    log: Callable[[Any, Any], None]


def _send(
    runs: Iterable[_Run], project: str, group: str, mode: str, directory: Path
) -> tuple[int, str]:
    """Log what is new or has changed; how many that were, and the mode as resolved."""
    logged = 0
    try:
        wandb = importlib.import_module("wandb")
        mode = _resolve(wandb, mode)
        markers = directory / "wandb" / "logged"
        markers.mkdir(parents=True, exist_ok=True)
        for one in runs:
            content = json.dumps([project, group, *one.content], sort_keys=True, ensure_ascii=False)
            marker = markers / f"{one.id}.json"
            if marker.is_file() and marker.read_bytes() == content.encode():
                continue
            run = wandb.init(
                project=project,
                group=group,
                mode=mode,
                id=one.id,
                resume="allow" if mode == "online" else None,
                dir=str(directory),
                reinit="finish_previous",
                settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
                **one.start,
            )
            try:
                one.log(wandb, run)
            except Exception:
                run.finish(exit_code=1)
                raise
            run.finish()
            write_atomically(marker, content)
            logged += 1
    except Exception as error:  # whatever W&B raises: the rows are safe
        cause = f"{type(error).__name__}: {error}"
        log.warning("W&B: %s. Run the same command again to log the rest.", cause)
    return logged, mode


def log_tables(
    rows: Iterable[Row],
    project: str,
    group: str,
    mode: str,
    directory: Path,
    reader: Reader | None = None,
) -> int:
    """Log one run per table: relative averages, flips with pictures, the report's files.

    Args:
        rows: cells.
        project: as for cells.
        group: as for cells.
        mode: as for cells.
        directory: of the report, whose CSV files and page go along where they are there.
        reader: what documents look like; None: flips have no question and no picture.

    Returns:
        How many tables were logged: one whose numbers were logged before is not sent again. A
        failure of W&B is a warning.

    Raises:
        UserError: wandb is not installed, or the mode is unknown.
    """
    check(mode)
    tables = build_tables([row for row in rows if row.status == "done"])
    runs = [_of_table(table, group, directory, reader) for table in tables]
    return _send(runs, project, group, mode, directory)[0]


def _of_table(table: Table, group: str, directory: Path, reader: Reader | None) -> _Run:
    """The averages of its lines, flips, and the report's files."""
    names = table.model, table.suite, table.protocol
    name = hashlib.sha256(json.dumps([group, *names]).encode()).hexdigest()[:12]
    averages = _averages(table)

    def log(wandb: Any, run: Any) -> None:
        run.log(_contents(wandb, table, averages, directory, reader))
        _attach(wandb, run, name, directory)

    start = {
        "job_type": "table",
        "name": " ".join(names),
        "tags": _tags(*names),
        "config": dict(zip(("model", "suite", "protocol"), names)),
    }
    known = sorted(row.id for row in table.rows)
    return _Run(f"table-{name}", [names, known, averages], start, log)


def _averages(table: Table) -> list[list[Any]]:
    """Strategy, label, budget, Average relative to vanilla and its spread over seeds, per line."""
    found = []
    for line in table.lines:
        cell = table.average(line)
        found.append([line.strategy, line.label, line.budget, cell.value, cell.spread])
    return found


def _contents(
    wandb: Any,
    table: Table,
    averages: list[list[Any]],
    directory: Path,
    reader: Reader | None,
) -> dict[str, Any]:
    """What the run of a table logs."""
    columns = ["strategy", "label", "budget", "average", "spread"]
    flips = flips_of(table)
    shown = [[*flip.words, *seen] for flip, seen in zip(flips, _seen(wandb, table, flips, reader))]
    said = {
        "averages": wandb.Table(columns=columns, data=averages),
        "flips": wandb.Table(columns=[*FLIP, *SEEN], data=shown),
    }
    page = directory / "dashboard.html"
    if page.is_file():
        said["page"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
    names = [f"{strategy}@{budget}" for strategy, _, budget, *_ in averages]
    for name, (_, label, budget, value, _) in zip(names, averages):
        own = name if names.count(name) == 1 else f"{label}@{budget}"
        said |= {f"average/{own}": value} if value is not None else {}
    return said


def _attach(wandb: Any, run: Any, name: str, directory: Path) -> None:
    """The report's CSV files as an artifact."""
    files = sorted(directory.glob("*.csv"))
    if files:
        artifact = wandb.Artifact(f"report-{name}", type="report")
        for path in files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)


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


def _seen(
    wandb: Any, table: Table, flips: Sequence[Flip], reader: Reader | None
) -> list[list[Any]]:
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
        seen.append([*_asked(shown), *answers, _kept(wandb, shown, own)])
    return seen


def _asked(look: Look | None) -> list[str | None]:
    """Question and references."""
    if look is None:
        return [None, None]
    questions = "\n".join(asked[1] for asked in look.asked)
    return [questions, "; ".join(", ".join(asked[2]) for asked in look.asked)]


def _kept(wandb: Any, look: Look | None, said: Said | None) -> Any:
    """The picture with what was kept; a picture that cannot be drawn costs no table."""
    if look is None or look.picture is None or said is None:
        return None
    try:
        return wandb.Image(overlay(look.picture.data, said.entry), caption=said.entry.answer)
    except (OSError, ValueError) as error:
        log.warning("W&B: a picture cannot be drawn: %s", error)
        return None


def overlay(picture: bytes, entry: Entry) -> Image.Image:
    """A picture with the patches darkened that the language model was not given.

    Args:
        picture: an encoded image.
        entry: the answer; of several tiles those that cut the image are drawn, not the overview.
    """
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    rows, columns = entry.grid or (1, 1)
    boxes = boxes_of(entry)
    there = np.zeros(len(boxes) * rows * columns, dtype=np.uint8)
    patches = kept_in(entry).patches
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


def _relatives(rows: list[Row]) -> dict[str, float]:
    """Cell -> percent of its vanilla value, where vanilla is among the rows."""
    found = {}
    for table in build_tables(rows):
        for column in table.averaged:
            base = table.base(column)
            for row in table.rows:
                value = column.value(row) if row.benchmark == column.benchmark else None
                if base and value is not None:
                    found[row.id] = 100 * value / base
    return found


def _scalars(row: Row, relative: float | None, changed: Mapping[str, float]) -> dict[str, float]:
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

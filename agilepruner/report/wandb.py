"""Weights & Biases as a sink: one run per cell, written after the cell is stored.

Nothing is ever read back from W&B; the rows are the record. A cell is logged once: a marker in the
directory holds what was sent, so a second call sends only what is new or has changed.
"""

import hashlib
import importlib.util
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.report.flips import cell_numbers
from agilepruner.report.lines import build_tables, columns_of
from agilepruner.runner.rows import Row, write_atomically

log = logging.getLogger(__name__)
MODES = ("auto", "online", "offline")
TAG = 64  # characters that W&B allows a tag


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
    contents = [
        (_identity(row), _scalars(row, relatives.get(row.id), changed.get(row.id, {})))
        for row in known
    ]
    logged = 0
    try:
        wandb = importlib.import_module("wandb")
        mode = _resolve(wandb, mode)
        markers = directory / "wandb" / "logged"
        markers.mkdir(parents=True, exist_ok=True)
        for row, sent in zip(known, contents):
            content = json.dumps([project, group, *sent], sort_keys=True, ensure_ascii=False)
            marker = markers / f"{row.id}.json"
            if marker.is_file() and marker.read_bytes() == content.encode():
                continue
            _log(wandb, row, *sent, project=project, group=group, mode=mode, directory=directory)
            write_atomically(marker, content)
            logged += 1
    except Exception as error:  # whatever W&B raises: the rows are safe
        cause = f"{type(error).__name__}: {error}"
        log.warning("W&B: %s. Run the same command again to log the rest.", cause)
    log.info("W&B: %d cells logged (%s), %d in all", logged, mode, len(known))
    return logged


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


def _log(
    wandb: Any,
    row: Row,
    identity: dict[str, Any],
    scalars: dict[str, float],
    project: str,
    group: str,
    mode: str,
    directory: Path,
) -> None:
    """Write one run: identity as config, one history step of scalars."""
    run = wandb.init(
        project=project,
        group=group,
        job_type=row.benchmark,
        id=row.id,
        resume="allow" if mode == "online" else None,
        name=f"{row.strategy}@{row.budget} {row.benchmark}",
        tags=_tags(row.model, row.suite, row.protocol, row.family),
        config=identity,
        mode=mode,
        dir=str(directory),
        reinit="finish_previous",
        settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
    )
    try:
        run.log(scalars)
    except Exception:
        run.finish(exit_code=1)
        raise
    run.finish()


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

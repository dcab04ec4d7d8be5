"""Weights & Biases as a sink: one run per cell, written after the cell is stored.

Nothing is ever read back from W&B; the rows are the record. A cell is logged once: a marker in the
directory holds what was sent, so a second call sends only what is new or has changed.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.report.lines import build_tables, columns_of
from agilepruner.runner.rows import Row, write_atomically

log = logging.getLogger(__name__)
MODES = ("auto", "online", "offline")


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
        UserError: wandb is not installed, or the mode is unknown.
    """
    if mode not in MODES:
        raise UserError(f"W&B mode '{mode}' is unknown. Choose one of: {', '.join(MODES)}.")
    known = [row for row in rows if row.status == "done"]
    relatives = _relatives(known)
    markers = directory / "wandb" / "logged"
    markers.mkdir(parents=True, exist_ok=True)
    wandb = _import()
    mode = _resolve(wandb, mode)
    logged = 0
    for row in known:
        sent = _identity(row), _scalars(row, relatives.get(row.id))
        content = json.dumps([project, group, *sent], sort_keys=True, ensure_ascii=False)
        marker = markers / f"{row.id}.json"
        if marker.is_file() and marker.read_text(encoding="utf-8") == content:
            continue
        try:
            _log(wandb, row, *sent, project=project, group=group, mode=mode, directory=directory)
        except (wandb.errors.Error, OSError) as error:
            log.warning("W&B: %s. Run the same command again to log the rest.", error)
            break
        write_atomically(marker, content)
        logged += 1
    log.info("W&B: %d cells logged (%s), %d in all", logged, mode, len(known))
    return logged


def _import() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"logger=wandb needs the wandb package ({error}). Install it (pip install wandb) or "
            "use logger=none."
        ) from error
    return wandb


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
        tags=[row.model, row.suite, row.protocol, row.family],
        config=identity,
        mode=mode,
        dir=str(directory),
        reinit="finish_previous",
        settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
    )
    run.log(scalars)
    run.finish()


def _identity(row: Row) -> dict[str, Any]:
    """What the cell is: everything that tells it from another one."""
    names = ["model", "strategy", "family", "label", "parameters", "choice", "budget", "full"]
    names += ["benchmark", "protocol", "suite", "metric", "higher_is_better", "scale"]
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


def _scalars(row: Row, relative: float | None) -> dict[str, float]:
    """The benchmark's columns, every metric, FLOPs, kept tokens, complexity."""
    values: dict[str, float | None] = {"n": row.n, "failures": row.failures}
    values |= {column.log: column.value(row) for column in columns_of(row)}
    values |= {"relative_to_vanilla_percent": relative}
    values |= {f"metric/{name}": value for name, value in row.metrics.items()}
    values |= {f"flops/{name}": value for name, value in row.flops.items()}
    values |= {f"kept/{name}": value for name, value in row.kept.items()}
    values |= {f"complexity/{name}": value for name, value in row.complexity.items()}
    values |= {"text_tokens": row.text_tokens, "new_tokens": row.new_tokens}
    return {name: float(value) for name, value in values.items() if value is not None}

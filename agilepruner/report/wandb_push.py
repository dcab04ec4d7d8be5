"""The process that talks to W&B for ``report.wandb_send``: what becomes of it costs nobody else.

It says a JSON object per line on its standard output: where things go, then the id of each run that
was pushed, or what went wrong; then it ends at once, whatever W&B still waits for.
"""

import json
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

START_SECONDS = 60  # that a run may take to begin
STAGING = "WANDB_DATA_DIR"  # names the folder where W&B keeps files of artifacts until they go


def destination(wandb: Any, mode: str) -> tuple[str, str]:
    """The mode as resolved, and what tells a place from another one: server and entity.

    ``auto`` is online where somebody is logged in and ``WANDB_MODE`` says nothing else; nobody is
    ever asked for a key.
    """
    settings = wandb.setup().settings
    if mode == "auto":
        mode = {"dryrun": "offline", "run": "online"}.get(settings.mode, settings.mode)
        if mode == "online" and not wandb.api.api_key:
            mode = "offline"
    place = settings.entity or ""
    return mode, f"{settings.base_url}/{place}" if mode == "online" else place


def push(wandb: Any, run: Mapping[str, Any], project: str, mode: str) -> None:
    """Push one run.

    Args:
        wandb: the package.
        run: as ``report.wandb_send.Run`` has it.
        project: W&B project.
        mode: ``online`` or ``offline``.

    Raises:
        Exception: whatever W&B raises; RuntimeError: its log says that something did not arrive.
    """
    started = wandb.init(
        project=project,
        group=run["group"],
        mode=mode,
        id=run["id"],
        resume="allow" if mode == "online" else None,
        dir=run["directory"],
        reinit="finish_previous",
        settings=wandb.Settings(
            console="off", silent=True, x_disable_stats=True, init_timeout=START_SECONDS
        ),
        **run["start"],
    )
    said = Path(started.dir).parent / "logs" / "debug-internal.log"
    try:
        with TemporaryDirectory(prefix="agilepruner-") as folder:
            started.log(_media(wandb, run, Path(folder)))
            if run["files"]:
                artifact = wandb.Artifact(f"report-{run['id']}", type="report")
                for path in run["files"]:
                    artifact.add_file(path)
                started.log_artifact(artifact)
    except BaseException:
        started.finish(exit_code=1)
        raise
    started.finish()
    if lost := _complaint(said):
        raise RuntimeError(lost)


def _media(wandb: Any, run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The numbers, tables, curves and page of a run as W&B takes them."""
    values = dict(run["numbers"])
    for name, (columns, lines) in run["tables"].items():
        data = [[_cell(wandb, cell, folder) for cell in line] for line in lines]
        values[name] = wandb.Table(columns=columns, data=data)
    for name, (title, across, lines) in run["curves"].items():
        xs, ys = ([[point[i] for point in points] for points in lines.values()] for i in (0, 1))
        values[name] = wandb.plot.line_series(xs, ys, list(lines), title, across)
    if run["page"] is not None:
        values["page"] = wandb.Html(run["page"], inject=False)
    return values


def _cell(wandb: Any, cell: Any, folder: Path) -> Any:
    """A picture (encoded, as bytes) as an image of W&B; anything else as it is."""
    if not isinstance(cell, bytes):
        return cell
    path = folder / f"{len(list(folder.iterdir()))}.jpg"
    path.write_bytes(cell)
    return wandb.Image(str(path))


def _complaint(log: Path) -> str:
    """The first error in the log of W&B's own process: ``finish`` does not raise what was lost."""
    if log.is_file():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and str(record.get("level")).startswith("ERROR"):
                said = [record.get(key) for key in ("msg", "error", "err", "status", "url")]
                return ", ".join(str(one) for one in said if one is not None)
    return ""


def serve(mode: str, say: Callable[..., None]) -> None:
    """Say where things go, then push what comes in."""
    import wandb

    own = os.environ.get(STAGING)
    mode, place = destination(wandb, mode)
    say(mode=mode, place=place)
    job = pickle.load(sys.stdin.buffer)
    sys.argv[:] = job["argv"]  # what W&B shows as the run's command
    for run in job["runs"]:
        os.environ[STAGING] = own or str(Path(run["directory"], "wandb").resolve())
        push(wandb, run, job["project"], mode)
        say(done=run["id"])


def main() -> None:
    """Serve the process that started this one, over its pipes."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what W&B prints is no message

    def say(**message: str) -> None:
        print(json.dumps(message), file=out, flush=True)

    try:
        serve(sys.argv[1], say)
    except BaseException as error:
        say(error=f"{type(error).__name__}: {error}")
        os._exit(1)  # without W&B's own end, which waits for the server
    say(end="")


if __name__ == "__main__":
    main()

"""Runs on their way to Weights & Biases: sent once each, by a process that may fail or hang.

What was sent stands in ``wandb/logged/<run id>.json`` of the results: for each place the digest of
the contents. So a run is sent to a place once, to another place (online after offline, another
project, another server) once as well, and again when anything of it has changed.
"""

import hashlib
import json
import logging
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from agilepruner.runner.rows import write_atomically

log = logging.getLogger(__name__)

PATIENCE = 180  # seconds that one run may take

# Its title, what x is, and by line the points (x, y) in the order of x.
Curve = tuple[str, str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True)
class Sent:
    """What became of runs.

    Attributes:
        mode: ``online`` or ``offline``, as resolved; ``disabled``: ``WANDB_MODE`` says so.
        ids: of what was sent; runs that had been sent before are not among them.
        failed: why the rest was not; empty: all is there.
    """

    mode: str
    ids: list[str]
    failed: str = ""


@dataclass(frozen=True)
class Run:
    """A run of W&B to be; plain data.

    Attributes:
        id: its name there, and that of its marker.
        group: W&B group.
        directory: of the results; W&B's files and the marker go into its ``wandb``.
        start: what ``wandb.init`` gets besides what all runs have.
        numbers: one history step.
        tables: name -> columns and lines; a picture is an encoded JPEG.
        curves: name -> what it shows.
        page: HTML. files: paths of what goes along as an artifact.
    """

    id: str
    group: str
    directory: str
    start: dict[str, Any]
    numbers: dict[str, float]
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    page: str | None = None
    files: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Of everything that is sent."""
        files = [(Path(path).name, Path(path).read_bytes()) for path in self.files]
        told = {**asdict(self), "directory": "", "files": files}
        text = json.dumps(told, sort_keys=True, default=lambda b: hashlib.sha256(b).hexdigest())
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def marker(self) -> Path:
        """Where it stands what was sent."""
        return Path(self.directory) / "wandb" / "logged" / f"{self.id}.json"


def send(runs: Sequence[Run], project: str, mode: str) -> Sent:
    """Send what is new or has changed. Whatever goes wrong is a warning.

    Args:
        runs: to be sent.
        project: W&B project.
        mode: ``online``, ``offline`` or ``auto``.
    """
    ids: list[str] = []
    try:
        with _pusher(mode) as pusher:
            said = pusher.hear()
            mode = said["mode"]
            if mode == "disabled":
                return Sent(mode, [])
            place = f"{mode} {said['place']}/{project}"
            known = {run.id: (run, run.digest) for run in runs}
            fresh = [run for run, digest in known.values() if _sent(run).get(place) != digest]
            for run in fresh:  # nothing is sent that could not be marked
                run.marker.parent.mkdir(parents=True, exist_ok=True)
            for done in pusher.pushed(fresh, project) if fresh else ():
                run, digest = known[done]
                text = json.dumps({**_sent(run), place: digest}, indent=1)
                write_atomically(run.marker, text)
                ids.append(done)
    except Exception as error:
        cause = str(error) if isinstance(error, _Failed) else f"{type(error).__name__}: {error}"
        log.debug("W&B failed", exc_info=True)
        log.warning(
            "W&B: %s. The results are stored; agilepruner wandb-sync sends the rest.", cause
        )
        return Sent(mode, ids, cause)
    return Sent(mode, ids)


def _sent(run: Run) -> dict[str, str]:
    """Place -> digest of what was sent there."""
    try:
        said = json.loads(run.marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


class _Failed(Exception):
    """What the process said, or did not say."""


@contextmanager
def _pusher(mode: str) -> Iterator["_Pusher"]:
    """A process that runs ``wandb_push``; it is ended here, whatever it does."""
    path = os.pathsep.join(place for place in sys.path if place)
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", "agilepruner.report.wandb_push", mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is this process's to answer
            env={"WANDB_ERROR_REPORTING": "false", **os.environ, "PYTHONPATH": path},
        ) as process,
    ):
        try:
            yield _Pusher(process, errors)
        finally:
            process.kill()  # wandb-core ends with it


class _Pusher:
    """What is said to the process, and heard from it."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):  # closed, for nobody listens any more
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def hear(self) -> dict[str, str]:
        """The next message.

        Raises:
            _Failed: it says so, or says nothing for too long.
        """
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise _Failed(f"no answer within {PATIENCE} s") from None
        if not line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise _Failed(f"its process ended: {' '.join(last) or 'without a word'}")
        message: dict[str, str] = json.loads(line)
        if "error" in message:
            raise _Failed(message["error"])
        return message

    def pushed(self, runs: Sequence[Run], project: str) -> Iterator[str]:
        """Ids of runs as they are pushed."""
        job = {"runs": [asdict(run) for run in runs], "project": project, "argv": sys.argv}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it says why it has ended
            pickle.dump(job, self._process.stdin)
            self._process.stdin.close()
        while "end" not in (message := self.hear()):
            yield message["done"]

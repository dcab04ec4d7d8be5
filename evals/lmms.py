"""lmms-eval, contained: what it changes in the process is put back, what it prints is dropped.

Importing lmms-eval, or one of its task modules, or scoring with it, changes settings of other
libraries for the whole process: all warnings are ignored, PIL fills truncated pictures with grey,
`random` is reseeded, a `.env` file is read, and more. All of lmms-eval is imported and called
through here; `SETTINGS` lists what is put back, and the tests watch that and more.
"""

import importlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, cast

from agilepruner.torchvision import hide_if_broken

_ABSENT = object()
SETTINGS_LOCK = threading.RLock()  # who changes a setting of the process holds it meanwhile


@cache
def import_lmms_eval() -> tuple[Any, Any]:
    """lmms-eval's task class (``ConfigurableTask``) and YAML loader; call both `contained`."""
    hide_if_broken()
    with contained():
        import lmms_eval.api.metrics  # noqa: F401  (registers the aggregation "mean")
        from lmms_eval.api.task import ConfigurableTask
        from lmms_eval.utils import load_yaml_config
        from tenacity import stop_after_attempt
    # Failing twice is failing: no five attempts two seconds apart.
    for method in (ConfigurableTask.download, ConfigurableTask.process_results):
        method.retry.stop = stop_after_attempt(1)  # type: ignore[attr-defined]
    return ConfigurableTask, load_yaml_config


def task_module(name: str) -> ModuleType:
    """The module ``lmms_eval.tasks.<name>``, imported contained."""
    full = f"lmms_eval.tasks.{name}"
    if full not in sys.modules:
        import_lmms_eval()
        with contained():
            importlib.import_module(full)
    return sys.modules[full]


@contextmanager
def contained() -> Iterator[None]:
    """Put back every setting of the process that lmms-eval changes, and drop what it prints.

    Seeds are settings: who draws random numbers afterwards draws what they would have drawn.
    Takes about a millisecond: put it around loops, not into them. One thread at a time is in here;
    what other threads set meanwhile is put back as well, their output is left alone.
    """
    with SETTINGS_LOCK, quiet(), warnings.catch_warnings():
        restores = [save() for save in SETTINGS.values()]
        try:
            yield
        finally:
            for restore in reversed(restores):
                restore()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what this thread prints to stdout and stderr; other threads print as before."""
    out, err = _Muted(sys.stdout), _Muted(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:  # a log handler that was made meanwhile keeps its stream: it must go on writing
            out.thread = err.thread = None


class _Muted:
    """A stream that drops what one thread writes; closed and missing (None) streams are fine."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.thread: int | None = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _passes(self) -> bool:
        return self.stream is not None and threading.get_ident() != self.thread

    def write(self, text: str) -> int:
        return self.stream.write(text) if self._passes() else len(text)

    def flush(self) -> None:
        if self._passes():
            self.stream.flush()

    def isatty(self) -> bool:
        return self._passes() and self.stream.isatty()


def _attributes(*names: str) -> Callable[[], Callable[[], None]]:
    """Attributes as ``package.module:name`` or ``package.module:class.name``."""

    def save() -> Callable[[], None]:
        found = []
        for full in names:
            module, path = full.split(":")
            *owners, name = path.split(".")
            owner = importlib.import_module(module)
            for each in owners:
                owner = getattr(owner, each)
            value = vars(owner).get(name, _ABSENT)  # a class may inherit it
            found.append((owner, name, value.copy() if isinstance(value, dict) else value))

        def restore() -> None:
            for owner, name, value in found:
                if value is not _ABSENT:
                    setattr(owner, name, value)
                elif name in vars(owner):
                    delattr(owner, name)

        return restore

    return save


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)

    return restore


def _search_path() -> Callable[[], None]:
    before = list(sys.path)

    def restore() -> None:
        sys.path[:] = before

    return restore


def _logging() -> Callable[[], None]:
    """Levels, handlers and switches of the loggers there are; new ones keep what they got."""
    manager = logging.root.manager
    loggers = [x for x in list(manager.loggerDict.values()) if isinstance(x, logging.Logger)]
    before = [
        (x, x.level, list(x.handlers), list(x.filters), x.propagate, x.disabled)
        for x in [logging.root, *loggers]
    ]
    disabled = manager.disable

    def restore() -> None:
        for logger, level, handlers, filters, propagate, off in before:
            if logger.level != level:
                logger.setLevel(level)
            logger.handlers[:], logger.filters[:] = handlers, filters
            logger.propagate, logger.disabled = propagate, off
        if manager.disable != disabled:
            logging.disable(disabled)

    return restore


def _loguru() -> Callable[[], None]:
    """Keep the sinks out of reach: a removed one could not be put back."""
    from loguru import logger

    core: Any = logger._core  # type: ignore[attr-defined]
    before = core.handlers, core.min_level
    core.handlers, core.min_level = _forwarder(), 0

    def restore() -> None:
        if core.handlers is not _forwarder():
            _forwarder.cache_clear()  # it was removed, which ends it
        core.handlers, core.min_level = before

    return restore


@cache
def _forwarder() -> dict[int, Any]:
    """A loguru sink that hands messages to `logging`, of lmms-eval its errors only."""
    from loguru import logger

    def forward(message: Any) -> None:
        name, level = message.record["name"], message.record["level"].no
        ours = "lmms_eval" not in Path(message.record["file"].path).parts  # tasks are named "utils"
        if level >= logging.ERROR or ours:
            logging.getLogger(name).log(level, message.record["message"])

    core: Any = logger._core  # type: ignore[attr-defined]
    core.handlers = {}
    logger.add(forward, level=0, format="{message}")
    return core.handlers


def _random_numbers() -> Callable[[], None]:
    import numpy as np
    import torch

    state, np_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(state)
        np.random.set_state(np_state)
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore


def _signals() -> Callable[[], None]:
    """Only the main thread may set a handler, so only there one can have been changed."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return restore


# What is put back -> a function that saves it and returns the function that restores it. Warning
# filters and the standard streams are put back by `contained` itself.
SETTINGS: dict[str, Callable[[], Callable[[], None]]] = {
    "environment variables": _environment,  # lmms_eval.llm_judge reads a .env file
    "sys.path": _search_path,  # some task modules append to it
    "exception hooks": _attributes(
        "sys:excepthook", "sys:unraisablehook", "sys:displayhook", "threading:excepthook"
    ),
    "logging": _logging,
    "loguru sinks": _loguru,  # lmms_eval.models removes all and adds one on stdout
    "random numbers": _random_numbers,  # MMBench's evaluator seeds `random` with 2680
    "pictures": _attributes("PIL.ImageFile:LOAD_TRUNCATED_IMAGES", "PIL.Image:MAX_IMAGE_PIXELS"),
    "YAML tags": _attributes(
        *(f"yaml:{name}.yaml_constructors" for name in ("Loader", "FullLoader", "UnsafeLoader"))
    ),
    "process group timeout": _attributes("torch.distributed.distributed_c10d:default_pg_timeout"),
    "start of processes": _attributes("multiprocessing.context:_default_context._actual_context"),
    "signal handlers": _signals,  # a timeout by SIGALRM in some scorers
}

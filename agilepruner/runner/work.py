"""How the work of a run is cut, spread over threads, and what it says when a part of it fails."""

import gc
import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from agilepruner.linalg import one_core

log = logging.getLogger(__name__)


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of at most ``size`` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def halves(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """The two halves of a list."""
    return items[: len(items) // 2], items[len(items) // 2 :]


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """Results in order, computed by ``workers`` threads of one core each.

    On a CPU that is faster than one call with many cores, which wait for each other after every
    small layer: long, where other processes have the cores.
    """
    if workers == 1:
        with one_core():
            yield from map(function, items)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class Attempt(NamedTuple):
    """What became of a call: its value, or why there is none and whether memory ran out."""

    value: Any = None
    problem: str = ""
    no_memory: bool = False


def attempt(call: Callable[[], Any]) -> Attempt:
    """Call something that may fail; what a failed call held is free when this returns."""
    try:
        return Attempt(call())
    except Exception as error:
        failed = Attempt(None, cause(error), out_of_memory(error))
        log.debug("an attempt failed", exc_info=True)
    if failed.no_memory:  # outside the except block, which keeps alive what the call held
        release_memory()
    return failed


def cause(error: BaseException) -> str:
    """An exception's type and the first line of what it says; the same in every process."""
    lines = re.sub(" at 0x[0-9a-f]+", "", str(error)).strip().splitlines()  # of an object in memory
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error)
    )


def release_memory() -> None:
    """Return what a failed call held to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def global_randomness() -> tuple:
    """The state of the generators that a process shares."""
    cuda: Any = ()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cuda = tuple(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all())
    legacy: Any = np.random.get_state(legacy=True)
    own = random.getstate(), legacy[1].tobytes(), legacy[2]
    return own, torch.get_rng_state().numpy().tobytes(), cuda

"""Processes that score what is answered while the model answers the rest.

They save time and change nothing: what a process finished lies on disk, and whatever it did not,
for any reason, its caller does itself. They hold no lock and no model, end with the process that
started them, however that ends, and leave the cores to it.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

log = logging.getLogger(__name__)

MOST = 16  # processes: each holds a benchmark's columns and the answers of a cell
WORTH = 200_000  # answers: scored in about as long as a process takes to read lmms-eval
NICE = 10
PRELOADED = "agilepruner.runner.scoring_process"


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def automatic(answers: int) -> int:
    """Processes for so many answers: one per core but one, shared with the ranks of a machine.

    None for few answers, which are scored sooner than a process has started.
    """
    if answers < WORTH:
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(MOST, (cores() - 1) // ranks))


class Scorers:
    """Up to ``count`` processes at a time; what runs is ended when the ``with`` is left."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOADED])
        self._stopped = False
        self._running: list[BaseProcess] = []
        self._thread = ThreadPoolExecutor(1, "scoring")

    def each(
        self,
        function: Callable[[Any, Any], None],
        shared: Any,
        items: Sequence[Any],
        on_done: Callable[[int], None] = lambda number: None,
    ) -> set[int]:
        """Call ``function(shared, item)`` for every item, in other processes; waits for them.

        Args:
            function: of a module; what it makes, it leaves on disk.
            shared: pickled once, and unpickled once by every process.
            items: shared out in turn.
            on_done: called with the number of each item that was done.

        Returns:
            The numbers of the items that were done; of all others it is not known.
        """
        if not self.count:
            return set()
        data = pickle.dumps(shared)
        numbered = list(enumerate(items))
        open_: dict[Any, BaseProcess] = {}
        done: set[int] = set()
        try:
            for first in range(min(self.count, len(items))):
                part = numbered[first :: self.count]
                if (started := self._start(function, data, part)) is not None:
                    open_.update([started])
            while open_:
                for receiver in wait(list(open_)):
                    assert isinstance(receiver, Connection)
                    try:
                        number, problem = receiver.recv()
                    except (EOFError, OSError):
                        self._ended(open_.pop(receiver))
                        receiver.close()
                        continue
                    if problem:
                        log.warning("a process that scores failed (%s)", problem)
                    else:
                        done.add(number)
                        on_done(number)
        finally:
            for process in open_.values():
                process.terminate()
        return done

    def later(self, function: Callable[..., None], *arguments: Any) -> Future[None]:
        """Call a function that calls ``each``, one after the other, while the caller goes on."""
        return self._thread.submit(function, *arguments)

    def _start(
        self, function: Callable[..., None], data: bytes, part: list[tuple[int, Any]]
    ) -> tuple[Connection, BaseProcess] | None:
        if self._stopped:
            return None
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(sender, function, data, part), name="scorer", daemon=True
        )
        try:
            process.start()
        except Exception as error:  # no memory, no process left: the caller does it
            log.warning("no process to score in (%r); it is done in this one", error)
            receiver.close()
            return None
        finally:
            sender.close()
        self._running.append(process)
        if self._stopped:  # meanwhile
            process.terminate()
        return receiver, process

    def _ended(self, process: BaseProcess) -> None:
        process.join()
        self._running.remove(process)
        if process.exitcode and not self._stopped:
            log.warning(
                "a process that scores ended with status %s; the rest of its work is done in this "
                "one",
                process.exitcode,
            )

    def __enter__(self) -> "Scorers":
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped = True
        for process in list(self._running):
            process.terminate()
        self._thread.shutdown(cancel_futures=True)


def _work(
    sender: Any, function: Callable[[Any, Any], None], data: bytes, part: list[tuple[int, Any]]
) -> None:
    """What a process does; an interrupt is its parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(NICE)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    gc.disable()  # millions of records and no cycles: a fifth of the time, and of the memory more
    shared = pickle.loads(data)
    for number, item in part:
        try:
            function(shared, item)
        except Exception as error:
            logging.getLogger(__name__).debug("scoring failed", exc_info=True)
            sender.send((number, f"{type(error).__name__}: {error}"))
        else:
            sender.send((number, ""))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)

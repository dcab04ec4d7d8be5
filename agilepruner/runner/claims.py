"""Several processes fill one results directory: who holds which share of the work.

A claim is a file lock, so it ends with the process that holds it, however that ends, and the next
one takes over. Nothing else is shared: no server, no collectives, no order of arrival.
"""

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from agilepruner.errors import UserError

MOST_WRITERS = 4096


class Claims:
    """The claims of this process in one results directory.

    Attributes:
        writer: a number that no other living process has: its own journal files.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "locks"
        self._held: dict[str, FileLock] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{directory} cannot be written ({error.strerror}). Choose another place with "
                "results=... or name=..."
            ) from error
        self.writer = next(n for n in range(MOST_WRITERS) if self.take(f"writer-{n}"))

    def take(self, name: str, wait: bool = False) -> bool:
        """Claim something; False when another process holds it (never with ``wait``).

        Raises:
            UserError: the file system has no locks, or cannot be written.
        """
        if name in self._held:
            return True
        lock = FileLock(self._folder / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            code = getattr(error, "errno", None)
            hint = "It has no file locks." if code in (errno.ENOLCK, errno.ENOSYS) else ""
            raise UserError(
                f"{self._folder} cannot hold the locks of a run ({error}). {hint} Choose another "
                "place with results=..."
            ) from error
        self._held[name] = lock
        return True

    def give_back(self, name: str) -> None:
        """Let another process have it."""
        lock = self._held.pop(name, None)
        if lock is not None:
            lock.release()

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *raised: object) -> None:
        for name in list(self._held):
            self.give_back(name)

"""Standard streams that cannot end a run: closed, full, broken or of a narrow encoding."""

import contextlib
import os
import sys
from typing import Any


class Sturdy:
    """A text stream whose failures are dropped: a message is lost, the run goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it was closed
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def sturdy_streams() -> None:
    """Make stderr sturdy and both streams able to print every character.

    A descriptor that was closed is opened on nothing first: the next file that is opened would
    else get its number, and what libraries print would be written into it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = Sturdy(sys.stderr)  # type: ignore[assignment]

"""Freed memory is kept for the next tensor: on a CPU, page faults were a fifth of a generation."""

import contextlib
import ctypes

# glibc's malloc.h. By default every block above 32 MiB is mapped anew, page by page, and unmapped
# when it is freed, and each thread has an arena of its own that gives back what is above 128 KiB.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
MOST = 2**31 - 1
PAD = 64 << 20


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for all its threads; nothing where malloc is another.

    Results are the same bits. Its peak is what counts afterwards: less returns to the system.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        settings = ((ARENA_MAX, 1), (MMAP_THRESHOLD, MOST), (TRIM_THRESHOLD, MOST), (TOP_PAD, PAD))
        for parameter, value in settings:
            mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Return to the system what is freed and kept; where memory is wanted anew, it is faulted in.

    Between benchmarks: prompts of other lengths leave holes that nothing fits any more.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

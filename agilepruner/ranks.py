"""Which of several processes this one is, as torchrun says it; the only one where nobody does."""

import os


def first() -> bool:
    """Whether it is the one that prints and writes the report."""
    return int(os.environ.get("RANK", 0)) == 0


def device(wanted: str, gpus: int) -> str:
    """The device of this process.

    Args:
        wanted: ``auto`` takes a GPU where there is one; ``cuda`` leaves it open which.
        gpus: that this process sees. Of several each process of a machine takes its own.
    """
    if wanted == "auto":
        wanted = "cuda" if gpus else "cpu"
    if wanted == "cuda" and gpus > 1 and "LOCAL_RANK" in os.environ:
        return f"cuda:{int(os.environ['LOCAL_RANK']) % gpus}"
    return wanted

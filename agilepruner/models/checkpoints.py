"""Checkpoints as local directories: what is hashed, and what is loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agilepruner import hub
from agilepruner.errors import UserError

# What loading reads; weights in another format only where there are no safetensors.
SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
SAFE, PICKLED = ("*.safetensors",), ("*.bin", "*.pt", "*.pth")


def local(path: str, revision: str | None, fetch: bool = True) -> Path:
    """The directory of a checkpoint: itself, or the hub's snapshot of it at one commit.

    Args:
        path: directory or hub name.
        revision: branch, tag or commit; None: the newest.
        fetch: download what is not here.

    Raises:
        UserError: it cannot be had.
    """
    if Path(path).is_dir():
        return Path(path)
    return snapshot(on_hub(path, revision), fetch)


def on_hub(repo: str, revision: str | None) -> hub.Part:
    """The files of a checkpoint on the hub that loading may read.

    Raises:
        UserError: the hub does not have it, or cannot be reached.
    """
    return hub.ask("model", repo, revision, _needed_of(repo))


def snapshot(part: hub.Part, fetch: bool = True) -> Path:
    """The local directory of a checkpoint's files, fetched if they are not here.

    Raises:
        UserError: they cannot be had.
    """
    files = part.download(fetch)
    return files[0].parents[next(iter(part.files)).count("/")]


def _needed_of(repo: str) -> Any:
    def choose(api: Any, commit: str) -> Mapping[str, int]:
        found = hub.sizes(api, "model", repo, commit)
        safe = any(Path(name).match(p) for name in found for p in SAFE if "/" not in name)
        wanted = [*SMALL, *(SAFE if safe else PICKLED)]
        flat = {n: size for n, size in found.items() if any(_is(n, p) for p in wanted)}
        if not flat:
            raise ValueError("it holds no checkpoint")
        return flat

    return choose


def _is(name: str, pattern: str) -> bool:
    """Of the repository's first level, or a chat template in a folder."""
    folder, _, _ = name.rpartition("/")
    return Path(name).match(pattern) and (not folder or name.endswith(".jinja"))


@contextmanager
def fetching(path: str, setting: str) -> Iterator[None]:
    """Say in a sentence that a checkpoint cannot be loaded; ``setting`` of ``model.load`` names it.

    Raises:
        UserError: with the cause and what to do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each format and library has its own for a damaged file
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"'{path}' cannot be loaded: {cause}. Give a directory with model.load.{setting}=..., "
            "or a hub name where the hub can be reached (`hf auth login` for gated ones)."
        ) from error

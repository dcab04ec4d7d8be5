"""Checkpoints as local directories: what is hashed, and what is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agilepruner.errors import UserError

# What loading reads; weights in another format only where there are no safetensors.
SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
SAFE, PICKLED = ("*.safetensors",), ("*.bin", "*.pt", "*.pth")


def local(path: str, revision: str | None, setting: str, fetch: bool = True) -> Path:
    """The directory of a checkpoint: itself, or the hub's snapshot of it at one commit.

    Args:
        path: directory or hub name.
        revision: branch, tag or commit; None: the newest.
        setting: of ``model.load`` that names it, for the message.
        fetch: download what is not here.

    Raises:
        UserError: it cannot be had.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import HfApi, snapshot_download

    with fetching(path, setting):
        if not fetch:
            return Path(snapshot_download(path, revision=revision, local_files_only=True))
        try:
            info = HfApi().model_info(path, revision=revision)
        except OSError:  # no hub: what was fetched before
            return Path(snapshot_download(path, revision=revision, local_files_only=True))
        names = [file.rfilename for file in info.siblings or []]
        safe = any(name.endswith(".safetensors") for name in names)
        patterns = [*SMALL, *(SAFE if safe else PICKLED)]
        return Path(snapshot_download(path, revision=info.sha, allow_patterns=patterns))


@contextmanager
def fetching(path: str, setting: str) -> Iterator[None]:
    """Say in a sentence that a checkpoint cannot be had; ``setting`` of ``model.load`` names it.

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

"""The Hugging Face hub: what of a repository is needed, at which commit, and how many bytes.

A repository is asked before anything is downloaded. Its last answer is remembered beside the
hub's own cache, so that a machine without a network finds what was fetched before. Public
repositories need no login.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.ranks import first

log = logging.getLogger(__name__)

MARGIN = 1 << 30  # bytes that a download leaves free


@dataclass(frozen=True)
class Part:
    """Some files of a repository at one commit.

    Attributes:
        repo: owner/name. kind: ``model`` or ``dataset``. commit: 40 hexadecimal digits.
        files: path in the repository -> bytes.
    """

    repo: str
    kind: str
    commit: str
    files: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())

    @property
    def missing(self) -> dict[str, int]:
        """The files that are not in the hub's cache, or not as long as they should be there."""
        return {name: size for name, size in self.files.items() if not self._whole(name)}

    def _whole(self, name: str) -> bool:
        found = self._cached(name)
        return found is not None and found.stat().st_size == self.files[name]

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.repo, name, revision=self.commit, repo_type=self.kind, cache_dir=cache()
        )
        return Path(found) if isinstance(found, str) else None

    def download(self, fetch: bool = True) -> tuple[Path, ...]:
        """Where the files lie, fetched where they are not here; in a terminal with a bar.

        Args:
            fetch: False raises instead of fetching.

        Raises:
            UserError: they cannot be had.
        """
        if fetch and self.missing:
            self._fetch()
        absent = list(self.missing)
        if absent:
            raise UserError(
                f"the {_named(self.kind)} {self.repo} is not here ({len(absent)} of "
                f"{len(self.files)} files are missing, e.g. {absent[0]}).{_offline()}"
            )
        return tuple(path for name in self.files if (path := self._cached(name)) is not None)

    def _fetch(self) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

        size = readable(sum(self.missing.values()))
        log.info("downloading the %s %s: %s", _named(self.kind), self.repo, size)
        for name in self.missing:
            if (cut := self._cached(name)) is not None:
                log.warning("%s is not whole: it is fetched again", cut)
                cut.resolve().unlink(missing_ok=True)  # the hub's client takes what is there
                cut.unlink(missing_ok=True)
        bars = sys.stderr.isatty() and first()
        (enable_progress_bars if bars else disable_progress_bars)()
        try:
            snapshot_download(
                self.repo,
                repo_type=self.kind,
                revision=self.commit,
                cache_dir=cache(),
                allow_patterns=[re.sub(r"([*?[])", r"[\1]", name) for name in self.files],
            )
        except Exception as error:
            raise unreachable(self.kind, self.repo, error) from error


def ask(
    kind: str,
    repo: str,
    revision: str | None,
    choose: Callable[[Any, str], Mapping[str, int]],
    *key: str | None,
) -> Part:
    """What of a repository is needed, asked of the hub; the last answer where it is away.

    Args:
        kind: ``model`` or ``dataset``.
        repo: owner/name.
        revision: branch, tag or commit; None: the newest.
        choose: from ``HfApi`` and the commit, the needed files with their bytes.
        key: what tells this choice from others of the repository.

    Raises:
        UserError: the hub does not have it, or cannot be reached and was never asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    text = json.dumps([kind, repo, revision, *key])
    remembered = _memory() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    if text in _answers:  # once in a process: a branch that moves meanwhile moves nothing here
        return _answers[text]
    known = _recall(remembered, kind, repo)
    if known and (HF_HUB_OFFLINE or revision == known.commit):  # a commit does not change
        return known
    api = HfApi()
    try:
        commit = str(api.repo_info(repo, repo_type=kind, revision=revision).sha)
        part = Part(repo, kind, commit, dict(choose(api, commit)))
    except Exception as error:
        if known is None or not _away(error):
            raise unreachable(kind, repo, error, revision) from error
        log.warning("%s: the hub cannot be reached, using commit %s", repo, known.commit[:8])
        part = known
    else:
        _remember(remembered, part)
    _answers[text] = part
    return part


_answers: dict[str, Part] = {}


def sizes(api: Any, kind: str, repo: str, commit: str) -> dict[str, int]:
    """Every file of a repository with its bytes."""
    entries = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
    return {entry.path: entry.size for entry in entries if hasattr(entry, "size")}


def cache() -> Path:
    """Where the hub's files are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def check_room(parts: list[Part]) -> None:
    """Refuse a download that the disk cannot hold, before it begins.

    Raises:
        UserError: with both numbers.
    """
    needed = sum({(p.repo, name): n for p in parts for name, n in p.missing.items()}.values())
    free = free_bytes()
    if needed and needed + MARGIN > free:
        raise UserError(
            f"{readable(needed)} are to be downloaded to {cache()}, where {readable(free)} are "
            "free. Make room, let HF_HOME name another disk, or choose fewer benchmarks."
        )


def free_bytes() -> int:
    """Free space for the hub's cache."""
    place = cache()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def readable(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return (
                f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} TiB"


# --- what goes wrong ---------------------------------------------------------------------------


def unreachable(
    kind: str, repo: str, error: BaseException, revision: str | None = None
) -> UserError:
    """The error for a repository that cannot be had."""
    from huggingface_hub import constants, errors

    name = f"the {_named(kind)} {repo}"
    if isinstance(error, errors.GatedRepoError):
        said = f"{name} is gated: ask for access on its page, then log in with `hf auth login`."
    elif isinstance(error, errors.RepositoryNotFoundError):
        said = (
            f"{name} is not on {constants.ENDPOINT}, or it is private: check the name, or log in "
            "with `hf auth login`."
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        said = f"{name} has no revision {revision!r}."
    elif (status := _status(error)) in (401, 403):
        said = (
            f"{name} was refused ({status}): ask for access on its page and log in with `hf auth "
            "login`; for public ones, remove a token that is no longer valid with `hf auth logout`."
        )
    elif status == 429 or (status or 0) >= 500:
        said = f"{name} cannot be had just now (the hub answers {status}): try again later."
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        said = f"{name} does not fit on the disk of {cache()}: make room, or move HF_HOME."
    else:
        line = (str(error).strip().splitlines() or ["no message"])[0][:200]
        said = f"{name} cannot be loaded ({type(error).__name__}: {line.rstrip('.')})."
    return UserError(f"{said} Local files: {_instead(kind)}{_offline()}")


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error came with, or the one behind it."""
    response = getattr(error, "response", None)
    if response is None and error.__cause__ is not None:
        return _status(error.__cause__)
    return getattr(response, "status_code", None)


def _away(error: BaseException) -> bool:
    """Whether it is the hub that did not answer, rather than its answer that was no."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        status = _status(error) or 0
        return status == 429 or status >= 500
    return isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore"))


def _instead(kind: str) -> str:
    return "model.load.path=DIR." if kind == "model" else "suite=local suite.directory=DIR."


def _offline() -> str:
    on = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    return " HF_HUB_OFFLINE is set." if on else ""


def _named(kind: str) -> str:
    return "data set" if kind == "dataset" else kind


# --- memory ------------------------------------------------------------------------------------


def _memory() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "agilepruner"


def _recall(path: Path, kind: str, repo: str) -> Part | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Part(repo, kind, data["commit"], data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, part: Part) -> None:
    """Best effort: without it only the hub can answer."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"commit": part.commit, "files": dict(part.files)}))
        os.replace(temporary, path)
    except OSError as error:
        log.debug("not remembered: %s", error)

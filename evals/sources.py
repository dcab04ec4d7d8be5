"""Where the documents of a benchmark lie: a directory of parquet files, or data sets on the hub.

Of a hub data set the commit and the files of the one split that is scored are found first; then
only these are downloaded, and read from where they were stored. Public data needs no login.
"""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from evals.documents import outside

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Local files of a benchmark's split, and what they are.

    Attributes:
        files: parquet files of the documents, in order.
        images: those of a second table that holds the images; empty: they are with the documents.
        image_of: (column of the documents, column of the second table) that join the two.
        identity: plain data that is another for other bytes.
    """

    files: tuple[Path, ...]
    images: tuple[Path, ...]
    image_of: tuple[str, str]
    identity: dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """Files of one split of a hub data set at one commit.

    Attributes:
        repo, config, split: as the hub names them. commit: 40 hexadecimal digits.
        files: paths inside the repository. bytes: of all of them.
    """

    repo: str
    config: str | None
    split: str
    commit: str
    files: tuple[str, ...]
    bytes: int

    def download(self, fetch: bool = True) -> tuple[Path, ...]:
        """The files in the hub's local cache, fetched where they are not there (if ``fetch``).

        Raises:
            UserError: they cannot be had.
        """
        from huggingface_hub import hf_hub_download

        try:
            return tuple(
                Path(
                    hf_hub_download(
                        self.repo,
                        file,
                        repo_type="dataset",
                        revision=self.commit,
                        local_files_only=not fetch,
                    )
                )
                for file in self.files
            )
        except Exception as error:
            raise unreachable(self.repo, error) from error


def directory(
    suite: Mapping[str, Any], benchmark: str, file_digest: Callable[[Path], str]
) -> Source:
    """The parquet file of a benchmark in a directory suite.

    Args:
        suite: the suite config.
        benchmark: config name, and name of the file.
        file_digest: hash of a file's whole content.

    Raises:
        UserError: there is no such directory or file (says what there is), or no parquet file.
    """
    file = suite_file(suite, benchmark)
    try:
        pictures = outside([file])
        images = [file_digest(path) if path.is_file() else None for path in pictures]
        identity: dict[str, Any] = {"file": file_digest(file)}
    except Exception as error:  # pyarrow has a dozen classes for what a broken file may be
        raise UserError(
            f"{file} is no readable parquet file ({type(error).__name__}: {_line(error)}). "
            "Write it again, or choose another suite."
        ) from error
    if images:
        identity["images"] = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    return Source((file,), (), ("", ""), identity)


def suite_file(suite: Mapping[str, Any], benchmark: str) -> Path:
    """Path of a benchmark's parquet file in a directory suite.

    Raises:
        UserError: there is no such directory or file; says what there is.
    """
    folder = Path(suite["directory"])
    if suite["directory"] == "???" or not folder.is_dir():
        raise UserError(
            f"The suite directory {folder} does not exist. Set suite.directory=..., or build "
            "one with scripts/build_suite.py."
        )
    file = folder / f"{benchmark}.parquet"
    if not file.exists():
        have = sorted(path.stem for path in folder.glob("*.parquet"))
        raise UserError(
            f"Suite '{suite['name']}' has no documents for '{benchmark}' ({file} does not exist). "
            f"It has: {', '.join(have) or 'nothing'}."
        )
    return file


KINDS = "scenes.csv"  # what kind of image (simple, complex, ...) a document of a built suite shows


def kinds(suite: Mapping[str, Any], benchmark: str) -> dict[int, str]:
    """Document index -> kind of image; empty for suites that do not say."""
    path = Path(suite["directory"] or "") / KINDS
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["benchmark"] == benchmark]
    return {int(line["doc_id"]): line["kind"] for line in lines}


def hub(settings: Mapping[str, Any], split: str) -> list[Listing]:
    """What of the hub a benchmark needs: its split, and the table of images where that is apart.

    Args:
        settings: ``hub`` of a benchmark config.
        split: name of the split that is scored.

    Raises:
        UserError: the data set cannot be found.
    """
    revision = settings.get("revision")
    found = [listing(settings["path"], settings.get("name"), split, revision)]
    if settings.get("images"):
        found.append(listing(settings["path"], settings["images"], split, found[0].commit))
    return found


def downloaded(settings: Mapping[str, Any], listings: list[Listing], fetch: bool = True) -> Source:
    """Files of what ``hub`` listed; where ``fetch`` is False, only if they are all here."""
    files = listings[0].download(fetch)
    images = listings[1].download(fetch) if len(listings) > 1 else ()
    join = settings.get("image_of") or ("", "")
    identity = {"hub": [[each.repo, each.commit, *each.files] for each in listings]}
    return Source(files, images, (join[0], join[1]), identity)


def listing(repo: str, config: str | None, split: str, revision: str | None) -> Listing:
    """Commit, files and bytes of a split, asked of the hub; the last answer where it is away.

    Raises:
        UserError: the hub does not have it, or cannot be reached and was never asked.
    """
    key = json.dumps([repo, config, split, revision])
    remembered = _cache() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        found = _ask(repo, config, split, revision)
    except Exception as error:
        if not remembered.is_file():
            raise unreachable(repo, error) from error
        data = json.loads(remembered.read_text(encoding="utf-8"))
        log.warning("%s: the hub cannot be reached, using commit %s", repo, data["commit"][:8])
        return Listing(**{**data, "files": tuple(data["files"])})
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(json.dumps(asdict(found)), encoding="utf-8")
    except OSError as error:
        log.debug("listing not remembered: %s", error)
    return found


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "agilepruner" / "listings"


def _ask(repo: str, config: str | None, split: str, revision: str | None) -> Listing:
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    api = HfApi()
    commit = str(api.dataset_info(repo, revision=revision).sha)
    builder = load_dataset_builder(repo, name=config, revision=commit)
    patterns = builder.config.data_files or {}
    if split not in patterns:
        raise ValueError(f"no split '{split}'; it has: {', '.join(map(str, patterns)) or 'none'}")
    marker = f"{repo}@{commit}/"
    files = tuple(str(url).partition(marker)[2] for url in patterns[split])
    odd = [file for file in files if not file.endswith(".parquet")]
    if odd or not files:
        raise ValueError(f"split '{split}' is not made of parquet files ({odd[:1] or 'no files'})")
    sizes = api.get_paths_info(repo, list(files), revision=commit, repo_type="dataset")
    return Listing(repo, config, split, commit, files, sum(getattr(f, "size", 0) for f in sizes))


def unreachable(path: str, error: BaseException) -> UserError:
    """The error for a data set that cannot be had from the hub."""
    return UserError(
        f"the data set {path} cannot be loaded ({type(error).__name__}: {_line(error)}). Run "
        "`agilepruner doctor`; log in with `hf auth login` if it is gated; or point suite=local "
        f"at parquet files.{_offline()}"
    )


def _offline() -> str:
    on = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    return " HF_HUB_OFFLINE is set." if on else ""


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]

"""Where the documents of a benchmark lie: a directory of parquet files, or data sets on the hub.

Of a hub data set the commit and the files of the one split that is scored are found first; then
only these are downloaded, and read from where they were stored. Public data needs no login.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from agilepruner.errors import UserError
from agilepruner.hub import Part, ask
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


def hub(settings: Mapping[str, Any], split: str) -> list[Part]:
    """What of the hub a benchmark needs: its split, and the table of images where that is apart.

    Args:
        settings: ``hub`` of a benchmark config.
        split: name of the split that is scored.

    Raises:
        UserError: the hub does not have it, or cannot be reached.
    """
    path, revision = settings["path"], settings.get("revision")
    found = [_part(path, settings.get("name"), split, revision)]
    if settings.get("images"):
        found.append(_part(path, settings["images"], split, found[0].commit))
    return found


def downloaded(settings: Mapping[str, Any], parts: Sequence[Part], fetch: bool = True) -> Source:
    """The files of what ``hub`` found; where ``fetch`` is False, only if they are all here.

    Raises:
        UserError: they cannot be had.
    """
    files = parts[0].download(fetch)
    images = parts[1].download(fetch) if len(parts) > 1 else ()
    join = settings.get("image_of") or ("", "")
    identity = {"hub": [[each.repo, each.commit, *each.files] for each in parts]}
    return Source(files, images, (join[0], join[1]), identity)


def count_documents(files: Sequence[Path], fan_out: str | None = None) -> int:
    """How many documents parquet files hold: rows, or entries of the lists in a column."""
    if fan_out is None:
        return sum(pq.read_metadata(file).num_rows for file in files)
    columns = [pq.read_table(file, columns=[fan_out])[fan_out] for file in files]
    return sum(len(entries or ()) for column in columns for entries in column.to_pylist())


def check_size(source: Source, settings: Mapping[str, Any], limit: int | None) -> None:
    """Hold the rows of a hub data set against the size of the benchmark.

    Raises:
        UserError: a file is no parquet file, or all of another number of documents would be
            answered, under the benchmark's name.
    """
    rows = sum(map(_rows, source.files))
    if rows == settings["size"]:
        return
    said = f"{settings['path']} has {rows:,} documents where {settings['size']:,} are expected"
    if limit is None:
        raise UserError(
            f"{said}: all of them would not be the benchmark. Name the commit that is meant with "
            f"hub.revision=..., say hub.size={rows} if this one is, or set a limit."
        )
    log.warning("%s", said)


def _rows(file: Path) -> int:
    """Documents in a file of the hub's cache."""
    try:
        return int(pq.read_metadata(file).num_rows)
    except Exception as error:  # pyarrow has a dozen classes for what a broken file may be
        raise UserError(
            f"{file} is no readable parquet file ({type(error).__name__}: {_line(error)}). "
            "Delete it and run the same command to download it again; if it is broken on the hub "
            "as well, name another commit with hub.revision=..."
        ) from error


def _part(repo: str, config: str | None, split: str, revision: str | None) -> Part:
    """The parquet files of one split."""

    def choose(api: Any, commit: str) -> dict[str, int]:
        from datasets import load_dataset_builder

        builder = load_dataset_builder(repo, name=config, revision=commit)
        patterns = builder.config.data_files or {}
        if split not in patterns:
            known = ", ".join(map(str, patterns)) or "none"
            raise ValueError(f"no split '{split}'; it has: {known}")
        marker = f"{repo}@{commit}/"
        files = [unquote(str(url).partition(marker)[2]) for url in patterns[split]]
        odd = [file for file in files if not file.endswith(".parquet")]
        if odd or not files:
            found = odd[0] if odd else "no files"
            raise ValueError(f"split '{split}' is not made of parquet files ({found})")
        entries = api.get_paths_info(repo, files, revision=commit, repo_type="dataset")
        sizes = {entry.path: entry.size for entry in entries}
        return {file: sizes[file] for file in files}

    return ask("dataset", repo, revision, choose, config, split)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]

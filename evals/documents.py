"""The rows of a split, from its parquet files: columns in memory, images read when asked for.

The files are read as they are: no converted copy in a cache that could be of other bytes. An image
is known by its content; what a column says of it is not asked.
"""

import hashlib
import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features
from datasets import Image as ImageFeature
from datasets.features.features import require_decoding
from PIL import ExifTags, Image, ImageFile

from evals.lmms import SETTINGS_LOCK

ROW_GROUPS_KEPT = 2  # of images, in memory


class Split:
    """Documents of one split.

    Args:
        files: parquet files, in order.
        images: parquet files of a second table with the images, where they are apart (GQA).
        image_of: (column of the documents, column of that table) that join them.
        process_docs: lmms-eval's own function from rows to documents (RefCOCO: a document per
            expression of a row); None: a row is a document.

    Attributes:
        columns: of the documents, without images.
        odd: document -> why it cannot be asked, of rows that ``process_docs`` fails on.

    Raises:
        OSError, pyarrow.ArrowException: a file cannot be read.
        Exception: whatever ``process_docs`` raises when it fails on every row.
    """

    def __init__(
        self,
        files: Sequence[Path],
        images: Sequence[Path] = (),
        image_of: tuple[str, str] = ("", ""),
        process_docs: Callable[[Dataset], Dataset] | None = None,
    ) -> None:
        self._tables = [pq.ParquetFile(path) for path in files]
        features = Features.from_arrow_schema(self._tables[0].schema_arrow)
        pictures = [name for name, feature in features.items() if _is_image(feature)]
        kept = {name: feature for name, feature in features.items() if name not in pictures}
        schema = Features(kept).arrow_schema
        parts = [table.read(columns=list(kept)).cast(schema) for table in self._tables]
        info = DatasetInfo(features=Features(kept))
        whole = pa.concat_tables(parts)
        self.columns = Dataset(whole, info=info)
        # A row of the table is a record, five times faster, unless a column is to be decoded.
        decoded = any(require_decoding(feature) for feature in kept.values())
        self._rows = None if decoded else whole.combine_chunks()
        self._elsewhere = Split(images) if images else None
        self._image_of = image_of
        self._joined = whole[image_of[0]] if images else None
        self._pictures = {name: features[name] for name in pictures}
        self._groups = _Groups(files, self._tables, list(self._pictures))
        self.odd: dict[int, str] = {}
        self._row_of: list[int] | None = None  # document -> row; None: they are the same
        self._last: tuple[int, str | None] = (-1, None)  # row, and the digest of its image
        if process_docs is not None:
            self._process(process_docs)

    def _process(self, process_docs: Callable[[Dataset], Dataset]) -> None:
        """Let documents be what ``process_docs`` makes of rows; a row that it fails on is one."""
        name, count = next(iter(self._pictures), "image"), len(self.columns)
        numbered = self.columns.add_column(ROW, list(range(count)))
        sized = numbered.with_transform(_WithSizes(name, [self._size(row) for row in range(count)]))
        documents, causes = _processed(sized, process_docs)
        keys = dict.fromkeys(key for each in documents for key in each)
        self.odd = {i: causes[d[ROW]] for i, d in enumerate(documents) if d[ROW] in causes}
        self._row_of = [document[ROW] for document in documents]
        shown = [key for key in keys if key not in (ROW, name)]
        self.columns = Dataset.from_dict({k: [d.get(k) for d in documents] for k in shown})
        self._rows = self.columns.data.table.combine_chunks()

    def _size(self, row: int) -> tuple[int, int]:
        """Of a row's image; a pixel where it cannot be read, which the document itself will say."""
        try:
            _, content = self._content(row)
            return size(content or b"")
        except Exception:
            return 1, 1

    def __len__(self) -> int:
        return len(self.columns)

    def record(self, index: int) -> dict[str, Any]:
        """A document's columns without its images, fresh (scorers change them in place)."""
        if self._rows is None or not 0 <= index < len(self.columns):
            return self.columns[index]
        return self._rows.slice(index, 1).to_pylist()[0]

    def source(self, index: int) -> tuple[str, bytes | None]:
        """Name of the image column and the image's encoded bytes; None: there is no image."""
        return self._content(self._row(index))

    def _row(self, index: int) -> int:
        return index if self._row_of is None else self._row_of[index]

    def _content(self, index: int) -> tuple[str, bytes | None]:
        """``source`` of a row."""
        if self._elsewhere is not None and self._joined is not None:
            key = self._joined[index].as_py()
            try:
                return self._elsewhere.source(self._position[key])
            except KeyError:
                raise ValueError(f"there is no image {key!r} in the table of images") from None
        if not self._pictures:
            return "image", None
        name = next(iter(self._pictures))
        return name, self._groups.content(index, name)

    @cached_property
    def _position(self) -> dict[Any, int]:
        assert self._elsewhere is not None
        return {key: i for i, key in enumerate(self._elsewhere.columns[self._image_of[1]])}

    def image_digest(self, index: int) -> str | None:
        """Hash of the image's encoded bytes; None where there is none or it cannot be read."""
        row, last = self._row(index), self._last
        if last[0] != row:  # documents of a row follow each other
            try:
                _, content = self._content(row)
            except (OSError, ValueError):
                content = None
            self._last = last = row, None if content is None else _digest(content)
        return last[1]

    def document(self, index: int, digest: str = "") -> tuple[dict[str, Any], str]:
        """A document with its decoded image, and what a reader must know of that image (or "").

        Args:
            index: of the document.
            digest: what ``image_digest`` gave when the document was identified; empty: any.

        Raises:
            ValueError: there is no image, or another one than there was.
            OSError: it cannot be decoded.
        """
        name, content = self.source(index)
        if content is None:
            raise ValueError("the document has no image")
        if digest and _digest(content) != digest:
            raise ValueError("the image file changed since the run began")
        image, note = decode(content)
        return {**self.record(index), name: image}, note


ROW = "row of the table"  # a column's name that no data set has


class _Size(dict[str, int]):
    """Stands for an image whose size is all that is asked; data sets take it for a struct."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.width, self.height = size
        super().__init__(width=self.width, height=self.height)


@dataclass(frozen=True)
class _WithSizes:
    """Puts images that are sizes into batches of rows."""

    name: str
    sizes: list[tuple[int, int]]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, self.name: [_Size(self.sizes[row]) for row in batch[ROW]]}


def _processed(
    rows: Dataset, process_docs: Callable[[Dataset], Dataset]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Documents of rows in order, and why rows failed: such a row is one empty document.

    Raises:
        Exception: of the first row, when all rows fail.
    """
    found: list[dict[str, Any]] = []
    causes: dict[int, str] = {}
    first: Exception | None = None
    parts = [range(len(rows))]
    while parts:
        part = parts.pop()
        try:
            found += process_docs(rows.select(part) if len(part) < len(rows) else rows).to_list()
        except Exception as error:
            if len(part) > 1:
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                continue
            first = first or error
            causes[part[0]] = f"{type(error).__name__}: {error}".splitlines()[0]
            found.append({ROW: part[0]})
    if first is not None and len(causes) == len(rows):
        raise first
    return found, causes


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


class _Groups:
    """Image columns of parquet files, a row group at a time."""

    def __init__(self, files: Sequence[Path], tables: Sequence[Any], names: list[str]) -> None:
        self._names, self._tables = names, tables
        self._folders = [path.parent for path in files]
        self._places = [
            (t, g) for t, table in enumerate(tables) for g in range(table.num_row_groups)
        ]
        sizes = [tables[t].metadata.row_group(g).num_rows for t, g in self._places]
        self._starts = [0, *accumulate(sizes)]
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def content(self, index: int, name: str) -> bytes | None:
        """Encoded bytes of one image, from the row or from the file that it names."""
        place = bisect_right(self._starts, index) - 1
        table, group = self._places[place]
        if place not in self._kept:
            self._kept[place] = self._tables[table].read_row_group(group, columns=self._names)
            while len(self._kept) > ROW_GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        value = self._kept[place][name][index - self._starts[place]].as_py()
        if value is None or isinstance(value, bytes):
            return value
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        if value.get("path"):
            return locate(value["path"], self._folders[table]).read_bytes()
        return None


def locate(path: str, folder: Path) -> Path:
    """The file that a parquet names: beside the parquet, or as it is."""
    beside = folder / path
    return beside if beside.is_file() else Path(path)


def outside(files: Iterable[Path]) -> list[Path]:
    """Image files that parquet files name instead of holding their bytes, in order."""
    found = []
    for file in files:
        table = pq.ParquetFile(file)
        features = Features.from_arrow_schema(table.schema_arrow)
        for name in [n for n, feature in features.items() if _is_image(feature)]:
            if _all_inside(table, f"{name}.bytes"):
                continue
            for value in table.read(columns=[name])[name].to_pylist():
                if value and value.get("bytes") is None and value.get("path"):
                    found.append(locate(value["path"], file.parent))
    return found


def _all_inside(table: Any, column: str) -> bool:
    """Whether the statistics of every row group say that a column has no nulls."""
    for group in range(table.num_row_groups):
        part = table.metadata.row_group(group)
        chunks = [part.column(i) for i in range(part.num_columns)]
        known = [c for c in chunks if c.path_in_schema == column and c.statistics is not None]
        if not known or not known[0].statistics.has_null_count or known[0].statistics.null_count:
            return False
    return True


def _is_image(feature: Any) -> bool:
    if isinstance(feature, ImageFeature):
        return True
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def size(content: bytes) -> tuple[int, int]:
    """Width and height of an image as ``decode`` gives it, from its header.

    Raises:
        OSError: it is no image.
    """
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if turned else (width, height)


def decode(content: bytes) -> tuple[Image.Image, str]:
    """An image as ``datasets`` (and so lmms-eval) decodes it, and a note when it is damaged.

    lmms-eval fills what a truncated file lacks with grey, for the whole process and in silence.
    Here a file is tolerated only after it was found truncated, and the note says so.

    Raises:
        OSError: it cannot be decoded at all.
    """
    feature, value = ImageFeature(), {"bytes": content, "path": None}
    with SETTINGS_LOCK:  # Pillow's tolerance is a setting of the process; lmms-eval sets it too
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            return feature.decode_example(value), ""
        except OSError as error:
            if "truncated" not in str(error).lower():
                raise
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            return feature.decode_example(value), "truncated image, its missing part is grey"
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before

"""Documents of finished runs as people look at them: pictures, questions, answers, what was kept.

A report shows them and may not load what they come from (``evals``, a strategy's class), so it is
handed this reader, as it is handed rows. Nothing is downloaded and no model is loaded: of data that
is not on this machine there are answers and no pictures.
"""

import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from agilepruner.errors import UserError
from agilepruner.report.dashboard.documents import Look, Picture, Said
from agilepruner.runner.attention import FOLDER, read_attention
from agilepruner.runner.journal import Entry, Lines
from agilepruner.runner.rows import Row
from agilepruner.runner.stored import images_name

log = logging.getLogger(__name__)

SIDE = 336  # pixels of a picture's longer side at most: what LLaVA's tower sees
QUALITY = 55  # of WebP


class OnDisk:
    """What the directories of runs, and the data sets on this machine, say of documents.

    Args:
        directories: results of runs.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = directories
        self._attention: dict[str, dict[str, str]] = {}
        self._open: tuple[str, Any] | None = None
        self._benchmark = ""
        self._journals: dict[str, Lines] = {}

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Cell id -> its folder."""
        from agilepruner.runner.stored import folders

        return {cell: path for where in self.directories for path, cell in folders(where)}

    def looks(self, row: Row, documents: Sequence[int]) -> Iterator[tuple[int, Look]]:
        """What units show, one after the other; nothing where the data is not here.

        Args:
            row: any of the benchmark.
            documents: the first document of each.
        """
        try:
            for first, sight in self._opened(row).at(documents):
                asked = [(one.document, one.question, one.references) for one in sight.asked]
                yield first, Look(asked, _picture(sight.image) if sight.image else None)
        except Exception as error:  # whatever is wrong with a data set costs no report
            said = str(error) if isinstance(error, UserError) else repr(error)
            log.warning("%s: documents are shown without pictures: %s", row.benchmark_label, said)

    def _opened(self, row: Row) -> Any:
        """The documents of a row's benchmark; those of the last one are held."""
        from evals.looks import Looks

        key = images_name(row.identity)
        if self._open is None or self._open[0] != key:
            config, source = self.source(row)
            benchmark = config["benchmark"][row.benchmark]
            self._open = key, Looks(benchmark, source, config["protocol"])
        return self._open[1]

    def source(self, row: Row) -> tuple[Mapping[str, Any], Any]:
        """The config that a row's cell was answered under, and the files of its documents."""
        from agilepruner.runner.stored import local_source, suite_here

        lines = self._lines(row)
        header = lines.header if lines else None
        if header is None:
            raise UserError("there is no journal that says which data set it was")
        config = {**header["config"], "suite": suite_here(header["config"]["suite"])}
        return config, local_source(config, row.benchmark, header["identity"]["documents"])

    def attention(self, row: Row, image: str) -> str:
        """How much attention each token of an image got, as its run left it; empty: it did not."""
        name = images_name(row.identity)
        if name not in self._attention:
            self._attention[name] = {}
            for where in self.directories:
                self._attention[name] |= read_attention(where / FOLDER, name)
        return self._attention[name].get(image, "")

    def _lines(self, row: Row) -> Lines | None:
        """The journal of a cell; those of one benchmark are held, for pages of all documents."""
        if row.benchmark != self._benchmark:
            self._benchmark, self._journals = row.benchmark, {}
        folder = self._folders.get(row.id)
        if row.id not in self._journals and folder is not None:
            self._journals[row.id] = Lines(folder, row.id)
        return self._journals.get(row.id)

    def said(self, row: Row, documents: Collection[int]) -> dict[int, Said]:
        """What a cell's journal says of some documents."""
        lines = self._lines(row)
        if lines is None:
            return {}
        entries = lines.entries(documents)
        flops = _flops(lines.header, entries)
        return {
            document: Said(entry, flops.get(document))
            for document, entry in entries.items()
            if entry.answer is not None
        }


def _flops(header: Mapping[str, Any] | None, entries: Mapping[int, Entry]) -> dict[int, float]:
    """All FLOPs of each document, as the row has their mean; nothing where they cannot be had."""
    from agilepruner.runner.cells import Cell
    from agilepruner.runner.score import architecture_of, measures, strategy_of

    if header is None:
        return {}
    try:
        known, facts = header["identity"], header["model"]
        strategy = strategy_of(known["strategy"])
        names = header["strategy_name"], strategy, known["budget"], known["benchmark"]
        cell = Cell(*names, known["positions"], known)
        architecture = architecture_of(facts["architecture"])
        return {
            document: measures([entry], cell, facts, architecture)["flops"]["total"]
            for document, entry in entries.items()
            if entry.answer is not None
        }
    except Exception as error:  # of a journal that another version wrote
        log.debug("no FLOPs per document: %r", error)
        return {}


def _picture(image: Image.Image) -> Picture:
    """A small WebP of an image; its size is that of the whole."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=QUALITY, method=4)
    return Picture(out.getvalue(), small.size)

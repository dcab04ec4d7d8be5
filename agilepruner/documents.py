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
from agilepruner.runner.journal import Entry, picked
from agilepruner.runner.rows import Row

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
        from evals.looks import looks

        try:
            config, source = self._source(row)
            found = looks(config["benchmark"][row.benchmark], source, config["protocol"], documents)
            for first, sight in found:
                asked = [(one.document, one.question, one.references) for one in sight.asked]
                yield first, Look(asked, _picture(sight.image) if sight.image else None)
        except (UserError, OSError) as error:
            log.warning("%s: documents are shown without pictures: %s", row.benchmark_label, error)

    def _source(self, row: Row) -> tuple[Mapping[str, Any], Any]:
        """The config that a row's cell was answered under, and the files of its documents."""
        from agilepruner.runner.stored import local_source, suite_here

        folder = self._folders.get(row.id)
        header, _ = picked(folder, row.id, ()) if folder else (None, {})
        if header is None:
            raise UserError("there is no journal that says which data set it was")
        config = {**header["config"], "suite": suite_here(header["config"]["suite"])}
        return config, local_source(config, row.benchmark, header["identity"]["documents"])

    def attention(self, row: Row, image: str) -> str:
        """How much attention each token of an image got, as its run left it; empty: it did not."""
        from agilepruner.runner.stored import images_name

        name = images_name(row.identity)
        if name not in self._attention:
            self._attention[name] = {}
            for where in self.directories:
                self._attention[name] |= read_attention(where / FOLDER, name)
        return self._attention[name].get(image, "")

    def said(self, row: Row, documents: Collection[int]) -> dict[int, Said]:
        """What a cell's journal says of some documents."""
        folder = self._folders.get(row.id)
        if folder is None:
            return {}
        header, entries = picked(folder, row.id, documents)
        flops = _flops(header, entries)
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
    known, facts = header["identity"], header["model"]
    try:
        strategy = strategy_of(known["strategy"])
        names = header["strategy_name"], strategy, known["budget"], known["benchmark"]
        cell = Cell(*names, known["positions"], known)
        architecture = architecture_of(facts["architecture"])
        return {
            document: measures([entry], cell, facts, architecture)["flops"]["total"]
            for document, entry in entries.items()
            if entry.answer is not None
        }
    except (UserError, KeyError, TypeError):
        return {}


def _picture(image: Image.Image) -> Picture:
    """A small WebP of an image; its size is that of the whole."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=QUALITY, method=4)
    return Picture(out.getvalue(), small.size)

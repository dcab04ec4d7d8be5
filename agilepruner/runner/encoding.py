"""The images of a benchmark: decoded and prepared ahead, encoded once, their complexity measured.

An image that fails, fails its documents and no others.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from agilepruner.complexity import attention_entropy, effective_rank_small
from agilepruner.models.base import Adapter, Layout, stack
from agilepruner.runner.attention import Attention, quantised
from agilepruner.runner.complexities import Measured
from agilepruner.runner.work import Attempt, attempt, cause, chunks, halves, in_threads
from agilepruner.strategies.base import VisualTokens
from evals.tasks import Benchmark, Document

log = logging.getLogger(__name__)

ENCODED_TOGETHER = 8  # images per pass of the tower
PREPARERS = 4  # threads that prepare images for it

Group = list[Document]  # the documents of one image
Unseen = tuple[Document, str]  # a document that cannot be asked, and why


@dataclass
class Picture:
    """One encoded image: its tokens, its documents, its complexity and what a journal says.

    ``resized``: its tokens are those of a smaller image, its complexity that of the image.
    """

    tokens: VisualTokens
    documents: list[Document]
    encode_seconds: float = 0.0
    complexity: dict[str, float] = field(default_factory=dict)
    note: str = ""
    offered: int = 0
    tiles: int = 1
    layout: Layout = field(default_factory=Layout)
    image: Any = None
    resized: bool = False
    ranks: dict[bytes, float] = field(default_factory=dict)  # of kept tokens, by their anchors

    @property
    def key(self) -> str:
        """Of the image."""
        return self.documents[0].image_key

    @property
    def measured(self) -> Measured:
        """What is known of the image before it is answered."""
        return Measured(dict(self.complexity), self.tokens.batch, self.tokens.count)


@dataclass
class Seen:
    """One image of a window, as the loader leaves it.

    Attributes:
        image: decoded; None: there is none. note: when it is damaged. problem: why there is none.
        prepared: what the adapter makes of it before the tower; None: the tower's turn will tell.
    """

    image: Any = None
    note: str = ""
    problem: str = ""
    prepared: Any = None


Asked = tuple[Group, Seen]  # the documents of an image that can be asked


@dataclass
class Encoding:
    """The vision tower's part of answering a benchmark.

    Attributes:
        adapter: the loaded model. benchmark: whose images.
        needs: fields of ``VisualTokens`` to capture. cells: that share the cost of an image.
        workers: threads that measure complexity. seconds: where the time went.
        attention: where to leave that of each image for the pages; None: nowhere.
        measured: complexity that is known before, by image key: what budgets were apportioned by.
    """

    adapter: Adapter
    benchmark: Benchmark
    needs: frozenset[str]
    cells: int
    workers: int = 1
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    attention: Attention | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    _most: int = ENCODED_TOGETHER  # images of a pass, learnt from what did not fit

    def look(self, window: Sequence[Group]) -> list[Seen]:
        """Decode and prepare the image of each group that has a document to ask.

        Decoding is the loader's thread, preparing several more, while the model answers.
        """
        seen: list[Seen] = []
        with ThreadPoolExecutor(PREPARERS, "prepare") as preparers:
            for group in window:
                sound = next((document for document in group if not document.error), None)
                seen.append(Seen())
                if sound is None:
                    continue
                try:
                    seen[-1] = Seen(*self.benchmark.image(sound))
                except Exception as error:
                    seen[-1].problem = f"image cannot be read: {cause(error)}"
                else:
                    preparers.submit(self._prepare, seen[-1])
        return seen

    def _prepare(self, seen: Seen) -> None:
        try:
            seen.prepared = self.adapter.prepare(seen.image)
        except Exception:  # encoding it will fail as well, and say whose it is
            log.debug("preparing an image failed", exc_info=True)

    def encode(self, images: Sequence[Asked]) -> tuple[list[Picture], list[Unseen]]:
        """Encode each image once and measure its complexity.

        Args:
            images: as ``look`` left them; each with the documents that will be asked, one or more.
        """
        started = time.perf_counter()
        unseen = [(d, seen.problem) for group, seen in images if seen.problem for d in group]
        rest = [(group, seen) for group, seen in images if not seen.problem]
        pictures: list[Picture] = []
        while rest:
            part, rest = rest[: self._most], rest[self._most :]
            done, failed = self._see(part)
            pictures += done
            unseen += failed
        spent = time.perf_counter() - started
        self.seconds["encode"] += spent
        for picture in pictures:
            answers = len(pictures) * self.cells * len(picture.documents)
            picture.encode_seconds = round(spent / answers, 6)
        started = time.perf_counter()
        parts = [p for same in by_grid(pictures) for p in chunks(same, ENCODED_TOGETHER)]
        measured = list(in_threads(self._measure, parts, self.workers))
        self.seconds["complexity"] += time.perf_counter() - started
        kept = {id(picture) for done, _ in measured for picture in done}
        unseen += [each for _, failed in measured for each in failed]
        return [picture for picture in pictures if id(picture) in kept], unseen

    def _see(self, images: list[Asked]) -> tuple[list[Picture], list[Unseen]]:
        """Passes of the tower; after an error fewer images at a time, at last one by one."""
        done: list[Picture] = []
        failed: list[Unseen] = []
        queue = [images]
        needs = (self.needs & self.adapter.provides) - {"text_embeds"}  # of questions
        while queue:
            part = queue.pop(0)
            tried = attempt(partial(self._pictures, part, needs))
            if not tried.problem:
                self._leave({p.key: p.tokens for p in tried.value})
                done += tried.value
            elif len(part) > 1:
                log.warning("encoding %d images failed (%s); halving", len(part), tried.problem)
                half = len(part) // 2
                self._fitted(half, tried)
                queue[:0] = [part[:half], part[half:]]
            else:
                failed += [(d, f"encoding failed: {tried.problem}") for d in part[0][0]]
        return done, failed

    def _fitted(self, images: int, tried: Attempt) -> None:
        """Learn from a pass that found no memory."""
        if tried.no_memory:
            self._most = max(1, min(self._most, images))

    def _pictures(self, images: list[Asked], needs: frozenset[str]) -> list[Picture]:
        """One pass of the tower."""
        ready = [seen.prepared for _, seen in images]
        whole = None if None in ready else ready
        tokens = self.adapter.encode([seen.image for _, seen in images], needs, whole)
        return [self._picture(*each, t) for each, t in zip(images, tokens)]

    def _picture(self, documents: Group, seen: Seen, tokens: VisualTokens) -> Picture:
        seen.prepared = None  # the tower has seen it
        return Picture(
            tokens,
            documents,
            note=seen.note,
            offered=self.adapter.offered(tokens),
            tiles=self.adapter.tiles(tokens),
            layout=self.adapter.layout(tokens, seen.image),
            image=seen.image,
        )

    def _leave(self, seen: Mapping[str, VisualTokens]) -> None:
        """Leave the attention of images that no earlier run left."""
        if self.attention is None:
            return
        wanted = self.attention.wanted(seen)
        levels = {
            key: quantised(tokens.attention.float().mean(dim=1).cpu().numpy())
            for key, tokens in seen.items()
            if key in wanted and tokens.attention is not None
        }
        if levels:
            started = time.perf_counter()
            self.attention.add(levels)
            self.seconds["journal"] += time.perf_counter() - started

    def _measure(self, pictures: list[Picture]) -> tuple[list[Picture], list[Unseen]]:
        """Complexity of images of one grid; those that have it, and what failed."""
        tried = attempt(partial(_complexity, pictures))
        if tried.problem and len(pictures) > 1:
            parts = [self._measure(half) for half in halves(pictures)]
            return [p for done, _ in parts for p in done], [f for _, fs in parts for f in fs]
        if tried.problem:
            why = f"complexity failed: {tried.problem}"
            return [], [(d, why) for d in pictures[0].documents]
        ranks, entropies = tried.value
        start = 0
        for picture in pictures:
            rows = slice(start, start := start + picture.tokens.batch)
            picture.complexity["erank_input"] = round(float(ranks[rows].mean()), 4)
            if entropies is not None:
                picture.complexity["entropy"] = round(float(entropies[rows].mean()), 4)
            if picture.key in self.measured:
                picture.complexity |= self.measured[picture.key].complexity
        return pictures, []

    def resize(
        self, pictures: Sequence[Picture], grid: tuple[int, int]
    ) -> tuple[list[Picture | None], list[Unseen]]:
        """Images encoded anew at a smaller grid; None for what failed."""
        parts = [self._resize(part, grid) for part in chunks(pictures, self._most)]
        return [p for done, _ in parts for p in done], [f for _, failed in parts for f in failed]

    def _resize(
        self, pictures: list[Picture], grid: tuple[int, int]
    ) -> tuple[list[Picture | None], list[Unseen]]:
        started = time.perf_counter()
        images = [picture.image for picture in pictures]
        tried = attempt(partial(self.adapter.encode_at, images, grid))
        if tried.problem and len(pictures) > 1:
            self._fitted(len(pictures) // 2, tried)
            parts = [self._resize(half, grid) for half in halves(pictures)]
            return [p for done, _ in parts for p in done], [f for _, fs in parts for f in fs]
        if tried.problem:
            why = f"encoding at {grid[0]} x {grid[1]} tokens failed: {tried.problem}"
            return [None], [(document, why) for document in pictures[0].documents]
        share = (time.perf_counter() - started) / sum(len(p.documents) for p in pictures)
        return [
            replace(p, tokens=tokens, encode_seconds=round(share, 6), ranks={}, resized=True)
            for p, tokens in zip(pictures, tried.value)
        ], []


def _complexity(pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Effective rank of every image and tile, and the entropy of its attention if it has one."""
    tokens = stack([picture.tokens for picture in pictures], {"projected", "attention"})
    if not bool(torch.isfinite(tokens.projected.sum(dim=-1, dtype=torch.float32)).all()):
        raise ValueError("the visual tokens hold NaN or infinite values")
    seen = tokens.attention
    return (
        effective_rank_small(tokens.projected),
        attention_entropy(seen) if seen is not None else None,
    )


def by_grid(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    """Images whose tokens can be stacked."""
    groups: dict[tuple[int, int], list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.tokens.grid].append(picture)
    yield from groups.values()

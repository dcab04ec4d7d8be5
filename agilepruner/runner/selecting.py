"""What each cell shows the language model of each image: selections, embedded, as prompts."""

import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from agilepruner.complexity import attention_kept, effective_rank_small
from agilepruner.models.base import Adapter, Visual, split, stack
from agilepruner.runner.cells import Cell
from agilepruner.runner.encoding import Encoding, Picture, by_grid
from agilepruner.runner.kept import recorded
from agilepruner.runner.work import attempt, chunks, global_randomness, halves, in_threads
from agilepruner.strategies.base import Once, Selection, VisualTokens
from evals.tasks import Document

Failure = tuple[Cell, Document, str]
# What the language model sees of an image, its complexity, and what a journal keeps of the choice.
Shown = tuple[Visual, dict[str, float], dict[str, Any] | None]


@dataclass
class Prompt:
    """One prompt to be answered for one cell."""

    cell: Cell
    document: Document
    ids: list[int]
    visual: Visual
    picture: Picture
    complexity: dict[str, float]
    kept: dict[str, Any] | None
    select_seconds: float = 0.0

    @cached_property
    def length(self) -> int:
        """Tokens of the prompt, the visual ones included."""
        return len(self.ids) - 1 + len(self.visual)

    @property
    def pruning(self) -> tuple[Any, int] | None:
        """What shortens this prompt inside the language model."""
        return (self.cell.strategy, self.cell.budget) if self.cell.strategy.inside else None


@dataclass
class Selecting:
    """The strategies' part of answering a benchmark.

    Attributes:
        adapter: the loaded model. encoding: of the benchmark's images.
        workers: cells selected for at the same time.
        budgets: of cells whose strategy apportions: tokens to keep per tile, by image key.
    """

    adapter: Adapter
    encoding: Encoding
    workers: int = 1
    budgets: dict[str, dict[str, int]] = field(default_factory=dict)
    _known: dict[tuple[int, ...], Once] = field(default_factory=dict)  # of the window's images
    _most: int = sys.maxsize  # images selected from together, learnt from what did not fit

    def prompts(
        self, cells: Sequence[Cell], pictures: list[Picture], ids: Mapping[int, list[int]]
    ) -> tuple[list[Prompt], list[Failure]]:
        """Prompts of every cell for every document of the images, and what failed.

        Args:
            cells: to select for.
            pictures: encoded images.
            ids: of each document, by index, its tokenized prompt.
        """
        self._known = {}
        before = global_randomness()
        chosen = list(
            in_threads(lambda cell: self._choose(cell, pictures, ids), cells, self.workers)
        )
        if global_randomness() != before:  # by whom, is seen one cell at a time
            chosen = [self._choose_watched(cell, pictures, ids) for cell in cells]
        self._known = {}
        return [p for made, _ in chosen for p in made], [f for _, failed in chosen for f in failed]

    def _choose_watched(
        self, cell: Cell, pictures: list[Picture], ids: Mapping[int, list[int]]
    ) -> tuple[list[Prompt], list[Failure]]:
        before = global_randomness()
        made, failures = self._choose(cell, pictures, ids)
        if global_randomness() == before:
            return made, failures
        why = (
            "selection failed: it drew from the global random generator, so a run that continues "
            "would choose other tokens; draw from tokens.seeds instead"
        )
        return [], [(cell, d, why) for picture in pictures for d in picture.documents]

    def _choose(
        self, cell: Cell, pictures: list[Picture], ids: Mapping[int, list[int]]
    ) -> tuple[list[Prompt], list[Failure]]:
        """Prompts of one cell, and what failed; nothing is written here: threads call it."""
        prompts: list[Prompt] = []
        pictures, failures = self._at_its_grid(cell, pictures)
        started = time.perf_counter()
        for same in self._alike(cell, pictures):
            for picture, picked in self._select(cell, same, failures):
                for document, (visual, complexity, kept) in picked:
                    visual = replace(visual, positions=cell.positions)
                    asked = ids[document.index]
                    prompt = Prompt(cell, document, asked, visual, picture, complexity, kept)
                    room, length = self.adapter.context, reach(self.adapter, prompt)
                    if room is not None and length >= room:
                        why = (
                            f"prompt of {length} tokens does not fit the model's context of {room}"
                        )
                        failures.append((cell, document, why))
                    else:
                        prompts.append(prompt)
        total = sum(len(picture.documents) for picture in pictures)
        share = round((time.perf_counter() - started) / max(total, 1), 6)
        for prompt in prompts:
            prompt.select_seconds = share
        return prompts, failures

    def budget_of(self, cell: Cell, picture: Picture) -> int:
        """Tokens to keep of each tile of an image."""
        own = self.budgets.get(cell.id)
        return self.adapter.tile_budget(cell.budget) if own is None else own[picture.key]

    def _alike(self, cell: Cell, pictures: list[Picture]) -> Iterator[list[Picture]]:
        """Images of one grid and one budget, which can be selected from together."""
        for same in by_grid(pictures):
            by_budget: dict[int, list[Picture]] = defaultdict(list)
            for picture in same:
                by_budget[self.budget_of(cell, picture)].append(picture)
            for images in by_budget.values():
                yield from chunks(images, self._most)

    def _at_its_grid(
        self, cell: Cell, pictures: list[Picture]
    ) -> tuple[list[Picture], list[Failure]]:
        """The images as a strategy wants them encoded: as they are, or anew and smaller."""
        grids = [cell.strategy.grid(p.tokens.grid, self.budget_of(cell, p)) for p in pictures]
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (picture, grid) in enumerate(zip(pictures, grids)):
            if grid != picture.tokens.grid:
                alike[grid].append(i)
        found: dict[int, Picture | None] = {}
        failures: list[Failure] = []
        for grid, numbers in alike.items():
            smaller, unseen = self.encoding.resize([pictures[i] for i in numbers], grid)
            found |= zip(numbers, smaller)
            failures += [(cell, document, why) for document, why in unseen]
        seen = [found.get(i, picture) for i, picture in enumerate(pictures)]
        return [picture for picture in seen if picture is not None], failures

    def _select(
        self, cell: Cell, pictures: list[Picture], failures: list[Failure]
    ) -> list[tuple[Picture, list[tuple[Document, Shown]]]]:
        """What the language model sees of each image, per document, and its complexity.

        All images of one grid at once; after an error in halves, so that it is known whose it is.
        """
        tried = attempt(partial(self._selected, cell, pictures))
        if not tried.problem:
            found: list[tuple[Picture, list[tuple[Document, Shown]]]] = tried.value
            return found
        if len(pictures) > 1:
            if tried.no_memory:
                self._most = min(self._most, len(pictures) // 2)
            return [p for half in halves(pictures) for p in self._select(cell, half, failures)]
        why = f"selection failed: {tried.problem}"
        failures += [(cell, document, why) for document in pictures[0].documents]
        return []

    def _selected(
        self, cell: Cell, pictures: list[Picture]
    ) -> list[tuple[Picture, list[tuple[Document, Shown]]]]:
        if "text_embeds" in cell.strategy.needs:
            return [(p, self._select_by_question(cell, p)) for p in pictures]
        tokens = self._stack(pictures, cell.strategy.needs | {"projected"})
        selection = cell.strategy(tokens, self.budget_of(cell, pictures[0]))
        parts = split(selection, [picture.tokens.batch for picture in pictures])
        shown = self._show(pictures, parts)
        return [(p, [(d, each) for d in p.documents]) for p, each in zip(pictures, shown)]

    def _stack(self, pictures: list[Picture], needs: Collection[str]) -> VisualTokens:
        """Tokens of some images: a copy, the strategy's to spoil, with what is known of them."""
        known = self._known.setdefault(tuple(id(picture) for picture in pictures), Once())
        return replace(stack([picture.tokens for picture in pictures], needs), shared=known)

    def _select_by_question(self, cell: Cell, picture: Picture) -> list[tuple[Document, Shown]]:
        """Per document of one image, for a strategy that reads the question."""
        chosen: dict[str, Shown] = {}
        for question in dict.fromkeys(document.question for document in picture.documents):
            text = self.adapter.text_embeds(question).expand(picture.tokens.batch, -1, -1)
            needs = cell.strategy.needs | {"projected"}
            tokens = replace(self._stack([picture], needs), text_embeds=text.clone())
            selection = cell.strategy(tokens, self.budget_of(cell, picture))
            (chosen[question],) = self._show([picture], [selection])
        return [(document, chosen[document.question]) for document in picture.documents]

    def _show(self, pictures: Sequence[Picture], parts: Sequence[Selection]) -> list[Shown]:
        """Embed what was kept of each image. Equal selections have one effective rank."""
        visuals = [self.adapter.embed(p.tokens, part) for p, part in zip(pictures, parts)]
        keys = [_anchors(visual, part) for visual, part in zip(visuals, parts)]
        ranks = {
            i: rank
            for i, each in enumerate(zip(pictures, visuals, keys))
            if (rank := _known_rank(*each)) is not None
        }
        fresh = [i for i in range(len(visuals)) if i not in ranks]
        for i, rank in zip(fresh, ranks_of([visuals[i] for i in fresh]) if fresh else []):
            ranks[i] = round(rank, 4)
            if keys[i]:
                pictures[i].ranks[keys[i]] = ranks[i]
        shown = [
            (visual, p.complexity | {"erank_kept": ranks[i]}, recorded(p.tokens, part, visual))
            for i, (p, part, visual) in enumerate(zip(pictures, parts, visuals))
        ]
        if pictures[0].tokens.attention is not None:
            means = [attention_kept(p.tokens.attention, s.indices) for p, s in zip(pictures, parts)]
            for (_, complexity, _), mean in zip(shown, torch.stack(means).tolist()):
                complexity["attention_kept"] = round(mean, 7)
        return shown


def reach(adapter: Adapter, prompt: Prompt) -> int:
    """Positions that a prompt takes up: with kept positions, those of the unpruned one."""
    return len(prompt.ids) - 1 + adapter.reach(prompt.visual)


def _anchors(visual: Visual, selection: Selection) -> bytes:
    """What a plain selection shows, as a key; empty for a mixed one."""
    return b"" if selection.weights is not None else visual.anchors.cpu().numpy().tobytes()


def _known_rank(picture: Picture, visual: Visual, key: bytes) -> float | None:
    """The effective rank of what is kept, where it was computed before."""
    if key and key in picture.ranks:
        return picture.ranks[key]
    whole = picture.tokens.projected
    same = not picture.resized and len(whole) == 1 and visual.embeds.shape == whole[0].shape
    return (
        picture.complexity["erank_input"] if same and torch.equal(visual.embeds, whole[0]) else None
    )


def ranks_of(visuals: Sequence[Visual]) -> list[float]:
    """Effective rank of the tokens that each prompt shows, batched where counts agree."""
    if len({len(visual) for visual in visuals}) == 1:
        return effective_rank_small(torch.stack([visual.embeds for visual in visuals])).tolist()
    return [float(effective_rank_small(visual.embeds[None])) for visual in visuals]

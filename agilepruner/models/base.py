"""The contract between a vision-language model and the runner.

An adapter encodes images into ``VisualTokens``, turns a strategy's ``Selection`` into the visual
embeddings that the language model sees, and generates. Everything that is particular to a model
family (tiles, newline tokens, M-RoPE) lives in its adapter and nowhere else.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from agilepruner.errors import UserError
from agilepruner.strategies.base import Selection, VisualTokens
from agilepruner.strategies.decoder.schedule import DecoderStrategy


@dataclass(frozen=True)
class Visual:
    """One image as the language model sees it.

    Attributes:
        embeds: (K, D) projected visual tokens, in the order of the prompt.
        anchors: (K,) which place of the unpruned visual sequence each of them stands for; -1 for
            a token that is no patch (CLS, a summary).
        whole: places of the unpruned visual sequence.
        layout: whatever else the adapter needs to place them (grids, tiles).
        positions: ``keep``: tokens have the positions of their places in the unpruned prompt, and
            so has the text behind them; ``reset``: those of a prompt that was never longer. None:
            as the adapter has it (``own_positions``). With every token kept, both are the same.
        patches: (K,) the patch of each, counted through the image's tiles; -1: none (a newline).
            None: the anchors are just that.
        deep: (L, K, D) what the first L decoder layers add to the tokens (DeepStack), if any.
    """

    embeds: Tensor
    anchors: Tensor
    whole: int
    layout: Any = None
    positions: str | None = None
    patches: Tensor | None = None
    deep: Tensor | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    @property
    def pruned(self) -> bool:
        """Whether it is another sequence than the unpruned one."""
        return not torch.equal(self.anchors.cpu(), torch.arange(self.whole))

    @property
    def places(self) -> Tensor:
        """(K,) the place of each token on the CPU, where positions are kept.

        A merged token has its anchor's. One that is no patch shares that of the token before it,
        at the front the first place of the image.
        """
        anchors = self.anchors.cpu()
        last = torch.arange(len(anchors)).where(anchors >= 0, -1).cummax(0).values
        return anchors[last.clamp_min(0)].where(last >= 0, 0)


Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """Where the tiles of an image lie on it.

    Attributes:
        view: left, top, right, bottom of what the tile covers, or the tiles of the mosaic together,
            in widths and heights of the image: a crop covers less than all of it, padding more.
        mosaic: rows and columns of the tiles that cut ``view``; None: one tile covers it.
        overview: number of the tile beside the mosaic, which is the whole image, squeezed.
    """

    view: Box = WHOLE
    mosaic: tuple[int, int] | None = None
    overview: int = 0


def centred(across: float, down: float) -> Box:
    """What is so many widths across and heights down, around the middle of an image."""
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


@dataclass(frozen=True)
class Generation:
    """One answer and its audit.

    Attributes:
        text: the decoded answer, special tokens removed.
        new_tokens: generated tokens, the end token included.
        prefill: tokens in the KV cache of each decoder layer after prefill, as measured.
        visual: visual tokens among them, per layer.
        problem: why the text cannot be believed; empty for a sound answer.
        stages: for strategies inside the language model: which of the visual tokens, counted from
            the first, each stage kept by rank (without what it merged).
    """

    text: str
    new_tokens: int
    prefill: tuple[int, ...]
    visual: tuple[int, ...]
    problem: str = ""
    stages: tuple[tuple[int, ...], ...] = ()


class Adapter(ABC):
    """One vision-language model, loaded.

    Attributes:
        provides: names of the ``VisualTokens`` fields this model can capture.
        full: visual tokens per image without pruning (the largest possible where it varies).
        model: the transformers model; its shapes decide the FLOPs.
        config: its Hugging Face config.
        environment: dtype, device and attention implementation, for the rows.
        exact_budget: a plain selection puts exactly the budget into the language model.
        own_positions: ``reset`` or ``keep``, see ``Visual``: what this model's line of work does.
        context: tokens that the language model can attend to; None: not known.
    """

    provides: frozenset[str]
    full: int
    model: Any
    config: Any
    environment: dict[str, Any]
    exact_budget: bool = True
    own_positions: str = "reset"
    context: int | None = None

    def prepare(self, image: Image.Image) -> Any:
        """What ``encode`` makes of an image before the tower sees it; any thread may call this."""
        return None

    @abstractmethod
    def encode(
        self,
        images: Sequence[Image.Image],
        needs: frozenset[str],
        prepared: Sequence[Any] | None = None,
    ) -> list[VisualTokens]:
        """Run the vision tower once over the images; one entry per image, B = its tiles.

        Args:
            images: decoded.
            needs: fields of ``VisualTokens`` to capture.
            prepared: of each image what ``prepare`` made of it; None: it is made here.
        """

    def encode_at(self, images: Sequence[Image.Image], grid: tuple[int, int]) -> list[VisualTokens]:
        """The images resized, so that the tower gives each ``grid`` (rows, columns) of tokens.

        ``projected`` alone is captured. Models that can do it have ``resolution`` in ``provides``.
        """
        raise NotImplementedError("this model encodes images at its own resolution")

    @abstractmethod
    def embed(self, tokens: VisualTokens, selection: Selection) -> Visual:
        """The selected (or merged) tokens of one image, projected and in prompt order."""

    @abstractmethod
    def tokenize(self, question: str) -> list[int]:
        """Token ids of the whole prompt, with ONE placeholder for the image."""

    def text_embeds(self, question: str) -> Tensor:
        """(M, E): the question's segments in CLIP's joint space, where ``provides`` has them."""
        raise NotImplementedError("this model has no joint image-text space")

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[list[int]],
        visuals: Sequence[Visual],
        max_new_tokens: int,
        pruning: tuple[DecoderStrategy, int] | None = None,
    ) -> list[Generation]:
        """Greedy answers. Sequences of different length are left-padded.

        Args:
            prompts: token ids with one image placeholder each.
            visuals: what replaces the placeholders.
            max_new_tokens: limit of the answers.
            pruning: a strategy that shortens the prompt inside the language model, and its budget.
        """

    def tile_budget(self, budget: int) -> int:
        """Visual tokens kept in each tile for a budget per image."""
        return budget

    def tiles(self, tokens: VisualTokens) -> int:
        """Tiles of one encoded image."""
        return tokens.batch

    def offered(self, tokens: VisualTokens) -> int:
        """Visual tokens of one encoded image before pruning, as the language model would see."""
        return tokens.batch * tokens.count

    def keeps_positions(self, visual: Visual) -> bool:
        """Whether tokens of an image are where they were before others were dropped."""
        return (visual.positions or self.own_positions) == "keep"

    def reach(self, visual: Visual) -> int:
        """Positions that an image takes up in the language model."""
        return visual.whole if self.keeps_positions(visual) else len(visual)

    def layout(self, tokens: VisualTokens, image: Image.Image) -> Layout:
        """Where the tiles of an encoded image lie on it."""
        return Layout()

    def check_budget(self, budget: int) -> None:
        """Refuse budgets outside 1..full.

        Raises:
            UserError: with the range.
        """
        if not 1 <= budget <= self.full:
            raise UserError(
                f"budget={budget} is impossible: this model has {self.full} visual tokens per "
                f"image, so a budget is a number from 1 to {self.full}."
            )


def stack(parts: Sequence[VisualTokens], only: Collection[str] | None = None) -> VisualTokens:
    """Several images' tokens (equal grids, same captures) as one batch, copied.

    Args:
        parts: one per image.
        only: names of the captures wanted; None: all. Seeds always come.
    """
    merged: dict[str, Any] = {}
    for f in fields(VisualTokens):
        if only is not None and f.name not in only and f.name != "seeds":
            continue
        values = [getattr(part, f.name) for part in parts]
        if isinstance(values[0], Tensor):
            merged[f.name] = torch.cat(values)
        elif f.name == "seeds" and values[0] is not None:
            merged[f.name] = tuple(seed for value in values for seed in value)
    return VisualTokens(parts[0].grid, **merged)


def split(selection: Selection, sizes: Sequence[int]) -> list[Selection]:
    """Undo ``stack`` on a selection: one per image, given each image's tiles."""
    weights: Sequence[Tensor | None]
    if selection.weights is None:
        weights = [None] * len(sizes)
    else:
        weights = selection.weights.split(list(sizes))
    indices = selection.indices.split(list(sizes))
    phases: Sequence[Tensor | None] = [None] * len(sizes)
    if selection.phases is not None:
        phases = selection.phases.split(list(sizes))
    parts = zip(indices, weights, phases)
    return [Selection(i, w, selection.projected, p) for i, w, p in parts]

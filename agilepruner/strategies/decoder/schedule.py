"""The contract of strategies that prune inside the language model, and how they meet a budget."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from agilepruner.errors import UserError
from agilepruner.ranges import Range, ascending, filled
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep_all

# Where stages are, as fractions of the decoder layers.
Depths = Annotated[tuple[Annotated[float, Range(0, 1)], ...], filled, ascending]


@dataclass(frozen=True)
class Stage:
    """One shortening of the visual tokens during prefill.

    Attributes:
        layer: decoder layer (0-based) before which it happens; that layer is the first to see less.
        keep: tokens kept by rank.
        merged: tokens made of dropped ones, placed after the kept.
    """

    layer: int
    keep: int
    merged: int = 0

    @property
    def visual(self) -> int:
        """Visual tokens from this layer on."""
        return self.keep + self.merged


class DecoderStrategy(Strategy):
    """A strategy that shortens the visual tokens between decoder layers, during prefill.

    All tokens enter the language model (``select`` keeps all, ``entering`` says how many), which
    then applies ``plan`` stage by stage. A budget of N means N visual tokens on average over the
    decoder layers.

    Class attributes:
        ranks: whose attention ranks the tokens at a stage before layer l: that of the
            ``previous`` layer, l - 1, or what the ``next`` layer, l, would attend to. Or
            ``states``: no attention, ``choose`` decides by what layer l - 1 gave.
        queries: whose attention to the visual tokens counts, averaged over heads and queries: the
            ``last`` prompt token's, or that of the ``raters`` among the text after the image.
        positions: after a stage the prompt's tokens ``keep`` their positions, or these are
            ``reset`` to 0, 1, 2, ...
        decoding: generated tokens continue the positions of the ``original`` prompt, or, per
            layer, those of the ``compact`` one.
    """

    family: ClassVar = "decoder"
    budgeted: ClassVar = False
    drops: ClassVar = False
    inside: ClassVar = True
    reads_question = True
    ranks: ClassVar[Literal["previous", "next", "states"]]
    queries: ClassVar[Literal["last", "raters"]] = "last"
    positions: ClassVar[Literal["keep", "reset"]]
    decoding: ClassVar[Literal["original", "compact"]]

    @abstractmethod
    def plan(self, layers: int, tokens: int, budget: int) -> tuple[Stage, ...]:
        """Stages for a model of so many decoder layers and an image of so many tokens.

        Raises:
            UserError: with the smallest possible budget, where this one is impossible.
        """

    def entering(self, tokens: int, budget: int) -> int:
        """Visual tokens that enter the language model, of an image that has so many."""
        return tokens

    def choose(self, states: Tensor, keys: Tensor, first: int, count: int, keep: int) -> Tensor:
        """The visual tokens of one prompt that stay, where ``ranks`` is ``states``.

        Args:
            states: (L, D) output of the previous layer behind the model's final norm.
            keys: (L, heads * size) rotated keys of that layer.
            first: position of the first visual token.
            count: V, visual tokens, one after the other.
            keep: how many stay.

        Returns:
            (keep,) numbers of visual tokens, 0 to V - 1, ascending.
        """
        raise NotImplementedError(f"{type(self).__name__} ranks by attention")

    def recycle(self, dropped: Tensor, scores: Tensor) -> Tensor:
        """Tokens made of dropped ones: (M, D) hidden states and (M,) scores -> (merged, D)."""
        return dropped[:0]

    def promise(self, tokens: int, budget: int, layers: int) -> list[int]:
        seen = [self.entering(tokens, budget)] * layers
        for stage in self.plan(layers, tokens, budget):
            seen[stage.layer :] = [stage.visual] * (layers - stage.layer)
        return seen

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        return keep_all(tokens)


def received(attention: Tensor) -> Tensor:
    """Rank of the tokens: (H, Q, V) softmaxed attention of Q query tokens -> (V,), higher stays."""
    return attention.float().mean(dim=0).mean(dim=0)


def average(stages: Sequence[Stage], layers: int, tokens: int) -> float:
    """Visual tokens on average over the decoder layers."""
    total, visual, start = 0, tokens, 0
    for stage in stages:
        total += visual * (stage.layer - start)
        visual, start = stage.visual, stage.layer
    return (total + visual * (layers - start)) / layers


def at_depths(depths: Sequence[float], layers: int) -> list[int]:
    """Layers at fractions of the depth: at least 1, below ``layers``, each once."""
    return sorted({min(max(1, round(depth * layers)), layers - 1) for depth in depths})


def solve(
    name: str,
    build: Callable[[float], tuple[Stage, ...]],
    layers: int,
    tokens: int,
    budget: int,
) -> tuple[Stage, ...]:
    """The largest schedule of a family whose average is within the budget.

    Args:
        name: the strategy's, for the message.
        build: ratio in (0, 1) -> stages, whose average grows with the ratio.
        layers: decoder layers of the model.
        tokens: visual tokens of the image.
        budget: visual tokens kept, on average over the layers; all of them: no stages.

    Raises:
        UserError: with the smallest possible budget.
    """
    if budget >= tokens:
        return ()
    least = average(build(0.0), layers, tokens)
    if budget < least:
        first = build(0.0)[0].layer
        raise UserError(
            f"{name} cannot reach a budget of {budget}: it is an average over the {layers} decoder "
            f"layers, and the first {first} of them see all {tokens} visual tokens. The smallest "
            f"possible budget is {ceil(least)}."
        )
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        fits = average(build(middle), layers, tokens) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return build(low)

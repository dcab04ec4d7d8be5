"""The contract between a strategy and everything else: tokens in, a selection out.

A strategy is a frozen dataclass whose fields are its hyper-parameters, each with its range
(``share: Annotated[float, Range(0, 1)] = 0.5``), checked when it is made. It implements
``select(tokens, budget)``, batched over images, and declares in ``needs`` which of the captured
tensors it reads, so that an adapter captures only those. Callers use ``strategy(tokens, budget)``,
which checks the input once, answers budgets that keep everything, and checks the output, so that
``select`` can be just the maths.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor

from agilepruner.errors import UserError
from agilepruner.ranges import conform, declared, shown

# Where shallower layers are captured, as the share of the tower's layers run by then. The methods
# name layers of a tower of 24; in other towers it is the same share, rounded (our choice).
LOCAL_DEPTH = 6 / 24  # VScan
OBJECT_DEPTH = 9 / 24  # HiPrune


class Once:
    """What several strategies compute from the same tokens, computed once; threads wait for it."""

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}
        self._locks: dict[str, Lock] = {}

    def __call__(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """What is known under a name, or else computed now."""
        with self._locks.setdefault(name, Lock()):
            if name not in self._known:
                self._known[name] = compute()
            return self._known[name]


FAMILIES = ("baseline", "attention", "diversity", "adaptive", "decoder")


@dataclass(frozen=True)
class VisualTokens:
    """What a vision tower says about B images of N patch tokens (H x W grid, raster order).

    Only what a strategy declares in ``needs`` is captured; the rest is None.

    Attributes:
        grid: (rows, columns) of the patches, rows * columns == N.
        features: (B, N, C) penultimate-layer patch features, before the projector.
        projected: (B, N, D) the same tokens after the projector, as the language model sees them.
        attention: (B, H, N) softmaxed attention of the CLS token to the patches, per head, at the
            layer that produced ``features``; the softmax runs over all N + 1 keys, the CLS column
            is dropped. For towers without CLS: attention received, H = 1.
        keys: (B, N, Dk) raw key projections of that layer, mean over heads (VisionZip's metric).
        cls: (B, C) the CLS row of the penultimate layer.
        last_query: (B, C) raw query projection of the CLS token in the LAST layer (PruMerge).
        last_keys: (B, N + 1, C) raw key projections of the last layer, CLS first (PruMerge).
        image_embeds: (B, N, E) patches in CLIP's joint image-text space (CDPruner).
        text_embeds: (B, M, E) the question in the same space, M segments (CDPruner).
        attention_local: (B, H, N) as ``attention``, of the layer at ``LOCAL_DEPTH`` (VScan).
        received_object: (B, N) attention that patches receive at the layer at ``OBJECT_DEPTH``:
            the mean over heads and all queries, CLS included (HiPrune).
        received_deep: (B, N) the same at the layer that produced ``features`` (HiPrune).
        seeds: one integer per image, derived from its content: randomness that is the image's own.
        shared: a ``Once`` of what was computed from these tokens; None: nothing is kept.
    """

    grid: tuple[int, int]
    features: Tensor = None  # type: ignore[assignment]
    projected: Tensor = None  # type: ignore[assignment]
    attention: Tensor = None  # type: ignore[assignment]
    keys: Tensor = None  # type: ignore[assignment]
    cls: Tensor = None  # type: ignore[assignment]
    last_query: Tensor = None  # type: ignore[assignment]
    last_keys: Tensor = None  # type: ignore[assignment]
    image_embeds: Tensor = None  # type: ignore[assignment]
    text_embeds: Tensor = None  # type: ignore[assignment]
    attention_local: Tensor = None  # type: ignore[assignment]
    received_object: Tensor = None  # type: ignore[assignment]
    received_deep: Tensor = None  # type: ignore[assignment]
    seeds: tuple[int, ...] | None = None
    shared: Any = None

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """A number that other strategies and budgets need of the same tokens as well.

        Args:
            name: says what it is, wherever it is computed: equal names, equal numbers.
            compute: gives it, from captures that were not changed. The result is not to be changed.
        """
        return compute() if self.shared is None else self.shared(name, compute)

    @property
    def count(self) -> int:
        """N, the number of patch tokens per image."""
        return self.grid[0] * self.grid[1]

    @property
    def batch(self) -> int:
        """B, the number of images."""
        if self.seeds is not None:
            return len(self.seeds)
        return next(v.shape[0] for v in self._tensors().values())

    @property
    def device(self) -> torch.device:
        """Where the captured tensors live (CPU when nothing was captured)."""
        return next((v.device for v in self._tensors().values()), torch.device("cpu"))

    def __getitem__(self, image: int | slice) -> "VisualTokens":
        """The tokens of one image (still batched, B = 1) or of a slice of images."""
        index = slice(image, image + 1) if isinstance(image, int) else image
        picked = {name: value[index] for name, value in self._tensors().items()}
        seeds = self.seeds[index] if self.seeds is not None else None
        return VisualTokens(self.grid, seeds=seeds, **picked)

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v for name, v in values.items() if isinstance(v, Tensor)}

    def check(self, needs: frozenset[str] | set[str]) -> None:
        """Refuse missing, misshapen or non-finite inputs.

        Raises:
            UserError: naming the tensor, the shape seen and the shape expected.
        """
        sizes: dict[str, int] = {"N": self.count, "N+1": self.count + 1}
        for name in sorted(needs - {"seeds", "resolution"}):
            value = getattr(self, name)
            if value is None:
                raise UserError(f"'{name}' is needed but was not captured from the model.")
            expected = SHAPES[name]
            if value.dim() == len(expected):
                seen = [sizes.setdefault(axis, size) for axis, size in zip(expected, value.shape)]
            if value.dim() != len(expected) or seen != list(value.shape):
                want = ", ".join(f"{axis}={sizes.get(axis, '?')}" for axis in expected)
                raise UserError(f"'{name}' has shape {tuple(value.shape)}, expected ({want}).")
            if not torch.isfinite(value.sum(dtype=torch.float32)):
                raise UserError(
                    f"'{name}' holds NaN or infinite values (shape {tuple(value.shape)}): the "
                    "vision tower overflowed; run it in bfloat16 or float32."
                )
        if "seeds" in needs:
            if self.seeds is None:
                raise UserError("'seeds' is needed: give one integer per image.")
            if sizes.setdefault("B", len(self.seeds)) != len(self.seeds):
                raise UserError(f"'seeds' has {len(self.seeds)} entries, expected {sizes['B']}.")


SHAPES = {
    "features": ("B", "N", "C"),
    "projected": ("B", "N", "D"),
    "attention": ("B", "H", "N"),
    "keys": ("B", "N", "Dk"),
    "cls": ("B", "C"),
    "last_query": ("B", "C"),
    "last_keys": ("B", "N+1", "C"),
    "image_embeds": ("B", "N", "E"),
    "text_embeds": ("B", "M", "E"),
    "attention_local": ("B", "H", "N"),
    "received_object": ("B", "N"),
    "received_deep": ("B", "N"),
}
NEEDS = (*SHAPES, "seeds", "resolution")  # what strategies may need of a model


@dataclass(frozen=True)
class Selection:
    """Which tokens the language model sees.

    Attributes:
        indices: (B, K) the patch that each output token is, or stands for. Selections are in
            raster order (strictly increasing). Merging methods may use N for a token that is no
            single patch (the CLS token, a summary). Rows with fewer than K tokens are padded with
            -1 at the end.
        weights: (B, K, N) how each output token mixes the pre-projector features, or
            (B, K, N + 1) when the CLS row takes part (last column). None: plain selection.
        projected: the weights (B, K, N) mix the tokens after the projector instead (VScan).
        phases: (B, K) which of the strategy's ``phases`` chose each token; None: it has none.
    """

    indices: Tensor
    weights: Tensor | None = None
    projected: bool = False
    phases: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """(B,) output tokens per image."""
        return (self.indices >= 0).sum(dim=1)

    def check(self, tokens: VisualTokens, expected: int | None, name: str, phases: int = 0) -> None:
        """Refuse a selection that breaks the contract: a bug of the strategy, not of the user.

        Args:
            tokens: what was selected from.
            expected: output tokens per image, None where the strategy decides the number itself.
            name: the strategy's, for the message.
            phases: how many the strategy has.
        """
        indices, count = self.indices, tokens.count
        if indices.dim() != 2 or indices.shape[0] != tokens.batch:
            raise ValueError(
                f"{name}: indices have shape {tuple(indices.shape)}, expected ({tokens.batch}, K)"
            )
        if indices.is_floating_point() or indices.is_complex() or indices.shape[1] == 0:
            raise ValueError(f"{name}: indices must be integers, at least one per image")
        if expected is not None and indices.shape[1] != expected:
            raise ValueError(f"{name}: gave {indices.shape[1]} tokens, expected {expected}")
        if self.phases is not None:
            if self.phases.shape != indices.shape or self.phases.is_floating_point():
                raise ValueError(f"{name}: phases must be integers of the shape of the indices")
            if int(self.phases.min()) < 0 or int(self.phases.max()) >= phases:
                raise ValueError(f"{name}: phases must be in [0, {phases}), as it declares")
        if self.weights is None:
            ordered = bool((indices[:, 1:] > indices[:, :-1]).all())
            if not ordered or int(indices.min()) < 0 or int(indices.max()) >= count:
                raise ValueError(f"{name}: indices must be distinct, in raster order, in [0, N)")
            return
        if self.weights.shape[:2] != indices.shape or self.weights.shape[2] - count not in (0, 1):
            raise ValueError(
                f"{name}: weights have shape {tuple(self.weights.shape)}, expected "
                f"({tokens.batch}, {indices.shape[1]}, {count} or {count + 1})"
            )
        if int(indices.min()) < -1 or int(indices.max()) > count:
            raise ValueError(f"{name}: indices must be in [0, N], or -1 for padding at the end")
        padding = indices < 0
        if bool((padding[:, :-1] & ~padding[:, 1:]).any()) or bool(padding.all(dim=1).any()):
            raise ValueError(f"{name}: padding (-1) must be at the end, behind at least one token")
        if not bool(torch.isfinite(self.weights).all()):
            raise ValueError(f"{name}: weights hold NaN or infinite values")


def keep(indices: Tensor, phases: Tensor | None = None) -> Selection:
    """Plain selection of the given patches (B, K), in any order: sorted into raster order.

    Args:
        indices: (B, K) patches.
        phases: (B, K) or (K,) which phase of the strategy chose each of them.
    """
    if phases is None:
        return Selection(indices.sort(dim=-1).values)
    ordered = indices.sort(dim=-1)
    by_image = phases.to(indices.device).expand_as(indices)
    return Selection(ordered.values, phases=by_image.gather(-1, ordered.indices))


def phases_of(sizes: Sequence[int]) -> Tensor:
    """(K,) the phase of each token, where phases choose so many one after the other."""
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def top(scores: Tensor, count: int) -> Tensor:
    """Indices (B, count) of the highest scores (B, N), descending; of equals, the lowest index."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count]


def keep_all(tokens: VisualTokens) -> Selection:
    """The identity: every patch of every image."""
    every = torch.arange(tokens.count, device=tokens.device)
    return Selection(every.expand(tokens.batch, -1))


class Strategy:
    """Base of all strategies; subclasses are frozen dataclasses with their hyper-parameters.

    Class attributes:
        family: one of ``FAMILIES``.
        label: the published name, as tables print it.
        needs: names of the ``VisualTokens`` fields that ``select`` reads; ``resolution``: that the
            model can encode an image at the ``grid`` that the strategy asks for.
        merges: whether output tokens are mixtures (``Selection.weights``).
        paper: arXiv id or URL; empty for baselines.
        golden: the released code that golden vectors compare with, as tables of strategies say it;
            empty where there is none.
        choice: what we chose where the paper is silent; printed under every table.
        budgeted: whether the budget decides how many tokens come out; False where the strategy
            ignores it (vanilla, blind) or the image decides (adaptive PruMerge).
        extra: output tokens beyond the budget, as the method's own code counts (PruMerge: 1).
        drops: whether fewer tokens than the image has may enter the language model, whose positions
            the run's ``positions`` keeps or resets; decoder strategies have a rule of their own.
        equivariant: whether reordering the tokens reorders the selection and nothing else.
        inside: whether it prunes inside the language model, by a ``plan`` of stages.
        phases: names of the steps that fill a budget one after the other (``Selection.phases``).
        apportions: the complexity (``erank_input``, ``entropy``) by which a budget is a mean over a
            benchmark's documents, apportioned by ``budgets``; empty: every image has the budget.
    """

    family: ClassVar[str]
    label: ClassVar[str]
    needs: ClassVar[frozenset[str] | set[str]] = frozenset()
    merges: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    golden: ClassVar[str] = ""
    choice: ClassVar[str] = ""
    budgeted: ClassVar[bool] = True
    extra: ClassVar[int] = 0
    drops: ClassVar[bool] = True
    equivariant: ClassVar[bool] = True
    inside: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ()
    apportions: ClassVar[str] = ""

    @property
    def reads_question(self) -> bool:
        """Whether the choice depends on the question, so that each needs a choice of its own."""
        return "text_embeds" in self.needs

    def grid(self, own: tuple[int, int], budget: int) -> tuple[int, int]:
        """Grid (rows, columns) of visual tokens at which an image is to be encoded.

        Args:
            own: the grid that the model gives it.
            budget: tokens to keep.
        """
        return own

    def promise(self, tokens: int, budget: int, layers: int) -> list[int] | None:
        """Visual tokens that each decoder layer will see: what the audit of a run holds it to.

        Args:
            tokens: visual tokens of the image (of the tile, for strategies before the model).
            budget: tokens to keep of them.
            layers: decoder layers.

        Returns:
            One number per layer, or None where the image decides (adaptive PruMerge).

        Raises:
            UserError: the budget is impossible, with the smallest possible one.
        """
        if not self.budgeted:
            return None
        return [budget + self.extra if budget < tokens else tokens] * layers

    def budgets(
        self,
        complexity: Sequence[float],
        weights: Sequence[int],
        room: Sequence[int],
        budget: int,
    ) -> list[int]:
        """Tokens to keep of each image, where ``apportions`` says that they differ.

        Args:
            complexity: of each image of a benchmark.
            weights: how often each counts: its documents times its tiles.
            room: tokens that each (tile) has.
            budget: the mean.
        """
        return [budget] * len(complexity)

    def __post_init__(self) -> None:
        """Check every hyper-parameter against the range declared beside it.

        Raises:
            UserError: naming the strategy, the parameter, the value, its range and its default.
        """
        cls: Any = type(self)
        for parameter in fields(cls):  # subclasses are dataclasses
            name, default = parameter.name, parameter.default
            note = "" if default is MISSING else f"default {shown(default)}"
            kind, where = declared(cls)[name], f"{cls.__name__}.{name}"
            object.__setattr__(self, name, conform(kind, getattr(self, name), where, note))

    @abstractmethod
    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        """Choose ``budget`` of the N tokens of each image; budgeted strategies see budget < N."""

    def __call__(self, tokens: VisualTokens, budget: int) -> Selection:
        """Checked selection; a budget of N or more keeps everything (where the budget decides).

        Raises:
            UserError: budget below 1; missing, misshapen or non-finite inputs.
            ValueError: the strategy broke the contract.
        """
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise UserError(f"budget is {budget!r}, expected an integer of at least 1.")
        tokens.check(self.needs)
        if self.budgeted and budget >= tokens.count:
            return keep_all(tokens)
        selection = self.select(tokens, budget)
        expected = budget + self.extra if self.budgeted else None
        selection.check(tokens, expected, type(self).__name__, len(self.phases))
        return selection

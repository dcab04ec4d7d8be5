"""A vision transformer over square tiles: what strategies read of it, in one untouched pass."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from agilepruner.models.taps import QueryKeyTap, at_depth, tap
from agilepruner.strategies.base import LOCAL_DEPTH, OBJECT_DEPTH


@dataclass(frozen=True)
class Tower:
    """Where the tokens of a tile and the attention to them are found.

    A tower with a CLS token says what that attends to; one without, what each patch receives: the
    mean over heads and queries (H = 1), as VisPruner's authors advise in their repository's first
    issue. Where a visual token is a square of patches, its features are theirs side by side, and
    its attention is the mean of theirs.

    Attributes:
        attentions: the attention module of each layer, with ``q_proj`` and ``k_proj``.
        heads: how many each has.
        layer: whose output the visual tokens are made of, counted from the end: -1 is the last.
        cls: whether the first token is a CLS token.
        side: patches per side of the square that becomes a visual token.
    """

    attentions: Sequence[Any]
    heads: int
    layer: int
    cls: bool
    side: int = 1

    @property
    def provides(self) -> frozenset[str]:
        """Names of the ``VisualTokens`` fields that it can give."""
        names = {"features", "attention", "attention_local", "received_object", "received_deep"}
        if self.side == 1:  # a raw key is a patch's, and so is a CLS row
            names |= {"keys"} | ({"cls", "last_query", "last_keys"} if self.cls else set())
        return frozenset(names)

    def see(self, run: Callable[[], Tensor], needs: frozenset[str]) -> dict[str, Tensor]:
        """One pass over B tiles: ``features`` and what else of ``provides`` is needed.

        Args:
            run: runs the tower; returns the output of ``layer``, (B, T, C).
            needs: names of fields.
        """
        count = len(self.attentions)
        read = {
            "attention": self.layer,
            "keys": self.layer,
            "received_deep": self.layer,
            "last_query": -1,
            "last_keys": -1,
            "attention_local": at_depth(LOCAL_DEPTH, self.attentions),
            "received_object": at_depth(OBJECT_DEPTH, self.attentions),
        }
        wanted = {name: at % count for name, at in read.items() if name in needs & self.provides}
        with ExitStack() as stack:
            taps = {
                at: stack.enter_context(tap(self.attentions[at])) for at in set(wanted.values())
            }
            hidden = run()  # (B, T, C)
        seen = {"features": self.squares(hidden[:, int(self.cls) :]).flatten(2)}
        if "cls" in needs & self.provides:
            seen["cls"] = hidden[:, 0]
        return seen | {name: self._field(name, taps[at]) for name, at in wanted.items()}

    def _field(self, name: str, tapped: QueryKeyTap) -> Tensor:
        if name == "keys":
            return tapped.keys[:, int(self.cls) :].unflatten(-1, (self.heads, -1)).mean(dim=2)
        if name == "last_query":
            return tapped.queries[:, 0]
        if name == "last_keys":
            return tapped.keys
        if name.startswith("attention") and self.cls:
            attention = tapped.cls_attention(self.heads)  # (B, H, T - 1)
            return self._mean(attention.transpose(1, 2)).transpose(1, 2)
        received = self._mean(tapped.received_attention(self.heads, self.cls))  # (B, N)
        return received[:, None] if name.startswith("attention") else received

    def squares(self, patches: Tensor) -> Tensor:
        """(B, n, ...) patches in raster order -> (B, N, side^2, ...) by visual token."""
        if self.side == 1:
            return patches[:, :, None]
        along = isqrt(patches.shape[1]) // self.side
        split = patches.unflatten(1, (along, self.side, along, self.side)).transpose(2, 3)
        return split.flatten(3, 4).flatten(1, 2)

    def _mean(self, patches: Tensor) -> Tensor:
        return patches if self.side == 1 else self.squares(patches).mean(dim=2)

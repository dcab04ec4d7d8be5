"""Strategies around another one: what they do not change is as the inner strategy has it."""

from typing import Any

from agilepruner.strategies.base import Strategy


class Wrapping(Strategy):
    """Base of strategies with a hyper-parameter ``inner``, the strategy that chooses."""

    inner: Any

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """As the inner strategy."""
        return bool(self.inner.merges)

    @property
    def budgeted(self) -> bool:  # type: ignore[override]
        """As the inner strategy."""
        return bool(self.inner.budgeted)

    @property
    def extra(self) -> int:  # type: ignore[override]
        """As the inner strategy."""
        return int(self.inner.extra)

    @property
    def equivariant(self) -> bool:  # type: ignore[override]
        """As the inner strategy."""
        return bool(self.inner.equivariant)

    @property
    def phases(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the inner strategy."""
        return tuple(self.inner.phases)

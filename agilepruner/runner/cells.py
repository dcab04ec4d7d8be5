"""The cell: the unit of work, of identity and of resume."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agilepruner.strategies.base import Strategy


@dataclass(frozen=True)
class Cell:
    """One (model, strategy, budget, benchmark, protocol, suite).

    Attributes:
        strategy_name: config name. strategy: the instance with its hyper-parameters.
        budget: visual tokens kept per image; the model's full count for vanilla.
        benchmark: config name.
        positions: ``reset`` or ``keep``: of the tokens kept before the language model.
        identity: everything that decides an answer, and nothing else; empty until ``identify``.
        key: its hash, sixteen hexadecimal digits.
        scoring: digest of how answers become a row; no part of the identity, since another one
            needs the journal replayed and no model.
    """

    strategy_name: str
    strategy: Strategy
    budget: int
    benchmark: str
    positions: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    scoring: str = ""

    @property
    def id(self) -> str:
        """The hash of the identity.

        Raises:
            ValueError: the cell has not been identified.
        """
        if not self.key:
            raise ValueError(f"{self.strategy_name} on {self.benchmark} has not been identified")
        return self.key

    @property
    def folder(self) -> str:
        """Directory name: readable first, unique by its id."""
        return f"{self.benchmark}-{self.strategy_name}-{self.budget}-{self.id}"

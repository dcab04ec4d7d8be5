"""A strategy that breaks its contract fails alone: what it gives, writes to, or draws from."""

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import plans
import pytest
import torch

from agilepruner.strategies.attention.fastervlm import FasterVLM
from agilepruner.strategies.base import Selection, Strategy

pytestmark = pytest.mark.usefixtures("loaded_once")
BASE = ["benchmark=[vqav2]", "limit=4", "strategy=[fastervlm]", "budget=[16]"]


@dataclass(frozen=True)
class Writes(FasterVLM):
    """Spoils everything that it is given."""

    label: ClassVar = "Writes"
    needs: ClassVar = frozenset({"attention", "features", "projected", "keys"})

    def select(self, tokens, budget):
        chosen = super().select(tokens, budget)
        for name in self.needs:
            getattr(tokens, name).zero_()
            getattr(tokens, name).numpy()[:] = 7
        return chosen


@dataclass(frozen=True)
class Draws(FasterVLM):
    """Chooses by a generator that the whole process shares."""

    source: str = "torch"

    label: ClassVar = "Draws"

    def select(self, tokens, budget):
        draw = {
            "torch": lambda: torch.rand(1),
            "numpy": lambda: np.random.rand(1),
            "python": random.random,
        }
        draw[self.source]()
        return super().select(tokens, budget)


@dataclass(frozen=True)
class Merges(Strategy):
    """Gives merged tokens with one thing wrong."""

    wrong: str = ""

    family: ClassVar = "attention"
    label: ClassVar = "Merges"
    needs: ClassVar = frozenset({"attention", "features"})
    merges: ClassVar = True

    def select(self, tokens, budget):
        indices = torch.arange(budget).repeat(tokens.batch, 1)
        weights = torch.zeros(tokens.batch, budget, tokens.count)
        weights[:, :, :budget] = torch.eye(budget)
        if self.wrong == "index":
            indices[:, -1] = tokens.count + 1
        if self.wrong == "negative":
            indices[:, 0] = -2
        if self.wrong == "hole":
            indices[:, 0] = -1
        if self.wrong == "no number":
            weights[:, 0, 0] = float("nan")
        if self.wrong == "infinite":
            weights[:, 0, 0] = float("inf")
        if self.wrong == "float":
            indices = indices.float()
        return Selection(indices, weights)


def run(tmp_path, name, *more):
    own = f"+strategy.odd._target_={__name__}.{name}"
    rows = plans.executed(plans.planned(f"results={tmp_path}", *BASE, own, *more))
    return {row.strategy: row for row in rows}


def test_a_strategy_that_writes_to_its_input_spoils_no_other_cell(tmp_path):
    expected = plans.executed(plans.planned(f"results={tmp_path / 'a'}", *BASE))
    rows = run(tmp_path / "b", "Writes")
    assert rows["odd"].status == "done"
    for row in expected:
        assert rows[row.strategy].scores == row.scores
        assert rows[row.strategy].complexity == row.complexity
    assert rows["odd"].scores == rows["fastervlm"].scores


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_a_strategy_that_draws_from_a_global_generator_is_refused(tmp_path, source):
    rows = run(tmp_path, "Draws", f"+strategy.odd.source={source}")
    assert rows["odd"].status == "failed"
    assert "drew from the global random generator" in rows["odd"].error
    assert rows["fastervlm"].status == rows["vanilla"].status == "done"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("index", "indices must be in [0, N]"),
        ("negative", "indices must be in [0, N]"),
        ("hole", "padding (-1) must be at the end"),
        ('"no number"', "weights hold NaN"),
        ("infinite", "weights hold NaN or infinite"),
        ("float", "indices must be integers"),
    ],
)
def test_a_merging_strategy_is_held_to_the_contract(tmp_path, wrong, words):
    rows = run(tmp_path, "Merges", f"+strategy.odd.wrong={wrong}")
    assert rows["odd"].status == "failed"
    assert words in rows["odd"].error
    assert rows["fastervlm"].status == "done"


def test_a_sound_merging_strategy_is_audited(tmp_path, monkeypatch):
    assert run(tmp_path / "a", "Merges")["odd"].kept["max"] == 16
    monkeypatch.setattr(Merges, "extra", 1)  # it now promises a token more than it gives
    row = run(tmp_path / "b", "Merges")["odd"]
    assert row.status == "failed"


@pytest.mark.parametrize("name", ["prumerge", "pooling", "fastv", "sparsevlm", "blind"])
def test_every_kind_of_strategy_is_audited(tmp_path, monkeypatch, name):
    """A measured count that is not the promised one fails the cell, whatever the family."""
    from agilepruner.strategies.base import Strategy as Base

    settings = [f"strategy=[{name}]", "budget=[160]", "benchmark=[vqav2]", "limit=2"]
    rows = plans.executed(plans.planned(f"results={tmp_path / 'a'}", *settings))
    assert [row.status for row in rows] == ["done", "done"], rows[-1].error
    classes = type(plans.planned(*settings).cells[-1].strategy).__mro__
    kind = next(each for each in classes if "promise" in vars(each))
    assert issubclass(kind, Base)
    promise = kind.promise
    monkeypatch.setattr(kind, "promise", lambda *a: [n + 1 for n in promise(*a)])
    rows = plans.executed(plans.planned(f"results={tmp_path / 'b'}", *settings))
    assert rows[-1].status == "failed"
    assert "visual tokens in layer" in rows[-1].error

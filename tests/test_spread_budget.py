"""A budget spread over a benchmark keeps its mean, floor and ceiling, and follows complexity."""

from dataclasses import replace
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import executed, planned

from agilepruner.errors import UserError
from agilepruner.report.frames import documents_frame
from agilepruner.runner.journal import Journal
from agilepruner.runner.plan import identify
from agilepruner.runner.score import CellFailed, audit
from agilepruner.strategies.adaptive.spread_budget import SpreadBudget
from agilepruner.strategies.attention.fastervlm import FasterVLM
from agilepruner.strategies.decoder.fastv import FastV

image = st.tuples(st.floats(1, 120), st.integers(1, 5), st.sampled_from([576, 576, 100]))


@settings(max_examples=60)
@given(
    images=st.lists(image, min_size=1, max_size=40),
    budget=st.integers(1, 96),
    power=st.sampled_from([-1.0, 0.0, 1.0, 3.0]),
    low=st.floats(0, 1),
    high=st.floats(1, 8),
)
def test_mean_floor_ceiling_and_order_are_kept(images, budget, power, low, high):
    values, weights, room = zip(*images)
    spread = SpreadBudget(FasterVLM(), power=power, floor=low, ceiling=high)
    found = spread.budgets(values, weights, room, budget)
    least, most = max(1, ceil(low * budget)), max(budget, floor(high * budget))
    for (_, _, there), kept in zip(images, found):
        assert min(least, there) <= kept <= min(most, there)
    spent = sum(w * k for w, k in zip(weights, found))
    total = budget * sum(weights)
    shared = {}
    for value, weight, there in images:
        shared[value, there] = shared.get((value, there), 0) + weight
    assert total - max(shared.values()) < spent <= total
    for (a, _, room_a), kept_a in zip(images, found):
        for (b, _, room_b), kept_b in zip(images, found):
            if room_a == room_b and a**power >= b**power:
                assert kept_a >= kept_b or (power == 0 and abs(kept_a - kept_b) <= 1)
            if (a, room_a) == (b, room_b):
                assert kept_a == kept_b


def test_the_spread_is_in_proportion_between_its_bounds():
    spread = SpreadBudget(FasterVLM(), floor=0.25, ceiling=4)
    assert spread.budgets([10, 20, 30], [1, 1, 1], [576] * 3, 60) == [30, 60, 90]
    assert SpreadBudget(FasterVLM(), power=0).budgets([1, 9], [1, 1], [576] * 2, 64) == [64, 64]
    inverse = SpreadBudget(FasterVLM(), power=-1, floor=0, ceiling=4)
    assert inverse.budgets([10, 30], [1, 1], [576] * 2, 40) == [60, 20]


def test_what_cannot_be_spread_is_refused():
    with pytest.raises(UserError, match="once"):
        SpreadBudget(SpreadBudget(FasterVLM()))
    with pytest.raises(UserError, match="meets its budget"):
        SpreadBudget(FastV())


def test_a_run_spends_the_mean_its_journal_proves_it_and_a_continued_one_keeps_to_it(
    tmp_path, loaded_once
):
    arguments = ("strategy=[agilepruner_spread]", "benchmark=[gqa]", "limit=10", "budget=[32]")
    run = identify(planned(*arguments, f"results={tmp_path}"))
    (spread,) = (row for row in executed(run) if row.strategy != "vanilla")
    assert spread.status == "done", spread.error
    assert 31 < spread.kept["mean"] <= 32
    assert 16 <= spread.kept["min"] < spread.kept["max"] <= 64
    frame = documents_frame([spread], run.directory).sort_values("erank_input")
    assert frame["visual"].is_monotonic_increasing

    (cell,) = (cell for cell in run.cells if cell.id == spread.id)
    journal = Journal(run.folder(cell), cell.id)
    entries = list(journal.refresh().values())
    facts = {"tile_budget": 32, "exact_budget": True}
    audit(cell, entries, facts, layers=5)
    entries[0] = replace(entries[0], visual=entries[0].visual + 1)
    with pytest.raises(CellFailed, match="promises"):
        audit(cell, entries, facts, layers=5)

    (measured,) = (run.directory / "complexity").iterdir()
    content = measured.read_bytes()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[:3]))  # killed after two answers
    (run.folder(cell) / "row.json").unlink()
    (after,) = (row for row in executed(run) if row.strategy != "vanilla")
    assert (after.kept, after.scores) == (spread.kept, spread.scores)
    assert measured.read_bytes().rstrip() == content.rstrip()  # nothing is measured twice


def test_an_image_that_cannot_be_measured_fails_the_cell(tmp_path, loaded_once, monkeypatch):
    from evals.tasks import Benchmark

    seen = Benchmark.image

    def broken(self, document):
        if document.index == 0:
            raise OSError("no such image")
        return seen(self, document)

    monkeypatch.setattr(Benchmark, "image", broken)
    arguments = ("strategy=[agilepruner_spread]", "benchmark=[gqa]", "limit=4", "budget=[32]")
    rows = executed(planned(*arguments, f"results={tmp_path}"))
    assert {row.status for row in rows} == {"failed"}
    (spread,) = (row for row in rows if row.strategy != "vanilla")
    assert spread.failures == 4
    assert "no such image" in spread.error

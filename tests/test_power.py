"""The number of documents that `agilepruner power` asks for gives the power that it promises."""

from dataclasses import replace
from math import inf, isinf
from statistics import NormalDist

import numpy as np
import pytest
from synthetic_rows import rows

from agilepruner.commands.power import run, sizes
from agilepruner.report.estimates import LEVEL, Variances, leave_one_out, paired, variances
from agilepruner.report.lines import AVERAGE, Aggregate, build_tables
from agilepruner.report.power import Pilot, needs, pilot
from agilepruner.report.statistics import Samples
from agilepruner.runner.rows import write_row

QUESTIONS = 3  # of each image


def two_lines(images, difference, generator):
    """Two strategies' right answers: alike on one image, and on one document."""
    members = np.repeat(np.arange(images), QUESTIONS)
    shared = generator.standard_normal(images)[members] + generator.standard_normal(len(members))
    found = []
    for level in (0.8, 0.8 - difference):
        own = generator.standard_normal(images)[members] + generator.standard_normal(len(members))
        right = (shared + own) / 2 < NormalDist().inv_cdf(level)
        found.append(leave_one_out(Aggregate(), right[None] * 1.0, members, np.zeros_like(members)))
    return found


@pytest.mark.parametrize("wanted", [0.8, 0.5])
def test_simulated_lines_are_told_apart_as_often_as_promised(wanted):
    generator = np.random.default_rng(7)
    first, second = two_lines(3000, 0.05, generator)
    known = Pilot([variances(first, second, 100)], [2999], 0, 0, {"gqa": 9000}, 9000, 3000)
    images = round(3000 * known.factor(5, wanted))
    assert 100 < images < 1500
    shown = [paired(*two_lines(images, 0.05, generator), 100).p < LEVEL for _ in range(600)]
    assert np.mean(shown) == pytest.approx(wanted, abs=0.06)  # three standard errors


def test_each_part_of_the_variance_shrinks_in_its_own_way():
    def factor(*parts, difference=1.0):
        known = Pilot([Variances(*parts)], [10_000], 0, 0, {}, 0, 0)
        return known.factor(difference, 0.8)

    assert factor(4, 0, 0) == pytest.approx(4 * 2.8**2, rel=0.01)
    assert factor(4, 0, 0, difference=0.5) == pytest.approx(4 * 4 * 2.8**2, rel=0.01)
    assert factor(0, 4, 0) == pytest.approx(2 * 2.8, rel=0.01)
    assert isinf(factor(0, 0, 4))  # more documents do not help against seeds


def test_a_table_says_what_its_differences_need():
    (table,) = build_tables(rows(("divprune", "agilepruner"), (64,)))
    samples = Samples(table)
    own, other = (line for line in table.groups[1].lines)
    for column in (table.columns[0], AVERAGE):
        estimate, known = samples.estimate(own, other, column), pilot(samples, own, other, column)
        assert known.estimate(1).error == pytest.approx(estimate.error)
        assert known.estimate(1).freedom == pytest.approx(estimate.freedom)
        assert known.point == pytest.approx(estimate.point)
        (need,) = needs(samples, [(own, other)], [column], 1.0, 0.8)
        assert need.could_show == pytest.approx(estimate.smallest())
        (same,) = needs(samples, [(own, other)], [column], need.could_show, 0.8)
        assert same.factor == pytest.approx(1, rel=1e-3)
        assert set(need.documents) == set(known.documents)
    assert replace(need, factor=inf).documents == {}


def test_the_command_prints_documents_and_refuses_what_it_cannot_say(tmp_path, capsys):
    from agilepruner.errors import UserError

    for one in rows(("divprune", "agilepruner"), (64,), ("pope", "gqa")):
        folder = tmp_path / "quick" / "cells" / f"{one.benchmark}-{one.strategy}-{one.id}"
        folder.mkdir(parents=True)
        write_row(folder / "row.json", one)
    words = ["quick", f"results={tmp_path}"]
    assert run([*words, "difference=2", "benchmark=pope"]) == 0
    assert "AgilePruner − DivPrune, POPE" in capsys.readouterr().out
    assert sizes()["pope"] == 9000
    for more, said in (
        ([], "Give the difference"),
        (["difference=0"], "above 0"),
        (["difference=1", "benchmark=popp"], "Did you mean 'pope'"),
        (["difference=1", "strategies=divprune"], "two or more"),
    ):
        with pytest.raises(UserError, match=said):
            run([*words, *more])

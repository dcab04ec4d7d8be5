"""Verdicts: of the printed numbers, paired, by image, corrected, honest about what n can say."""

import csv
import io

import numpy as np
import pytest
import synthetic_rows as made
from scipy import stats

from agilepruner.report.estimates import (
    DOUBT,
    VERDICTS,
    combine,
    holm,
    jackknife,
    leave_one_out,
    paired,
)
from agilepruner.report.lines import AVERAGE, Aggregate, build_tables
from agilepruner.report.sheets import difference_sheet
from agilepruner.report.statistics import Margins, analyse, best_line
from agilepruner.report.table import differences_csv

MEAN = Aggregate()
F1 = Aggregate("f1", ("right_yes", "wrong_yes", "wrong_no"))


def left_out(scores, clusters=None, rule=MEAN):
    """A number of some scores (or of some parts), without each cluster (each unit)."""
    parts = np.atleast_2d(np.asarray(scores, dtype=float))
    members = np.arange(parts.shape[1]) if clusters is None else np.asarray(clusters)
    return leave_one_out(rule, parts, members, np.zeros_like(members))


def error(first, second, clusters=None, rule=MEAN):
    """Standard error of a difference as the jackknife has it, without the added doubt."""
    own, other = left_out(first, clusters, rule), left_out(second, clusters, rule)
    return np.sqrt(jackknife(own.without - other.without))


def test_one_document_per_image_is_the_paired_t_test():
    first, second = np.random.default_rng(0).normal([[0.3], [0.0]], 1.0, size=(2, 40))
    theirs = stats.ttest_rel(first, second)
    difference = 100 * (first.mean() - second.mean())
    assert difference / error(first, second) == pytest.approx(theirs.statistic)
    low, high = theirs.confidence_interval(0.95)
    half = stats.t.ppf(0.975, 39) * error(first, second)
    assert (difference - half, difference + half) == pytest.approx((100 * low, 100 * high))
    estimate = paired(left_out(first), left_out(second), scale=0.0)
    assert estimate.p == pytest.approx(theirs.pvalue)
    assert estimate.interval() == pytest.approx((100 * low, 100 * high))
    below = stats.ttest_rel(first, second + 0.5, alternative="less").pvalue
    above = stats.ttest_rel(first, second - 0.5, alternative="greater").pvalue
    assert estimate.p_equivalent(50) == pytest.approx(max(below, above))


def test_an_f1_agrees_with_scipys_bootstrap():
    generator = np.random.default_rng(1)
    yes = np.arange(600) % 2 == 0
    answers = [generator.random(600) < level for level in (0.9, 0.8)]
    first, second = (
        np.stack([yes & right, ~yes & ~right, yes & ~right]).astype(float) for right in answers
    )

    def difference(*columns):
        a, b = np.stack(columns[:3]).sum(-1), np.stack(columns[3:]).sum(-1)
        return 200 * a[0] / (2 * a[0] + a[1] + a[2]) - 200 * b[0] / (2 * b[0] + b[1] + b[2])

    found = stats.bootstrap(
        (*first, *second), difference, paired=True, n_resamples=2000, rng=generator, method="BCa"
    )
    estimate = paired(left_out(first, rule=F1), left_out(second, rule=F1), scale=0.0)
    assert estimate.point == pytest.approx(difference(*first, *second))
    assert estimate.error == pytest.approx(found.standard_error, rel=0.07)
    assert estimate.interval() == pytest.approx(tuple(found.confidence_interval), abs=0.5)


def test_questions_on_one_image_count_as_one():
    """Ten copies of each question carry no more evidence than one of each."""
    scores = np.random.default_rng(2).integers(2, size=(2, 60)).astype(float)
    once = error(*scores)
    many = [np.repeat(own, 10) for own in scores]
    assert error(*many, np.repeat(np.arange(60), 10)) == pytest.approx(once)
    assert error(*many) < 0.5 * once


def test_pairing_makes_a_small_steady_gain_certain():
    scores = np.random.default_rng(0).integers(2, size=400).astype(float)
    better = scores.copy()
    better[np.flatnonzero(scores == 0)[:24]] = 1  # six points, on documents both answered
    estimate = paired(left_out(better), left_out(scores), scale=100)
    assert estimate.point == pytest.approx(6)
    assert estimate.p < 0.001
    assert stats.ttest_ind(better, scores).pvalue > 0.05


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Aggregate("mean", ("a",), 1.0), 2.5),
        (Aggregate("mean", ("a",), 1.0, "sum"), 1.5 + 3.5),
        (Aggregate("mean", ("a",), 1.0, "mean"), 2.5),
        (Aggregate("ratio", ("a", "b"), 100.0), 100 * 10 / 26),
        (Aggregate("f1", ("a", "b", "c"), 1.0), 20 / (20 + 26 + 4)),
    ],
)
def test_aggregates(rule, expected):
    sums = np.array([[3.0, 11.0, 2.0], [7.0, 15.0, 2.0]])  # two strata of a, b, c
    assert combine(rule, sums, np.array([2.0, 2.0])) == pytest.approx(expected)


def test_nothing_to_divide_by_is_no_number():
    nothing, some = np.zeros((1, 3)), np.zeros(1)
    for of in ("mean", "ratio", "f1"):
        assert np.isnan(combine(Aggregate(of), nothing, some))
    assert combine(F1, nothing, np.array([5.0])) == 0.0  # lmms-eval's F1 without any yes


def test_agreement_on_few_documents_is_no_proof():
    """No disagreement on n documents leaves differences up to about 3 / n possible."""
    for n, verdict in ((100, "cannot tell"), (400, "equivalent")):
        table = table_of([exact(s, n - 5, n) for s in ("vanilla", "agilepruner", "divprune")])
        found = {d.column: d for d in analyse(table).differences}
        average = found[AVERAGE]
        assert average.difference == 0
        assert found[table.columns[0]].verdict == verdict
        assert found[table.columns[0]].high == pytest.approx(
            100 * np.sqrt(DOUBT) / n * stats.t.ppf(0.975, n - 1)
        )


def test_holm_is_the_published_procedure():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.001]) == pytest.approx([0.9, 0.002])
    assert holm([]) == []


def table_of(rows):
    (table,) = build_tables(rows)
    return table


def exact(strategy, right, n=100, name="gqa", **changes):
    """A row with the first ``right`` of n documents answered, one image each."""
    scores = [1.0] * right + [0.0] * (n - right)
    clusters = [f"image-{i}" for i in range(n)]
    budget = 576 if strategy == "vanilla" else 64
    own = {"scores": scores, "clusters": clusters, "value": 100 * right / n, "n": n}
    return made.row(strategy, budget, name, **own | changes)


COUNTS = {"vanilla": 950, "agilepruner": 900, "divprune": 899, "fastervlm": 880, "uniform": 600}


def verdicts(table, **settings):
    analysis = analyse(table, **settings)
    return {(d.line.strategy, d.column.title): d for d in analysis.differences}


def test_the_four_words():
    table = table_of([exact(strategy, right, 1000) for strategy, right in COUNTS.items()])
    found = verdicts(table)
    assert {d.reference.strategy for d in found.values()} == {"agilepruner"}
    assert found["uniform", "Average"].verdict == "worse"
    assert found["uniform", "Average"].difference == pytest.approx(100 * (600 - 900) / 950)
    assert found["fastervlm", "GQA"].verdict == "worse"
    assert found["divprune", "GQA"].verdict == "equivalent"  # within two points
    few = table_of([exact(strategy, right // 20, 50) for strategy, right in COUNTS.items()])
    unsure = verdicts(few)["divprune", "GQA"]
    assert unsure.verdict == "cannot tell"
    assert unsure.smallest > 2
    better = verdicts(table, reference="uniform")["divprune", "GQA"]
    assert (better.verdict, better.difference) == ("better", pytest.approx(29.9))


def test_the_margin_is_the_users():
    table = table_of([exact(strategy, right, 1000) for strategy, right in COUNTS.items()])
    loose = verdicts(table, margins=Margins(average=10, benchmark=0.05))
    assert loose["divprune", "Average"].verdict == "equivalent"
    assert loose["divprune", "GQA"].verdict == "cannot tell"


def test_the_reference_is_chosen():
    rows = [exact(strategy, right, 1000) for strategy, right in COUNTS.items()]
    table = table_of(rows)
    for name in ("vanilla", "divprune", "best"):
        analysis = analyse(table, reference=name)
        (reference,) = {d.reference.strategy for d in analysis.differences}
        assert reference == ("agilepruner" if name == "best" else name)
        text = " ".join(
            [difference_sheet(table, analysis).title, *difference_sheet(table, analysis).notes]
        )
        assert ("best of this table" in text) is (name == "best")
        assert ("chosen after seeing it" in text) is (name == "best")
    without = table_of([row for row in rows if row.strategy != "agilepruner"])
    assert {d.reference.strategy for d in analyse(without).differences} == {"vanilla"}


def test_a_chance_find_among_many_is_no_verdict():
    """What is better when it is all that was looked at is not when it is one of six."""

    def rows(benchmarks):
        found = []
        for name in benchmarks:
            for strategy in ("vanilla", "agilepruner", "divprune"):
                right = 93 if (strategy, name) == ("divprune", "gqa") else 86
                found.append(exact(strategy, right, 100, name))
        return found

    alone = verdicts(table_of(rows(["gqa"])))["divprune", "GQA"]
    assert 0.01 < alone.p < 0.05
    assert alone.verdict == "better"
    many = ["gqa", "darts", "chess", "go", "whist", "bridge"]
    found = analyse(table_of(rows(many))).differences
    among = [d for d in found if d.column.benchmark == "gqa"]
    assert [d.verdict for d in among] == ["cannot tell"]


@pytest.mark.parametrize("benchmark", ["pope", "mme", "chair"])
def test_differences_are_of_the_numbers_in_the_cells(benchmark):
    """An F1, points, and hallucinated mentions, not the accuracy of single documents."""
    rows = made.rows(strategies=("divprune", "agilepruner"), budgets=(64,))
    table = table_of(rows)
    found = verdicts(table)
    columns = [c for c in table.columns if c.benchmark == benchmark and c.better]
    agile, divprune = (
        next(line for line in table.lines if line.strategy == name)
        for name in ("agilepruner", "divprune")
    )
    for column in columns:
        shown = divprune.cell(column).value - agile.cell(column).value
        assert found["divprune", column.title].difference == pytest.approx(shown)
    printed = table.average(divprune).value - table.average(agile).value
    assert found["divprune", "Average"].difference == pytest.approx(printed)


def test_lower_is_better_for_hallucination():
    chair = made.row("vanilla", 576, "chair", n=400)
    rows = [chair]
    for strategy, wrong in (("agilepruner", 40), ("divprune", 200)):
        parts = chair.parts | {"hallucinated": [1.0] * wrong + [0.0] * (400 - wrong)}
        metrics = chair.metrics | {"coco_cap_chair_s": wrong / 4}
        own = {"value": wrong / 4, "metrics": metrics, "parts": parts}
        rows.append(made.row(strategy, 64, "chair", n=400, **own))
    found = verdicts(table_of(rows))["divprune", "Cs"]
    assert (found.difference, found.verdict) == (pytest.approx(40), "worse")


def test_parts_that_do_not_give_the_printed_number_give_no_interval():
    rows = [exact("vanilla", 95), exact("agilepruner", 90), exact("divprune", 80, value=81.0)]
    assert analyse(table_of(rows)).differences == []


def test_other_documents_are_never_compared():
    rows = [exact("vanilla", 95), exact("agilepruner", 90), exact("divprune", 45, n=50)]
    assert analyse(table_of(rows)).differences == []


def test_seeds_are_averaged_and_their_spread_counts():
    rows = [exact("vanilla", 950, 1000), exact("agilepruner", 900, 1000)]
    one = [exact("random", 600, 1000, parameters={"seed": 0})]
    three = [
        exact("random", right, 1000, parameters={"seed": seed})
        for seed, right in enumerate((500, 600, 700))
    ]
    single = verdicts(table_of(rows + one))["random", "GQA"]
    several = verdicts(table_of(rows + three))["random", "GQA"]
    assert single.difference == several.difference == pytest.approx(-30)
    assert several.high - several.low > 2 * (single.high - single.low)


def test_only_a_number_that_is_better_than_the_next_is_marked():
    rows = [exact("vanilla", 950, 1000)]
    rows += [exact(s, right, 1000) for s, right in (("divprune", 905), ("fastervlm", 903))]
    assert analyse(table_of(rows)).leaders == {}
    rows.append(exact("agilepruner", 940, 1000))
    leaders = analyse(table_of(rows)).leaders
    assert {line.strategy for line in leaders.values()} == {"agilepruner"}
    assert {column.title for _, column in leaders} == {"GQA", "Average"}


def test_differences_csv_and_determinism():
    texts = [
        differences_csv([t], [analyse(t)]) for t in (table_of(made.rows()), table_of(made.rows()))
    ]
    assert texts[0] == texts[1]
    records = list(csv.DictReader(io.StringIO(texts[0])))
    # budgets x other lines x (nine, three of CHAIR, the Average)
    assert len(records) == 3 * 4 * 13
    assert {record["verdict"] for record in records} <= set(VERDICTS)
    assert {record["reference"] for record in records} == {"agilepruner"}


def test_no_vanilla_no_average():
    table = table_of([row for row in made.rows() if row.strategy != "vanilla"])
    assert not [d for d in analyse(table).differences if d.column is AVERAGE]
    assert best_line(table, table.groups[0]) is None

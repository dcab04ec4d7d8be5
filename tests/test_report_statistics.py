"""Statistics: paired, by image, and ties are called ties."""

import csv
import io

import numpy as np
import pytest
import synthetic_rows as made

from agilepruner.report.lines import build_tables
from agilepruner.report.statistics import (
    best_line,
    difference_sheet,
    differences,
    paired_interval,
    resample,
)
from agilepruner.report.table import differences_csv


def pair(first, second, clusters):
    images = list(clusters)
    rows = [
        made.row(strategy, 64, "gqa", scores=list(map(float, scores)), clusters=images)
        for strategy, scores in [("divprune", first), ("fastervlm", second)]
    ]
    return paired_interval(*rows)


def test_equal_answers_have_no_difference_at_all():
    scores = np.random.default_rng(0).integers(2, size=200)
    assert pair(scores, scores, map(str, range(200))) == (0.0, 0.0, 0.0)


def test_pairing_makes_a_small_steady_gain_certain():
    scores = np.random.default_rng(0).integers(2, size=400).astype(float)
    better = scores.copy()
    better[np.flatnonzero(scores == 0)[:24]] = 1  # six points, on documents both answered
    difference, low, high = pair(better, scores, map(str, range(400)))
    assert difference == pytest.approx(0.06)
    assert 0.03 < low < 0.06 < high < 0.09
    assert pair(scores, better, map(str, range(400)))[2] < 0


def test_interval_matches_the_normal_theory():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 2000))
    difference, low, high = pair(first, second, map(str, range(2000)))
    error = (first - second).std() / np.sqrt(2000)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08)
    assert difference == pytest.approx((first - second).mean())


def test_questions_on_one_image_count_as_one():
    """Ten copies of each question carry no more evidence than one of each."""
    scores = np.random.default_rng(2).integers(2, size=(2, 60)).astype(float)
    images = [f"image-{i}" for i in range(60)]
    _, low, high = pair(*scores, images)
    many = [np.repeat(own, 10) for own in scores]
    _, clustered_low, clustered_high = pair(*many, np.repeat(images, 10))
    assert clustered_high - clustered_low == pytest.approx(high - low, rel=0.1)
    _, naive_low, naive_high = pair(*many, map(str, range(600)))
    assert naive_high - naive_low < 0.5 * (clustered_high - clustered_low)


def test_unequal_clusters_are_weighted_by_their_size():
    scores = np.array([[1.0, 1.0, 1.0, 0.0]])
    means, draws = resample(scores, ["a", "a", "a", "b"], draws=4000)
    assert means[0] == 0.75
    assert set(np.round(draws[:, 0], 6)) == {0.0, 0.75, 1.0}


def test_rows_of_other_documents_are_refused():
    first, second = made.row("divprune", 64, "gqa"), made.row("fastervlm", 64, "gqa", n=20)
    with pytest.raises(ValueError, match="different documents"):
        paired_interval(first, second)
    without = made.row("fastervlm", 64, "gqa", scores=None, clusters=None)
    with pytest.raises(ValueError, match="no scores per document"):
        paired_interval(first, without)


def table_of(rows):
    (table,) = build_tables(rows)
    return table


def exact(strategy, right, n=100):
    """A row with the first ``right`` of n documents answered, one image each."""
    scores = [1.0] * right + [0.0] * (n - right)
    clusters = [f"image-{i}" for i in range(n)]
    budget = 576 if strategy == "vanilla" else 64
    value = 100 * right / n
    return made.row(strategy, budget, "gqa", scores=scores, clusters=clusters, value=value, n=n)


def test_the_best_line_is_the_reference_and_verdicts_follow_the_interval():
    counts = {"vanilla": 95, "divprune": 90, "fastervlm": 89, "uniform": 60}
    table = table_of([exact(strategy, right) for strategy, right in counts.items()])
    found = {(d.line.strategy, d.benchmark): d for d in differences(table)}
    assert best_line(table, table.groups[1]).strategy == "divprune"
    assert set(found) == {
        (strategy, name) for strategy in ("fastervlm", "uniform") for name in ("gqa", "average")
    }
    assert found["uniform", "average"].verdict == "worse"
    assert found["uniform", "average"].difference == pytest.approx(100 * (60 - 90) / 95)
    assert found["uniform", "gqa"].difference == pytest.approx(-30)
    assert found["fastervlm", "gqa"].verdict == "tie"  # one document of a hundred
    text = "\n".join(map(str, difference_sheet(table, list(found.values())).sections))
    assert "best is DivPrune" in text
    assert "tie" in text


def test_a_hallucination_score_is_higher_when_better():
    """Scores per unit are 1 for a faithful caption, whatever the direction of Cs."""
    rows = made.rows(strategies=("divprune", "fastervlm"), budgets=(64,))
    found = [d for d in differences(table_of(rows)) if d.benchmark == "chair"]
    assert len(found) == 1
    best, line = found[0].best.rows["chair"][0], found[0].line.rows["chair"][0]
    assert found[0].difference == pytest.approx(100 * (np.mean(line.scores) - np.mean(best.scores)))


def test_seeds_are_averaged_per_document():
    rows = [exact("vanilla", 95), exact("divprune", 90)]
    for seed, right in enumerate((50, 60)):
        own = exact("random", right)
        rows.append(
            made.row(
                "random",
                64,
                "gqa",
                parameters={"seed": seed},
                scores=own.scores,
                clusters=own.clusters,
                value=own.value,
                n=100,
            )
        )
    found = {(d.line.strategy, d.benchmark): d for d in differences(table_of(rows))}
    assert found["random", "gqa"].difference == pytest.approx(-35)


def test_differences_csv_and_determinism():
    texts = [differences_csv(differences(table_of(made.rows()))) for _ in range(2)]
    assert texts[0] == texts[1]
    records = list(csv.DictReader(io.StringIO(texts[0])))
    assert len(records) == 3 * 4 * 11  # budgets x other lines x (nine, CHAIR, average)
    assert {record["verdict"] for record in records} <= {"better", "worse", "tie"}


def test_no_vanilla_no_best():
    rows = [row for row in made.rows() if row.strategy != "vanilla"]
    table = table_of(rows)
    assert differences(table) == []
    assert difference_sheet(table, []) is None

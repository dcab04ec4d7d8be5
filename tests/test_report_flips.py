"""What means hide: counts of changed answers are those that one makes by hand."""

import csv
import io
from dataclasses import replace

import pytest
import synthetic_rows as made
from scipy import stats

from agilepruner.report.flips import FEWEST, Flips, changes_frame
from agilepruner.report.lines import build_tables
from agilepruner.report.table import cells_csv, make_report
from agilepruner.report.wandb import _numbers
from agilepruner.runner.score import fingerprint


def answered(strategy, budget, right, benchmark="gqa", **changes):
    """A row with these units right, one image each, and an answer that says so."""
    scores = [float(one) for one in right]
    return made.row(
        *(strategy, budget, benchmark),
        n=len(right),
        scores=scores,
        value=100 * sum(scores) / len(scores),
        answers=[fingerprint(["yes" if one else f"no {i}"]) for i, one in enumerate(scores)],
        clusters=[f"image-{i}" for i in range(len(right))],
        **changes,
    )


# 100 units: vanilla has the first 80, the grid the first 40, DivPrune 30 to 89.
VANILLA = answered("vanilla", 576, [i < 80 for i in range(100)])
GRID = answered("uniform", 64, [i < 40 for i in range(100)])
DIVPRUNE = answered("divprune", 64, [30 <= i < 90 for i in range(100)])


def of(rows, strategy, benchmark="gqa"):
    (table,) = build_tables(rows)
    line = next(line for line in table.lines if line.strategy == strategy)
    return Flips(table).of_cell(line, benchmark)


def test_flips_agreement_and_the_hard_subset():
    found = of([VANILLA, GRID, DIVPRUNE], "divprune")
    assert found["right_to_wrong"].percent == pytest.approx(30)  # 0 to 29
    assert found["wrong_to_right"].percent == pytest.approx(10)  # 80 to 89
    # Those that both have right say yes; those that both have wrong say the same no.
    assert found["same_answer"].percent == pytest.approx(50 + 10)
    assert found["hard"].percent == pytest.approx(100)  # vanilla but not the grid: 40 to 79
    assert [found[name].n for name in found] == [100, 100, 100, 40]
    assert of([VANILLA, GRID, DIVPRUNE], "uniform")["hard"].percent == 0


def test_intervals_are_of_images_and_never_leave_the_percent():
    share = of([VANILLA, GRID, DIVPRUNE], "divprune")["right_to_wrong"]
    low, high = share.interval
    # The jackknife of a mean is the t interval; the variance of three units is added.
    error = (0.3 * 0.7 / 99 + 3 / 100**2) ** 0.5
    assert (high - low) / 2 == pytest.approx(100 * stats.t.ppf(0.975, 99) * error)
    pairs = [f"image-{i // 2}" for i in range(100)]
    paired = [replace(row, clusters=pairs) for row in (VANILLA, GRID, DIVPRUNE)]
    wider = of(paired, "divprune")["right_to_wrong"].interval
    assert wider[1] - wider[0] > high - low
    same = of([VANILLA, replace(DIVPRUNE, scores=VANILLA.scores)], "divprune")["right_to_wrong"]
    assert same.percent == same.interval[0] == 0 < same.interval[1]


def test_a_small_hard_subset_is_hidden():
    grid = answered("uniform", 64, [i < 80 - FEWEST + 1 for i in range(100)])
    assert "hard" not in of([VANILLA, grid, DIVPRUNE], "divprune")
    assert "hard" not in of([VANILLA, DIVPRUNE], "divprune")


def test_what_cannot_be_paired_is_left_out():
    fewer = answered("divprune", 64, [True] * 60)
    assert of([VANILLA, fewer], "divprune") == {}
    assert of([DIVPRUNE], "divprune") == {}
    found = of([VANILLA, replace(DIVPRUNE, answers=None)], "divprune")
    assert set(found) == {"right_to_wrong", "wrong_to_right"}


def test_seeds_are_one_line_and_cells_of_their_own():
    seeds = [
        answered("random", 64, [i < right for i in range(100)], parameters={"seed": seed})
        for seed, right in enumerate((50, 60, 70))
    ]
    assert of([VANILLA, *seeds], "random")["right_to_wrong"].percent == pytest.approx(20)
    records = list(csv.DictReader(io.StringIO(cells_csv(build_tables([VANILLA, *seeds])))))
    lost = [float(r["right_to_wrong"]) for r in records if r["strategy"] == "random"]
    assert lost == pytest.approx([30, 20, 10])
    assert [r["right_to_wrong"] for r in records if r["strategy"] == "vanilla"] == [""]


def test_the_frame_has_a_line_per_unit():
    frame = changes_frame([VANILLA, GRID, DIVPRUNE])
    assert len(frame) == 200
    own = frame[frame["strategy"] == "divprune"]
    counts = own[["right_to_wrong", "wrong_to_right", "same_answer", "hard"]].sum()
    assert counts.to_list() == [30, 10, 60, 40]
    assert changes_frame([]).empty


def test_table_and_logger_show_them_and_the_noise_floor_stands_beside():
    rows = [VANILLA, GRID, DIVPRUNE]
    without = make_report(rows, "Table")
    assert "DivPrune | 30.0 [" in without.files["table.md"]
    assert "Noise floor" not in without.text
    again = [answered("vanilla", 576, [i < 79 for i in range(100)])]
    again = [replace(again[0], id=VANILLA.id, environment={"batch_size": 1})]
    text = make_report(rows, "Table", again=[again]).text
    said = "Vanilla again, batch_size=1: 1 of 100 units get another answer, 1 turn right to wrong"
    assert said in " ".join(text.split())
    other = [replace(again[0], id="another cell")]
    assert "Noise floor" not in make_report(rows, "Table", again=[other]).text
    scalars = _numbers(DIVPRUNE, 75.0, {"right_to_wrong": 30.0, "right_to_wrong_n": 100})
    assert scalars["changed/right_to_wrong"] == 30.0


def test_fingerprints_ignore_case_space_and_a_full_stop():
    assert fingerprint(["Yes."]) == fingerprint([" yes"]) != fingerprint(["no"])
    assert fingerprint(["a", "b"]) != fingerprint(["a b"])

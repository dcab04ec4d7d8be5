"""The audit of the published tables finds what is wrong there, and nothing else."""

import csv
import shutil

import pytest

from agilepruner.places import PUBLISHED
from agilepruner.report.audit import audit, audit_text


def findings(directory=PUBLISHED, **wanted):
    return [f for f in audit(directory) if all(getattr(f, k) == v for k, v in wanted.items())]


def test_nine_of_seventy_three_averages_do_not_follow_from_their_cells():
    averages = {(f.table, f.where): f for f in findings(kind="average")}
    assert len(averages) == 9
    assert "9 of 73 printed averages" in audit_text()
    divprune = averages["results_llava_v15_7b", "DivPrune, 128 tokens"]
    assert (divprune.printed, divprune.confidence) == ("97.25", "high")
    assert divprune.recomputed.startswith("its cells give 96.070")
    assert "MMB_CN 52.3 → 54.8 gives the printed average" in divprune.reading
    unresolved = [f.where for f in averages.values() if f.confidence == "unresolved"]
    assert unresolved == ["VisPruner + Ours, 64 tokens"]


def test_three_deltas_one_heading_one_repeated_row_one_contradiction():
    assert {(f.where, f.printed, f.reading) for f in findings(kind="delta")} == {
        ("BAT + Ours, 128 tokens, POPE", "+0.9", "+1.5"),
        ("BAT + Ours, 128 tokens, Rel.", "+1.11", "+1.16"),
        ("BAT + Inverse, 128 tokens, Rel.", "−0.19", "−0.29"),
    }
    (heading,) = findings(kind="heading")
    assert (heading.printed, heading.recomputed) == ("60.5 % reduction", "it is 58.2 % of 1225")
    (repeat,) = findings(kind="repeat")
    assert repeat.where == "DivPrune, 128 and 64 tokens"
    (contradiction,) = findings(kind="contradiction")
    assert (contradiction.printed, contradiction.reading) == ("85.5 and 87.0", "87.0")


def test_bold_that_is_best_is_no_finding():
    bold = {(f.table, f.where): f.recomputed for f in findings(kind="bold")}
    assert ("results_llava_v15_7b", "Ours, 128 tokens, average") not in bold
    assert bold["results_llava_next_7b", "Ours, 640 tokens, average"] == "better are VisionZip 99.8"
    assert "FasterVLM 45.8" in bold["hallucination_chair", "Ours, 128 tokens, CHAIR_s"]


@pytest.mark.parametrize("column", ["printed", "printed_average"])
def test_a_changed_digit_is_found(tmp_path, column):
    """13B, PDrop at 128: 98.4 follows from its cells until one of the numbers is another."""
    copy = tmp_path / "published"
    shutil.copytree(PUBLISHED, copy)
    where = "PDrop, 128 tokens"
    path = copy / "llava_1_5_13b.csv"
    assert findings(copy, kind="average", where=where) == []
    with open(path, newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    changed = next(r for r in records if (r["method"], r["budget"]) == ("PDrop", "128"))
    changed[column] = str(float(changed[column]) + 1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    assert len(findings(copy, kind="average", where=where)) == 1

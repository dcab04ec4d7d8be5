"""Rows of several runs: what can be compared stands together, everything else says why not."""

from dataclasses import replace

import pytest
from synthetic_rows import row, rows

from agilepruner.commands.report import run
from agilepruner.report.join import join
from agilepruner.runner.rows import write_row

IDENTITY = {
    "model": {"files": "aaaa", "dtype": "float32"},
    "limit": 40,
    "documents": {"file": "f00d" * 8},
    "protocol": {"task": "gqa"},
    "versions": {"torch": "2.13.0"},
    "code": "c0de",
}


def cell(strategy="divprune", benchmark="gqa", budget=64, key="1", **changes):
    """A row with an identity; changes: of the identity, or of the row."""
    own = {name: changes.pop(name) for name in list(changes) if name in IDENTITY}
    return row(strategy, budget, benchmark, id=f"{strategy}-{benchmark}-{budget}-{key}",
               identity=IDENTITY | own, **changes)  # fmt: skip


def reason(*found):
    (left,) = join({"first": [cell("vanilla", budget=576), cell()], "second": found}).left_out
    assert left.run == "second"
    return left.reason


def test_rows_of_another_line_join_whatever_their_code_and_libraries():
    other = cell("fastervlm", key="2", code="beef", versions={"torch": "2.12.0"})
    joined = join({"first": [cell()], "second": [other]})
    assert joined.rows == [cell(), other]
    assert joined.left_out == []
    assert joined.origin == {cell().id: "first", other.id: "second"}
    (sheet,) = joined.sheets
    assert [line[:2] for line in sheet.sections[0][1]] == [["first", "1"], ["second", "1"]]
    assert any("file f00df00df00d" in note for note in sheet.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"files": "bbbb", "dtype": "float32"}}, "weights bbbb, the table's aaaa"),
        ({"model": {"files": "aaaa", "dtype": "float16"}}, "dtype float16, the table's float32"),
        ({"limit": None}, "limit none, the table's 40"),
        ({"documents": {"file": "beef"}}, "other documents, or another revision"),
        ({"protocol": {"task": "gqa", "overrides": 1}}, "asked or scored otherwise (protocol)"),
    ],
)
def test_what_cannot_be_compared_is_left_out_and_says_why(changes, words):
    assert words in reason(cell("fastervlm", key="2", **changes))


def test_a_cell_is_shown_once_and_says_what_became_of_the_other():
    assert reason(cell()) == "the same cell is in first"
    assert "another value: " in reason(cell(value=12.5))
    again = cell(key="2", versions={"torch": "2.12.0"}, code="beef")
    assert "torch 2.12.0, the table's 2.13.0, other code" in reason(again)
    assert reason(cell(key="2", status="failed", error="x")) == "failed; the cell is done in first"
    broken, whole = cell(status="failed", error="x"), cell(key="2")
    assert join({"first": [broken], "second": [whole]}).rows == [whole]


def test_of_one_run_the_newest_rows_decide():
    old, new = cell(limit=10, key="1"), cell(limit=40, key="2")
    joined = join({"": [old, new]})
    assert joined.rows == [new]
    assert joined.left_out[0].reason == "limit 10, the table's 40"


def test_parameters_and_budgets_and_positions_are_lines_of_their_own():
    found = [cell(), cell(budget=32), cell(key="k", positions="keep"),
             cell(key="s", parameters={"share": 0.5})]  # fmt: skip
    assert join({"": found}).rows == found


def test_the_report_of_two_runs_prints_where_rows_are_from_and_what_is_missing(tmp_path, capsys):
    first = rows(("divprune",), (64,), ("gqa",))
    second = [replace(row("agilepruner", 64, "gqa"), environment={"torch": "2.12.0"}),
              replace(first[1], value=1.0)]  # fmt: skip
    for name, found in (("a", first), ("b", second)):
        for one in found:
            folder = tmp_path / name / "cells" / f"{one.benchmark}-{one.strategy}-{one.id}"
            folder.mkdir(parents=True)
            write_row(folder / "row.json", replace(one, identity={"benchmark": one.benchmark}))
    assert run(["a", "b", f"results={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    written = (tmp_path / "a+b" / "table.md").read_text(encoding="utf-8")
    for text in (printed, written):
        assert "Where the rows are from" in text
        assert "2.12.0" in text
        assert "Rows left out" in text
        assert "the same cell is in a with another value" in text
    assert "AgilePruner" in written


def test_a_report_asked_for_otherwise_leaves_that_of_the_run(tmp_path):
    for one in rows(("divprune", "fastervlm"), (64,), ("gqa",)):
        folder = tmp_path / "a" / "cells" / f"{one.benchmark}-{one.strategy}-{one.id}"
        folder.mkdir(parents=True)
        write_row(folder / "row.json", replace(one, identity={"benchmark": one.benchmark}))
    own = ["a", f"results={tmp_path}", "documents=0"]
    files = ("table.md", "report.json", "differences.csv")
    assert run(own) == 0
    before = [(tmp_path / "a" / name).read_bytes() for name in files]
    assert run([*own, "reference=divprune"]) == 0
    assert [(tmp_path / "a" / name).read_bytes() for name in files] == before
    beside = [(tmp_path / "a" / "reference=divprune" / name).read_bytes() for name in files]
    assert all(one != other for one, other in zip(beside, before))
    assert run(own) == 0  # and is not remembered
    assert [(tmp_path / "a" / name).read_bytes() for name in files] == before

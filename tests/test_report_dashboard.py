"""The dashboard: one page, nothing fetched, the report's own numbers, one style per strategy."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic_rows as made

from agilepruner.report import write_report
from agilepruner.report.dashboard import dashboard_html
from agilepruner.report.dashboard.charts import Point, budget_sections, pareto_sections, with_front
from agilepruner.report.dashboard.findings import findings_in
from agilepruner.report.dashboard.grid import Marks, grid_data, marks_of
from agilepruner.report.kinds import kinds_of, kinds_sheet, scores_by_kind
from agilepruner.report.lines import build_tables
from agilepruner.report.sheets import render_markdown
from agilepruner.report.statistics import analyse
from agilepruner.report.styles import styles
from evals.sources import kinds

CONFIGS = Path(__file__).parents[1] / "configs" / "strategy"
KINDS = {
    (benchmark, i): ("simple", "complex")[i % 2] for benchmark in made.BENCHMARKS for i in range(40)
}


def data_of(page):
    text = re.search(r"^const DATA = (.*);$", page, flags=re.MULTILINE).group(1)
    return json.loads(text)


def test_the_page_holds_every_number_of_the_table():
    rows = made.rows(n=400)
    (table,) = build_tables(rows)
    (drawn,) = data_of(dashboard_html(rows, "Table"))["tables"]
    assert len(drawn["lines"]) == len(table.lines) == 16
    for line, shown in zip(table.lines, drawn["lines"]):
        assert [cell["value"] for cell in shown["cells"]] == [
            *(line.cell(column).value for column in table.columns),
            table.average(line).value,
        ]
    leaders = {(id(line), column.title) for (_, column), line in analyse(table).leaders.items()}
    assert leaders
    titles = [column["title"] for column in drawn["columns"]]
    for line, shown in zip(table.lines, drawn["lines"]):
        best = [title for title, cell in zip(titles, shown["cells"]) if cell["best"]]
        assert best == [title for title in titles if (id(line), title) in leaders]
    assert len({line["key"] for line in drawn["lines"]}) == 16


def test_the_differences_are_those_of_an_analysis_with_the_chosen_reference():
    rows = made.rows(n=100)
    (table,) = build_tables(rows)
    (drawn,) = data_of(dashboard_html(rows, "Table"))["tables"]
    assert drawn["reference"] == "agilepruner"
    assert set(drawn["references"]) == {*made.STRATEGIES, "vanilla", "best"}
    for name, shown in drawn["references"].items():
        expected = analyse(table, name).differences
        assert [one[3] for one in shown["differences"]] == pytest.approx(
            [d.difference for d in expected], abs=1e-4
        )
        assert [drawn["verdicts"][one[6]] for one in shown["differences"]] == [
            d.verdict for d in expected
        ]
    assert drawn["references"]["divprune"]["label"] == "DivPrune"


def test_nothing_is_fetched():
    page = dashboard_html(made.rows(), "Table")
    assert set(re.findall(r"https?://[^\"'\s)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script[^>]+src|<link[^>]+stylesheet|@import|url\(|fetch\(", page)


LABELS = {
    "end": "</script><script>alert(1)</script>",
    "comment": "<!--<script>",  # a parser that reads this looks for two ends
    "separators": "a\u2028b\u2029c &amp; \\u003c",
    "half a character": "\ud83d",
    "place": "/*SCRIPT*/ /*STYLE*/ /*DATA*/null",
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_labels_cannot_break_out_of_the_script(label):
    page = dashboard_html([made.row("divprune", 64, "gqa", label=label)], "Table")
    script = re.search(r"^const DATA = (.*);$", page, flags=re.MULTILINE).group(1)
    assert not set(script) & set("<>&\u2028\u2029")
    assert data_of(page)["tables"][0]["lines"][0]["label"] == label


def test_every_strategy_has_a_style_of_its_own():
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert len(set(styles([]).values())) == len(names)
    assert styles(names) == styles([])
    more = [f"somebody_elses_{i}" for i in range(8)]
    assert len(set(styles(more).values())) == len(names) + 8
    assert {styles([name])[name] for name in ("vanilla", "random", "blind")} == {
        ("#8A8A8A", marker) for marker in ("circle", "square", "cross")
    }


def test_same_rows_give_the_same_page():
    rows = made.rows()
    assert dashboard_html(rows, "Table") == dashboard_html(rows[::-1], "Table")


# --- charts ---


def test_the_front_is_what_nothing_beats_on_both_axes():
    """Cheap and good: the cheapest, the best, and what is better than all that cost no more."""
    points = [(1.0, 80.0), (2.0, 79.0), (2.0, 90.0), (3.0, 90.0), (4.0, 91.0), (4.0, 85.0)]
    series = [[Point(i, x, y)] for i, (x, y) in enumerate(points)]

    def front(better_x, better_y):
        marked = with_front(series, better_x, better_y)
        return [p.line for one in marked for p in one if p.front]

    assert front(-1, 1) == [0, 2, 4]
    assert front(1, 1) == [4]
    assert front(-1, -1) == [0, 1]


def test_costs_are_drawn_over_flops_prefill_and_time_and_hallucination_against_recall():
    (table,) = build_tables(made.rows())
    accuracy, hallucination = pareto_sections(table)
    assert [chart.title for chart in accuracy.charts] == [
        f"Average↑ over {cost}" for cost in ("all FLOPs", "prefill FLOPs", "measured time")
    ]
    assert [chart.title for chart in hallucination.charts[:2]] == [
        "Cs↓ against Recall↑",
        "Ci↓ against Recall↑",
    ]
    total = {p.line: p for one in accuracy.charts[0].series for p in one}
    assert set(total) == set(range(len(table.lines)))  # vanilla is a choice too
    line = table.lines[3]
    assert total[3].x == pytest.approx(line.audit("flops", "total") / 1e9)
    assert total[3].y == table.average(line).value
    assert accuracy.charts[2].series[-1][0].x == pytest.approx(1000 * 2.1 / 40)


def test_what_was_not_measured_is_not_drawn():
    untimed = [replace(row, seconds={}) for row in made.rows(benchmarks=("gqa", "pope"))]
    (table,) = build_tables(untimed)
    accuracy, hallucination = pareto_sections(table)
    assert len(accuracy.charts) == 2
    assert not hallucination.charts
    blind = made.row("blind", 576, "gqa", label="Blind", family="baseline")
    (table,) = build_tables([*untimed, blind])
    curves = next(one for one in budget_sections(table, [])[0].charts if one.title == "GQA↑")
    assert "blind" not in {table.lines[p.line].strategy for one in curves.series for p in one}
    assert curves.note.startswith("Blind ")


# --- documents x strategies ---


def test_the_grid_counts_what_nobody_and_everybody_gets():
    scores = np.array([[1, 0, 1, 0, 0.5], [1, 0, 0, 0, 0.4], [1, 0, 0, 1, 1]])
    marks = Marks("gqa", "GQA", [3, 5, 7, 9, 11], [""] * 5, [0, 2, 4], scores)
    answers = {
        0: {5: "Cat.", 7: "x"},
        2: {5: "cat", 7: "x"},
        4: {5: "dog", 7: "x"},
    }
    found = grid_data(marks, answers, base=0)
    assert found["nobody"] == [1, [5]]
    assert found["everybody"] == [1, [3]]
    assert [row["right"] for row in found["rows"]] == [60.0, 20.0, 60.0]
    assert [(row["only"], row["alone"]) for row in found["rows"]] == [(1, 0), (0, 1), (1, 0)]
    assert [(row["lost"], row["gained"]) for row in found["rows"]] == [(0, 0), (2, 0), (1, 1)]
    stripes = [document for document, _ in found["stripes"]]
    assert (stripes[0], stripes[-1]) == (5, 3)  # the hardest first
    assert found["suspects"] == [[5, "Cat.", 2]]
    assert grid_data(marks)["suspects"] is None


def test_a_long_benchmark_is_drawn_in_stripes():
    (table,) = build_tables(made.rows(n=1000, benchmarks=("gqa",)))
    (marks,) = marks_of(table)
    found = grid_data(marks)
    assert sum(size for _, size in found["stripes"]) == 1000
    assert len(found["stripes"]) == 160
    for row, right in zip(found["rows"], marks.right):
        assert row["right"] == pytest.approx(100 * right.mean(), abs=0.01)


# --- kinds of image ---


def test_kinds_compare_with_vanilla_on_the_same_images():
    rows = made.rows(strategies=("divprune",), budgets=(64,))
    (table,) = build_tables(rows)
    simple, complex_ = scores_by_kind(table, KINDS)
    assert (simple.kind, complex_.kind) == ("simple", "complex")
    assert (simple.units, simple.benchmarks) == (9 * 20, 9)
    assert simple.values[0] == complex_.values[0] == pytest.approx(100)
    ratios = []
    for benchmark in made.BENCHMARKS:
        own, base = (line.rows[benchmark][0].scores[::2] for line in reversed(table.lines))
        ratios.append(sum(own) / sum(base))
    assert simple.values[1] == pytest.approx(100 * sum(ratios) / 9)
    assert "simple 180 (9 benchmarks)" in render_markdown(kinds_sheet(table, [simple, complex_]))


def test_scores_of_pairs_need_their_documents():
    """Scores of units are matched to images by document, never by position alone."""
    own = {"scores": [1.0, 0.0] * 10, "clusters": [f"i{i}" for i in range(20)]}
    rows = [made.row("vanilla", 576, "mme", **own), made.row("divprune", 64, "mme", **own)]
    assert scores_by_kind(build_tables(rows)[0], KINDS) == []
    placed = own | {"documents": list(range(0, 40, 2))}
    rows = [made.row("vanilla", 576, "mme", **placed), made.row("divprune", 64, "mme", **placed)]
    (simple,) = scores_by_kind(build_tables(rows)[0], KINDS)
    assert (simple.kind, simple.units) == ("simple", 20)


def test_kinds_come_from_the_suites_sidecar_and_the_rows_carry_them(tmp_path):
    path = tmp_path / "scenes.csv"
    path.write_text(
        "benchmark,doc_id,image_id,kind\ngqa,0,7,simple\npope,0,7,word\ngqa,1,8,complex\n"
    )
    assert kinds({"directory": tmp_path}, "gqa") == {0: "simple", 1: "complex"}
    assert kinds({"directory": tmp_path / "none"}, "gqa") == {}
    row = made.row("vanilla", 576, "gqa", documents=[1, 0], kinds=["complex", "simple"])
    assert kinds_of([row]) == {("gqa", 0): "simple", ("gqa", 1): "complex"}


def test_write_report_writes_the_page_and_the_kinds(tmp_path):
    write_report(made.rows(), tmp_path, "Table", KINDS)
    page = (tmp_path / "dashboard.html").read_text()
    curves = data_of(page)["tables"][0]["curves"]
    assert [chart["title"] for chart in curves[-1]["charts"]] == ["simple", "complex"]
    assert "simple and complex images" in (tmp_path / "table.md").read_text()


# --- analyses and claims ---


def test_analyses_and_claims_beside_the_page_are_shown(tmp_path):
    assert findings_in(tmp_path) == []
    folder = tmp_path / "analyses" / "complexity"
    folder.mkdir(parents=True)
    (folder / "table.md").write_text(
        "## Simple, complex\n\n| What | n |\n| --- | ---: |\n| *Group* |  |\n| a\\|b | **3** |\n\n"
        "- a note\n"
    )
    (folder / "figure.svg").write_bytes(b"<svg/>")
    (tmp_path / "claims.md").write_text("# Claims\n\nOf the paper.\n\n| Claim |\n|---|\n| x |\n")
    claims, found = findings_in(tmp_path)
    assert (claims.name, claims.text, claims.tables) == (
        *("claims", "Of the paper."),
        [("", ["Claim"], [["x"]])],
    )
    shown = found.plain()
    assert shown["title"] == "Simple, complex"
    group, line = shown["tables"][0]["rows"]
    assert group == {"group": True, "bold": [], "cells": ["Group", ""]}
    assert line == {"group": False, "bold": [1], "cells": ["a|b", "3"]}
    assert shown["notes"] == ["a note"]
    assert shown["figure"].startswith("data:image/svg+xml;base64,")

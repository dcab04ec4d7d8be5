"""The dashboard: one page, nothing fetched, the report's own numbers, one style per strategy."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import synthetic_rows as made

from agilepruner.report import write_report
from agilepruner.report.dashboard import dashboard_html, styles
from agilepruner.report.kinds import kinds_of, kinds_sheet, scores_by_kind
from agilepruner.report.lines import build_tables
from agilepruner.report.sheets import render_markdown
from agilepruner.report.statistics import analyse
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


def test_nothing_is_fetched():
    page = dashboard_html(made.rows(), "Table")
    assert set(re.findall(r"https?://[^\"'\s)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script[^>]+src|<link[^>]+stylesheet|@import|url\(|fetch\(", page)


LABELS = {
    "end": "</script><script>alert(1)</script>",
    "comment": "<!--<script>",  # a parser that reads this looks for two ends
    "separators": "a\u2028b\u2029c &amp; \\u003c",
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
    assert [kind["kind"] for kind in data_of(page)["tables"][0]["kinds"]] == ["simple", "complex"]
    assert "simple and complex images" in (tmp_path / "table.md").read_text()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize(
    "rows",
    [[], made.rows(), made.rows(suite="<!--<script>")],
    ids=["empty", "full", "hostile"],
)
def test_the_page_draws_in_a_browser(rows, tmp_path):
    write_report(rows, tmp_path, "Table", KINDS)
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    quiet += " --disable-background-networking --disable-component-update --dump-dom"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = (tmp_path / "dashboard.html").as_uri()
    command = ["chromium", *quiet.split(), profile, page]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("chromium does not answer")
    charts = 10 + 2 + 4 + 2 + 3  # accuracy, FLOPs, CHAIR, kinds, differences
    assert run.stdout.count("<figure>") == (charts if rows else 0)
    assert ('<p id="about">No rows yet.' in run.stdout) is not bool(rows)

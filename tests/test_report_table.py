"""The table: what a reader sees is what the rows say."""

import csv
import io
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_rows as made

from agilepruner.errors import UserError
from agilepruner.report import write_report
from agilepruner.report.lines import AVERAGE, Column, build_tables, relative_average
from agilepruner.report.published import load
from agilepruner.report.settings import Settings
from agilepruner.report.sheets import (
    difference_sheet,
    failures,
    main_sheet,
    render_markdown,
    render_text,
    signed,
)
from agilepruner.report.statistics import analyse
from agilepruner.report.table import CELL_COLUMNS, cells_csv, metrics_csv
from agilepruner.runner.rows import describe

GQA = Column("gqa", None, "GQA", 1, 1, average=True, log="accuracy")


def only(rows):
    """The one table of some rows."""
    (table,) = build_tables(rows)
    return table


def line(table, label, budget):
    (found,) = [one for one in table.lines if (one.label, one.budget) == (label, budget)]
    return found


def shown(rows, markdown=False):
    table = only(rows)
    if markdown:
        return render_markdown(main_sheet(table, inline_spread=True))
    return render_text(main_sheet(table, inline_spread=False))


def records(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_vanilla_comes_first_then_budgets_then_families():
    table = only(made.rows())
    assert [group.heading for group in table.groups] == [
        "All 576 tokens",
        "Retain 128 tokens (↓ 77.8 %)",
        "Retain 64 tokens (↓ 88.9 %)",
        "Retain 32 tokens (↓ 94.4 %)",
    ]
    labels = [one.label for one in table.groups[1].lines]
    assert labels == ["Random", "Uniform grid", "FasterVLM", "DivPrune", "AgilePruner"]
    titles = [column.heading for column in table.columns]
    assert titles[:9] == [f"{label}↑" for label in made.BENCHMARKS.values()]
    assert titles[9:] == ["Cs↓", "Ci↓", "Recall↑", "Len"]


def test_average_is_the_papers():
    table = only(made.rows())
    divprune = line(table, "DivPrune", 64)
    ratios = [divprune.rows[b][0].value / table.vanilla.rows[b][0].value for b in made.BENCHMARKS]
    assert table.average(divprune).value == pytest.approx(100 * sum(ratios) / 9)
    assert table.average(table.vanilla).value == pytest.approx(100)


def test_published_rows_give_the_published_averages():
    """Our Average formula on the printed cells gives the printed Average (7B, unambiguous rows)."""
    rows = [number for number in load() if number.source == "results_llava_v15_7b"]
    base = {n.benchmark: n.printed for n in rows if n.strategy == "vanilla"}
    for strategy, budget in [("agilepruner", 64), ("fastv", 128), ("divprune", 32)]:
        own = [n for n in rows if (n.strategy, n.budget) == (strategy, budget)]
        average = relative_average({n.benchmark: n.printed for n in own}, base)
        assert average == pytest.approx(own[0].printed_average, abs=0.006)


def test_average_needs_every_benchmark_of_vanilla():
    rows = [r for r in made.rows() if (r.strategy, r.benchmark) != ("divprune", "gqa")]
    table = only(rows)
    assert table.average(line(table, "DivPrune", 64)).text(2) == "–"
    assert table.average(line(table, "FasterVLM", 64)).value is not None
    without_vanilla = only([r for r in rows if r.strategy != "vanilla"])
    assert without_vanilla.average(without_vanilla.lines[0]).text(2) == "–"
    assert "there is no vanilla row" in shown([r for r in rows if r.strategy != "vanilla"])


def test_a_failed_cell_says_so_and_why():
    rows = [
        r for r in made.rows() if (r.strategy, r.budget, r.benchmark) != ("divprune", 64, "gqa")
    ]
    rows.append(made.failed("divprune", 64, "gqa", "OutOfMemoryError: 12 GiB\n  traceback"))
    table = only(rows)
    divprune = line(table, "DivPrune", 64)
    assert divprune.cell(GQA).text(1) == "failed"
    assert table.average(divprune).text(2) == "failed"
    text = shown(rows)
    assert "failed: DivPrune, 64 tokens, GQA: OutOfMemoryError: 12 GiB" in text
    assert "traceback" not in text


def test_a_failed_cell_always_says_something():
    rows = [made.row("vanilla", 576, "gqa"), made.failed("divprune", 64, "gqa", "  ")]
    assert failures(only(rows)) == ["DivPrune, 64 tokens, GQA: failed"]


def test_a_benchmark_shows_the_columns_that_its_config_names():
    """A benchmark that nobody has heard of needs no line of code in the report."""
    column = {"title": "Hits", "metric": "hits", "log": "hits", "digits": 2, "better": "lower"}
    column |= {"average": True, "aggregate": {"of": "mean", "parts": ["hits"], "points": 1}}
    new = {"order": 15, "columns": [column], "about": "Hits: fewer is better."}
    rows = [made.row("vanilla", 576, name) for name in ("vqav2", "gqa")]
    rows += [made.row("vanilla", 576, "darts", metrics={"hits": 8.0}, **new)]
    rows += [made.row("divprune", 64, "darts", metrics={"hits": 2.0}, **new)]
    table = only(rows)
    assert [c.heading for c in table.columns] == ["VQAv2↑", "Hits↓", "GQA↑"]
    assert table.averaged == table.columns
    assert "Hits: fewer is better." in shown(rows)
    divprune = line(table, "DivPrune", 64)
    assert divprune.cell(table.columns[1]).text(2) == "2.00"


def test_a_config_that_does_not_say_how_it_is_shown_is_refused():
    config = {"label": "Darts", "protocols": {"lmms": {}}, **made.described("gqa")}
    assert describe(config, "lmms") == made.described("gqa")
    with pytest.raises(UserError, match="'Darts' does not say 'order'"):
        describe({**config, "order": None}, "lmms")
    (column,) = config["columns"]
    with pytest.raises(UserError, match="it needs exactly"):
        describe({**config, "columns": [{**column, "digit": 1}]}, "lmms")
    with pytest.raises(UserError, match="Did you mean 'higher'"):
        describe({**config, "columns": [{**column, "better": "high"}]}, "lmms")


def test_a_protocol_may_show_a_benchmark_differently():
    config = {"label": "Darts", **made.described("gqa")}
    config["protocols"] = {"lmms": {}, "paper": {"split": "test"}}
    assert describe(config, "lmms")["split"] == ""
    assert describe(config, "paper")["split"] == "test"


def test_a_benchmark_that_failed_everywhere_keeps_its_column():
    rows = made.rows(strategies=("divprune",), budgets=(64,), benchmarks=("gqa",))
    rows += [made.failed(s, b, "chair", "no data") for s, b in [("vanilla", 576), ("divprune", 64)]]
    text = shown(rows)
    assert "Cs↓" in text
    assert text.count("failed ") >= 4


def test_a_number_is_marked_where_it_is_better_than_the_next():
    def rows(best):
        found = []
        for strategy, right in {"vanilla": 390, "divprune": 250, "agilepruner": best}.items():
            scores = [1.0] * right + [0.0] * (400 - right)
            own = {"scores": scores, "value": right / 4, "clusters": [str(i) for i in range(400)]}
            budget = 576 if strategy == "vanilla" else 64
            found.append(made.row(strategy, budget, "gqa", n=400, **own))
        return found

    assert "63.2 " in shown(rows(253))
    assert "63.2*" not in shown(rows(253))
    assert "68.8*" in shown(rows(275))
    assert "**68.8**" in shown(rows(275), markdown=True)


def test_lower_is_better_for_hallucination_and_length_has_no_best():
    rows = [made.row("vanilla", 576, "chair", n=400)]
    for strategy, wrong, found in [("fastervlm", 160, 3.0), ("divprune", 240, 3.5)]:
        false = [1.0] * wrong + [0.0] * (400 - wrong)
        parts = {"hallucinated": false, "false_mentions": false, "mentions": [4.0] * 400}
        parts |= {"found": [found] * 400, "objects": [5.0] * 400, "length": [wrong / 4] * 400}
        metrics = {"coco_cap_chair_s": wrong / 4, "coco_cap_chair_i": wrong / 16}
        metrics |= {"coco_cap_recall": 20 * found, "chair_len": wrong / 4}
        own = {"value": wrong / 4, "metrics": metrics, "parts": parts}
        rows.append(made.row(strategy, 64, "chair", n=400, **own))
    text = shown(rows)
    low, high = (next(t for t in text.splitlines() if name in t) for name in ("Faster", "DivPr"))
    assert low.split()[1:] == ["40.0*", "10.0*", "60.0", "40.0"]
    assert high.split()[1:] == ["60.0", "15.0", "70.0*", "60.0"]
    assert "Average" not in text.splitlines()[2]


def test_parameter_sets_are_told_apart_by_what_differs():
    rows = [made.row("vanilla", 576, "gqa")]
    for slope in (0.01, 0.02):
        parameters = {"erank_avg": 90.0, "tau_max": 0.25, "slope": slope}
        rows.append(made.row("agilepruner", 64, "gqa", parameters=parameters))
    labels = [one.label for one in only(rows).groups[1].lines]
    assert labels == ["AgilePruner (slope=0.01)", "AgilePruner (slope=0.02)"]


def test_seeds_become_one_line_with_mean_and_spread():
    rows = [made.row("vanilla", 576, "gqa", value=80.0)]
    for seed, value in enumerate((50.0, 52.0, 54.0)):
        rows.append(made.row("random", 64, "gqa", parameters={"seed": seed}, value=value))
    table = only(rows)
    random_line = line(table, "Random", 64)
    assert random_line.cell(GQA).text(1, with_spread=True) == "52.0 ±2.0"
    assert table.average(random_line).value == pytest.approx(65.0)
    assert table.average(random_line).spread == pytest.approx(2.5)
    assert "Random, 3 seeds | 52.0 ±2.0 |" in shown(rows, markdown=True)
    assert "± over 3 seeds" in shown(rows)


def test_two_rows_for_one_cell_are_reported():
    twice = made.row("divprune", 64, "gqa", value=10.0)
    other = replace(twice, id="zzz", value=20.0)
    table = only([made.row("vanilla", 576, "gqa"), other, twice])
    assert line(table, "DivPrune", 64).cell(GQA).value == 10.0
    assert "zzz" in table.duplicates[0]


def test_choices_sizes_and_the_synthetic_suite_are_footnotes():
    text = shown(made.rows())
    assert "AgilePruner [1]" in text
    assert "[1] our choice: thresholds from the released code" in text
    assert "n: 40 documents of each benchmark." in text
    assert "synthetic scenes" in text
    assert "synthetic scenes" not in shown(made.rows(suite="hub"))
    mixed = [made.row("vanilla", 576, "gqa"), made.row("vanilla", 576, "pope", n=60)]
    assert "n: GQA 40, POPE 60." in shown(mixed)


def test_the_full_table_fits_a_wide_terminal():
    table = shown(made.rows())
    assert max(len(one) for one in table.splitlines()) <= 130


def test_models_suites_and_protocols_never_share_a_table():
    rows = made.rows(benchmarks=("gqa",)) + made.rows(benchmarks=("gqa",), protocol="paper")
    rows += made.rows(benchmarks=("gqa",), suite="hub") + made.rows(
        benchmarks=("gqa",), model="llava_1_5_7b"
    )
    assert len(build_tables(rows)) == 4


def test_same_rows_in_any_order_give_the_same_bytes(tmp_path):
    rows = made.rows()
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    texts = [
        write_report(rows, tmp_path / "a", "Table"),
        write_report(shuffled, tmp_path / "b", "Table"),
    ]
    assert texts[0] == texts[1]
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"table.md", "cells.csv", "metrics.csv"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_reference_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'divprune'"):
        write_report(made.rows(), tmp_path, "Table", None, Settings(reference="divprun"))
    text = write_report(made.rows(), tmp_path, "Table", None, Settings(reference="random"))
    assert "minus Random" in text


def test_no_rows_is_a_report_too(tmp_path):
    assert "no rows yet" in write_report([], tmp_path, "Table")
    assert "No rows yet." in (tmp_path / "table.md").read_text()


def test_cells_csv_holds_every_cell():
    rows = [*made.rows(), made.failed("fastv", 64, "gqa", "boom, with a comma")]
    tables = build_tables(rows)
    cells = records(cells_csv(tables))
    assert len(cells) == len(rows)
    assert list(cells[0]) == list(CELL_COLUMNS)
    by_id = {cell["cell"]: cell for cell in cells}
    row = next(r for r in rows if (r.strategy, r.budget, r.benchmark) == ("divprune", 32, "pope"))
    cell = by_id[row.id]
    assert float(cell["value"]) == row.value
    vanilla = next(r for r in rows if (r.strategy, r.benchmark) == ("vanilla", "pope"))
    relative = float(cell["relative_to_vanilla_percent"])
    assert relative == pytest.approx(100 * row.value / vanilla.value)
    assert float(cell["flops_total"]) == row.flops["total"]
    assert float(cell["erank_kept"]) == row.complexity["erank_kept"]
    agile = next(r for r in rows if r.strategy == "agilepruner")
    assert json.loads(by_id[agile.id]["parameters"]) == agile.parameters
    failed = next(cell for cell in cells if cell["status"] == "failed")
    assert (failed["value"], failed["error"]) == ("", "boom, with a comma")


def test_metrics_csv_holds_every_metric():
    rows = made.rows(strategies=("divprune",), budgets=(64,))
    metrics = records(metrics_csv(build_tables(rows)))
    assert len(metrics) == sum(len(row.metrics) for row in rows)


def test_differences_print_their_sign():
    assert [signed(x, 1) for x in (0.04, -0.04, 1.25, -3.0)] == ["0.0", "0.0", "+1.2", "−3.0"]
    assert AVERAGE.digits == 2


def test_a_report_never_imports_torch():
    code = "import sys, agilepruner.report as r; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_strategies_without_a_budget_say_how_many_tokens_they_keep():
    rows = [made.row("vanilla", 576, "gqa"), made.row("divprune", 64, "gqa")]
    kept = {"min": 20, "mean": 33.0, "max": 60, "layer_mean": 33.0}
    rows.append(made.row("prumerge", 576, "gqa", label="PruMerge", kept=kept))
    table = only(rows)
    assert [group.heading for group in table.groups] == [
        "All 576 tokens",
        "No budget: the strategy decides how many tokens it keeps",
        "Retain 64 tokens (↓ 88.9 %)",
    ]
    assert "PruMerge, keeps 33" in shown(rows)
    assert "keeps N: mean visual tokens" in shown(rows)
    assert "DivPrune, keeps" not in shown(rows)


def test_a_table_without_an_average_has_a_difference_per_column():
    rows = made.rows(("divprune", "agilepruner"), (64,), ("chair",))
    (table,) = build_tables(rows)
    sheet = difference_sheet(table, analyse(table))
    assert sheet.head == ["Strategy", "Cs↓", "Ci↓", "Recall↑"]
    ((_, ((label, *texts),)),) = sheet.sections
    assert label == "DivPrune"
    assert all(text.endswith(("better", "worse", "equivalent", "cannot tell")) for text in texts)
    assert "Average" not in render_text(main_sheet(table, False)).split("\nn:")[0]

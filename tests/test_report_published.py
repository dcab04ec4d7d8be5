"""Published numbers: data as printed, corrections beside, and the comparison with ours."""

import csv
import io
from dataclasses import replace

import pytest
import synthetic_rows as made
from plans import composed

from agilepruner.report import published
from agilepruner.report.lines import AVERAGE, build_tables, relative_average
from agilepruner.report.sheets import comparison_sheet, main_sheet, render_text
from agilepruner.report.table import cells_csv

MODELS = ["llava_1_5_7b", "llava_1_5_13b", "llava_next_7b", "qwen2_5_vl_7b"]


def numbers(**wanted):
    return [n for n in published.load() if all(getattr(n, key) == v for key, v in wanted.items())]


def table_of(rows):
    (table,) = build_tables(rows)
    return table


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_the_paper_is_there(model):
    against = published.reference(model)
    assert against is not None
    assert against.full == {"llava_next_7b": 2880, "qwen2_5_vl_7b": 1225}.get(model, 576)
    for benchmark, metric in against.columns:
        assert (benchmark, metric) in published.tolerances()
        assert against.cell("vanilla", against.full, benchmark, metric) is not None


def test_the_demo_model_has_no_published_numbers():
    assert published.reference("demo") is None
    table = table_of(made.rows())
    assert published.compare(table) == []
    assert comparison_sheet(table) is None


def test_only_certain_corrections_are_applied_and_both_values_are_kept():
    (cell,) = numbers(
        source="results_llava_v15_7b", strategy="divprune", budget=128, benchmark="pope"
    )
    assert (cell.printed, cell.value, cell.suspect) == (85.5, 87.0, True)
    (cell,) = numbers(
        source="results_llava_v15_7b", strategy="visionzip", budget=64, benchmark="scienceqa_img"
    )
    assert (cell.printed, cell.value, cell.suspect) == (68.7, 68.7, True)
    changed = [n for n in published.load() if n.printed != n.value]
    assert len(changed) == 4


@pytest.mark.parametrize("source", ["results_llava_v15_7b", "results_llava_v15_13b"])
def test_recomputed_averages_agree_with_the_printed_ones(source):
    base = {n.benchmark: n.value for n in numbers(source=source, strategy="vanilla")}
    rows = {(n.strategy, n.budget) for n in numbers(source=source)}
    for strategy, budget in rows:
        own = numbers(source=source, strategy=strategy, budget=budget)
        average = relative_average({n.benchmark: n.value for n in own}, base)
        assert average == pytest.approx(own[0].printed_average, abs=0.06)


def as_published(model="llava_1_5_7b", strategies=("vanilla", "divprune"), budgets=(576, 128)):
    """Rows that measure exactly what was printed (after corrections)."""
    against = published.reference(model)
    rows = []
    for strategy, budget in zip(strategies, budgets):
        for name in [*made.BENCHMARKS, "chair"]:
            changes = {"model": model, "suite": "hub", "full": against.full}
            own = {
                n.metric: n for k, n in against.cells.items() if k[:3] == (strategy, budget, name)
            }
            if not own:
                continue
            if name == "mme":
                total = own["perception+cognition"].value
                changes["metrics"] = {
                    "mme_perception_score": total - 300,
                    "mme_cognition_score": 300.0,
                }
                changes["value"] = 1.0  # another sum as the headline must not matter
            elif name == "chair":
                keys = made.described(name)["published"]
                changes["metrics"] = {keys[metric][0]: n.value for metric, n in own.items()}
                changes["value"] = own["chair_s"].value
            else:
                (number,) = own.values()
                changes["value"] = number.value
            rows.append(made.row(strategy, budget, name, **changes))
    return rows


def test_measuring_what_was_published_gives_no_difference():
    table = table_of(as_published())
    comparisons = published.compare(table)
    assert len(comparisons) == 2 * (9 + 4 + 1)  # nine benchmarks, CHAIR's four, the average
    across = {c.column.title for c in comparisons if c.difference is None}
    assert across == {"VQAv2 (val)", "VizWiz (val)"}
    assert all(c.difference == pytest.approx(0) for c in comparisons if c.difference is not None)
    (average,) = [c for c in comparisons if c.column is AVERAGE and c.line.strategy == "divprune"]
    own = {n.benchmark: n for n in numbers(source="results_llava_v15_7b", strategy="vanilla")}
    shares = [
        n.value / own[n.benchmark].value
        for n in numbers(source="results_llava_v15_7b", strategy="divprune", budget=128)
        if n.benchmark not in ("vqav2", "vizwiz")
    ]
    assert average.published == pytest.approx(100 * sum(shares) / 7)
    assert published.unanchored(table) == []
    text = render_text(comparison_sheet(table))
    assert "87.0?" in text
    assert "printed 85.5, suspect" in text


RECIPES = {
    "llava_1_5_7b": "results_llava_v15_7b",
    "llava_1_5_13b": "results_llava_v15_13b",
    "llava_next_7b": "results_llava_next_7b",
    "qwen2_5_vl_7b": "results_qwen25_vl_7b",
    "llava_1_5_7b_chair": "hallucination_chair",
    "llava_1_5_7b_enhancement_hybrid": "analysis_enhancement_left",
    "llava_1_5_7b_enhancement_mixture": "analysis_enhancement_right",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_measures_its_table_of_the_paper(recipe):
    """Every cell that the paper printed is beside a measured one, from that very table."""
    config = composed(f"table={recipe}")
    theirs = numbers(source=RECIPES[recipe])
    assert config.paper == RECIPES[recipe]
    assert {n.strategy for n in theirs} <= set(config.strategy)
    assert {n.benchmark for n in theirs} <= set(config.benchmark)
    full = max(n.budget for n in theirs)
    assert list(config.budget) == sorted({n.budget for n in theirs} - {full}, reverse=True)
    assert list(config.strategy.random.seed) == [0, 1, 2]
    cells = {(n.strategy, n.budget, n.benchmark): {} for n in theirs}
    for n in theirs:
        cells[n.strategy, n.budget, n.benchmark][n.metric] = n
    rows = []
    for (strategy, budget, name), own in cells.items():
        shown = made.described(name, config.protocol)
        keys = {key for metric in own for key in shown["published"][metric] or []}
        metrics = {key: 1.0 for key in keys}
        rows.append(
            made.row(
                *(strategy, budget, name),
                **{"model": config.model.name, "suite": "hub", "full": full, "metrics": metrics},
                value=next(iter(own.values())).value,
            )
        )
    (table,) = build_tables(rows, paper=config.paper)
    found = [c for c in published.compare(table) if c.column is not AVERAGE]
    assert len(found) == len(theirs)
    assert sorted(c.published for c in found) == sorted(n.value for n in theirs)
    assert sum(c.suspect for c in found) == sum(n.suspect for n in theirs)
    assert published.follows(table) == ""


def test_a_table_of_another_model_says_so_and_what_is_not_here():
    rows = made.rows(("fastervlm", "fastv"), (241,), ("textvqa", "mme"))
    (table,) = build_tables(rows, paper="results_qwen25_vl_7b")
    said = published.follows(table)
    assert "table of Qwen2.5-VL-7B (results_qwen25_vl_7b)" in said
    assert "those of model demo and say nothing about Qwen2.5-VL-7B" in said
    assert "keeps 512, 256 of 1,225 tokens" in said
    assert "Not here: ChartQA, AI2D, OCRBench, MMB_EN, MMB_CN, DivPrune, Ours." in said
    assert said in " ".join(render_text(main_sheet(table, False)).split())
    assert published.compare(table) == []


def test_a_vanilla_that_misses_by_more_than_its_tolerance_is_unanchored():
    rows = as_published()
    table = table_of([r for r in rows if r.benchmark != "gqa"])
    assert published.unanchored(table) == []
    far = made.row("vanilla", 576, "gqa", model="llava_1_5_7b", suite="hub", value=61.0)
    table = table_of([*(r for r in rows if r.benchmark != "gqa"), far])
    assert published.unanchored(table) == ["GQA 61.0, published 61.9 (tolerance 0.5)"]
    assert "· unanchored" in main_sheet(table, inline_spread=False).title


def test_another_split_is_shown_beside_the_published_number_and_never_subtracted():
    """VQAv2 val is 1.9 points below test-dev in a right run; that anchors and accuses nothing."""
    rows = [r for r in as_published() if r.benchmark not in ("vqav2", "vizwiz")]
    hub = {"model": "llava_1_5_7b", "suite": "hub"}
    for strategy, budget in (("vanilla", 576), ("divprune", 128)):
        rows.append(made.row(strategy, budget, "vqav2", value=40.0, **hub))
        rows.append(made.row(strategy, budget, "vizwiz", value=90.0, **hub))
    table = table_of(rows)
    assert published.unanchored(table) == []
    sheet = comparison_sheet(table)
    place = sheet.head.index("VQAv2 (val)↑")
    assert [line[place] for line in sheet.sections[0][1]] == ["40.0", "78.5 test-dev", "–"]
    assert "VQAv2 (val) is beside the published number of test-dev" in " ".join(sheet.notes)
    assert not any("vqav2" in note for note in sheet.notes)  # as other documents of one split
    cells = list(csv.DictReader(io.StringIO(cells_csv([table]))))
    vqav2 = next(cell for cell in cells if cell["benchmark"] == "vqav2")
    assert (vqav2["published"], vqav2["published_split"]) == ("78.5", "test-dev")
    assert vqav2["measured_minus_published"] == ""
    same = [r if r.benchmark != "vqav2" else replace(r, split="test-dev") for r in rows]
    assert published.unanchored(table_of(same)) == ["VQAv2 40.0, published 78.5 (tolerance 0.3)"]


def test_every_published_column_is_explained_by_its_benchmark():
    for number in published.load():
        assert number.metric in made.described(number.benchmark)["published"], number


def test_the_embedded_suite_is_never_compared_with_the_paper():
    table = table_of(made.rows(model="llava_1_5_7b"))
    assert published.compare(table) == []
    assert published.unanchored(table) == []


def test_budgets_per_tile_meet_the_papers_totals():
    against = published.reference("llava_next_7b")
    table = table_of(made.rows(model="llava_next_7b", suite="hub", full=576, budgets=(128,)))
    assert {against.budget(line, table.full) for line in table.lines} == {2880, 640}
    table = table_of(made.rows(model="llava_next_7b", suite="hub", full=2880, budgets=(640,)))
    assert {against.budget(line, table.full) for line in table.lines} == {2880, 640}


def test_qwen_prints_two_mme_columns():
    rows = made.rows(
        strategies=("divprune",),
        budgets=(512,),
        benchmarks=("mme", "textvqa"),
        model="qwen2_5_vl_7b",
        suite="hub",
        full=1225,
    )
    titles = [c.column.title for c in published.compare(table_of(rows))]
    assert titles[:4] == ["TextVQA", "MME perception", "MME cognition", "Average"]


def test_a_comparison_on_other_documents_says_so():
    sizes = published.sizes()
    rows = as_published()
    text = render_text(comparison_sheet(table_of(rows)))
    assert "gqa 40 (published: 12,578)" in text
    whole = [type(row)(**{**row.__dict__, "n": sizes[row.benchmark]}) for row in rows]
    assert "Other documents" not in render_text(comparison_sheet(table_of(whole)))


def test_synthetic_documents_are_never_compared_whatever_the_suite_is_called():
    table = table_of(made.rows(model="llava_1_5_7b", suite="local", synthetic=True))
    assert published.compare(table) == []
    assert "synthetic scenes" in render_text(main_sheet(table, inline_spread=False))

"""Published numbers: data as printed, corrections beside, and the comparison with ours."""

import pytest
import synthetic_rows as made

from agilepruner.report import published
from agilepruner.report.lines import AVERAGE, build_tables, relative_average
from agilepruner.report.sheets import comparison_sheet, main_sheet, render_text

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
                keys = published.METRIC_KEYS
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
    assert all(c.difference == pytest.approx(0) for c in comparisons)
    (average,) = [c for c in comparisons if c.column is AVERAGE and c.line.strategy == "divprune"]
    assert average.published == pytest.approx(97.25, abs=0.005)
    assert published.unanchored(table) == []
    text = render_text(comparison_sheet(table))
    assert "87.0?" in text
    assert "printed 85.5, suspect" in text


def test_a_vanilla_that_misses_by_more_than_its_tolerance_is_unanchored():
    rows = as_published()
    table = table_of([r for r in rows if r.benchmark != "gqa"])
    assert published.unanchored(table) == []
    far = made.row("vanilla", 576, "gqa", model="llava_1_5_7b", suite="hub", value=61.0)
    table = table_of([*(r for r in rows if r.benchmark != "gqa"), far])
    assert published.unanchored(table) == ["GQA 61.0, published 61.9 (tolerance 0.5)"]
    assert "· unanchored" in main_sheet(table, inline_spread=False).title


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

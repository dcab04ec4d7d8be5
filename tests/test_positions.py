"""``positions=keep|reset`` from the command line to the table; test_models_identity has models."""

import csv
import io
from collections import Counter

import numpy as np
import plans
import pytest
from synthetic_rows import row

from agilepruner.errors import UserError
from agilepruner.report import positions, published
from agilepruner.report.estimates import DOUBT
from agilepruner.report.lines import build_tables
from agilepruner.report.sheets import main_sheet, render_text
from agilepruner.report.statistics import analyse
from agilepruner.report.table import differences_csv
from agilepruner.runner import identity
from agilepruner.runner.plan import cell_identity

STRATEGIES = "strategy=[blind,divprune,visionzip,fastv]"


def test_what_drops_tokens_before_the_language_model_runs_once_per_rule():
    run = plans.planned(STRATEGIES, "positions=[reset,keep]", "budget=[400]")
    assert Counter(cell.strategy_name for cell in run.cells) == {
        **dict.fromkeys(("vanilla", "blind", "fastv"), 1),
        **dict.fromkeys(("divprune", "visionzip"), 2),
    }
    divprune = [cell for cell in run.cells if cell.strategy_name == "divprune"]
    keys = {identity.digest(cell_identity(run.config, cell, {}, {})) for cell in divprune}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("model", "own"), [("demo", "reset"), ("llava_next_7b", "reset"), ("qwen2_5_vl_7b", "keep")]
)
def test_a_models_own_rule_is_that_of_its_line_of_work(model, own):
    def positions(*more):
        run = plans.planned(f"model={model}", "strategy=divprune", "budget=[40]", *more)
        return [cell.positions for cell in run.cells]

    other = "keep" if own == "reset" else "reset"
    assert positions() == [own, own]
    assert positions(f"positions={other}") == [own, other]  # vanilla's are what they are


def test_a_rule_that_is_said_twice_runs_once():
    run = plans.planned("strategy=divprune", "budget=[40]", "positions=[keep,reset,keep]")
    assert [cell.positions for cell in run.cells] == ["reset", "keep", "reset"]  # vanilla's first


def test_another_rule_is_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"positions\[0\]='original', expected one of reset, keep"):
        plans.planned("positions=original")


def test_a_table_says_whose_positions_are_not_the_models_own():
    own = {"positions": "reset", "own_positions": "reset"}
    rows = [row("vanilla", 576, "gqa", **own), row("divprune", 64, "gqa", **own)]
    assert not [
        note for note in main_sheet(build_tables(rows)[0], True).notes if "positions" in note
    ]
    rows.append(row("divprune", 64, "gqa", positions="keep", own_positions="reset"))
    (table,) = build_tables(rows)
    assert [line.label for line in table.lines] == [
        "Vanilla",
        "DivPrune",
        "DivPrune (positions=keep)",
    ]
    assert not table.duplicates
    (note,) = [note for note in main_sheet(table, True).notes if "positions" in note]
    assert "positions of the unpruned prompt" in note
    reference = published.reference("llava_1_5_7b")
    assert [reference.budget(line, 576) for line in table.lines] == [576, 64, None]


def both_ways(own, wins, strategy="divprune", **changes):
    """Two rows of 200 boxes on 100 pictures: keeping turns ``wins`` misses into hits."""
    reset = [float(i % 2) for i in range(200)]
    keep = [1.0 if not hit and i < 2 * wins else hit for i, hit in enumerate(reset)]
    known = {"model": "llava_1_5_7b", "suite": "hub", "own_positions": own, "n": 200, **changes}
    return [
        row(
            *(strategy, 64, "refcoco"),
            **known,
            positions=name,
            scores=scores,
            value=sum(scores) / 2,
            metrics={"refcoco_mean_iou": 0.4 * sum(scores)},
            parts={"iou": [0.8 * score for score in scores]},
        )
        for name, scores in (("reset", reset), ("keep", keep))
    ]


@pytest.mark.parametrize("own", ["reset", "keep"])
def test_keeping_is_compared_with_resetting_document_by_document(own):
    rows = [*both_ways(own, 40), *both_ways(own, 1, "uniform"), *both_ways(own, 9, "fastv")[:1]]
    (table,) = build_tables(rows)
    assert [(k.strategy, k.positions != r.positions) for _, k, r in positions.pairs(table)] == [
        ("uniform", True),
        ("divprune", True),
    ]
    found = positions.differences(table, analyse(table))
    assert {(d.line.strategy, d.column.title): d.verdict for d in found} == {
        ("uniform", "RefCOCO"): "cannot tell",
        ("uniform", "IoU"): "cannot tell",
        ("divprune", "RefCOCO"): "better",
        ("divprune", "IoU"): "better",
    }
    kept = next(d for d in found if (d.line.strategy, d.column.title) == ("divprune", "RefCOCO"))
    assert kept.difference == 20.0  # of keeping, whichever is the model's own
    gained = np.repeat([1.0, 0.0], [40, 60])  # per picture, of two boxes
    error = np.sqrt(gained.var(ddof=1) / 100 / 4 + DOUBT / 200**2)
    assert (kept.high - kept.low) / 2 == pytest.approx(100 * 1.98 * error, rel=0.02)
    assert (kept.units, kept.images) == (200, 100)
    records = list(csv.DictReader(io.StringIO(differences_csv([table], [analyse(table)]))))
    assert len([r for r in records if r["strategy"] == r["reference"]]) == 4


def test_the_table_says_both_and_the_published_measurement():
    (table,) = build_tables(both_ways("reset", 40))
    text = render_text(positions.positions_sheet(table, analyse(table)))
    lines = [each.split() for each in text.splitlines() if " better " in each]
    assert [line[:4] for line in lines] == [
        ["DivPrune", "50.0", "70.0", "+20.0"],
        ["DivPrune", "40.0", "56.0", "+16.0"],  # of IoU
    ]
    (line,) = [each for each in text.splitlines() if "15.34" in each]
    assert line.split()[:4] == ["LLaVA", "15.34", "51.42", "+36.08"]
    assert "GAP (arXiv 2506.21873v1)" in text
    assert "unpruned: 56.14" in text
    # Made-up documents stand beside no published number, and one rule alone is no comparison.
    (made_up,) = build_tables(both_ways("reset", 40, synthetic=True))
    assert "51.42" not in render_text(positions.positions_sheet(made_up, analyse(made_up)))
    (alone,) = build_tables(both_ways("reset", 40)[:1])
    assert positions.positions_sheet(alone, analyse(alone)) is None


def test_other_parameters_and_other_budgets_are_no_pair():
    first, second = both_ways("reset", 40, parameters={"share": 0.5})
    other = both_ways("reset", 40, parameters={"share": 0.25})[1]
    (table,) = build_tables([first, other])
    assert not list(positions.pairs(table))
    (table,) = build_tables([first, other, second])
    assert len(list(positions.pairs(table))) == 1


@pytest.mark.parametrize(
    "table", ["grounding", "llava_1_5_7b_grounding", "qwen2_5_vl_7b_grounding"]
)
def test_tables_of_places_have_every_pruned_line_twice_and_no_average(table):
    run = plans.planned(f"table={table}")
    settings = run.config["benchmark"].values()
    assert not any(column["average"] for each in settings for column in each["columns"])
    lines = Counter((c.strategy_name, c.strategy, c.budget) for c in run.cells)
    twice = {name for (name, *_), count in lines.items() if count == 2}
    assert twice == {c.strategy_name for c in run.cells if c.strategy.drops}
    assert {"divprune", "agilepruner", "uniform"} <= twice

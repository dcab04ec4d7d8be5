"""``positions=keep|reset`` from the command line to the table; test_models_identity has models."""

from collections import Counter

import plans
import pytest
from synthetic_rows import row

from agilepruner.errors import UserError
from agilepruner.report import published
from agilepruner.report.lines import build_tables
from agilepruner.report.sheets import main_sheet
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

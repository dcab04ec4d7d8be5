"""Analyses of the paper's study find in made-up frames what was put there, and no more."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from strategy_configs import random_tokens

from agilepruner.errors import UserError
from agilepruner.models.base import Visual
from agilepruner.report.analyses import Finding, agreement
from agilepruner.report.analyses.adaptive_budgets import adaptive_budgets
from agilepruner.report.analyses.deployed import deployed
from agilepruner.report.analyses.enhancement import enhancement
from agilepruner.report.analyses.sensitivity import sensitivity
from agilepruner.report.figures import panels
from agilepruner.report.sheets import Sheet
from agilepruner.runner.kept import recorded, with_stages
from agilepruner.strategies.adaptive.other_layer import OtherLayer
from agilepruner.strategies.attention.fastervlm import FasterVLM
from agilepruner.strategies.base import Selection, VisualTokens
from scripts import study_page


def answered(lines, images=200):
    """A cells and a documents frame: one binary score per image and line.

    Args:
        lines: (strategy, budget) -> the share of images answered right, the same first ones.
        images: how many.
    """
    records = [
        {
            **{"strategy": strategy, "budget": budget, "label": strategy, "parameters": "{}"},
            **{"benchmark": "gqa", "benchmark_label": "GQA", "document": i, "image": str(i)},
            "score": float(i < share * images),
        }
        for (strategy, budget), share in lines.items()
        for i in range(images)
    ]
    documents = pd.DataFrame(records)
    return documents.drop_duplicates(["strategy", "budget"]), documents


def test_a_guided_share_is_told_from_a_fixed_one_where_it_is_better():
    lines = {("vispruner", 64): 0.5, ("vispruner_erank", 64): 0.7, ("vispruner_inverse", 64): 0.5}
    finding = enhancement(*answered(lines))
    whole = finding.data[finding.data["benchmark"] == "mean"].set_index("variant")
    assert whole.loc["erank", "difference"] == pytest.approx(20)
    assert list(whole.loc[["erank", "inverse"], "verdict"]) == ["better", "cannot tell"]
    (said,) = [note for note in finding.sheet.notes if note.startswith("Here, at 64")]
    assert "better: VisPruner + erank" in said
    assert any("VisPruner" in line[0] for line in dict(finding.sheet.sections)[PUBLISHED])


PUBLISHED = "Published, LLaVA-1.5-7B at 64 tokens (mean: of percent of vanilla)"


def test_an_enhancement_needs_its_base():
    with pytest.raises(UserError, match="bat_erank"):
        enhancement(*answered({("bat_erank", 64): 0.5}))


def test_a_deployed_variant_is_compared_at_its_budget_and_with_as_many_tokens_left():
    """DART keeps patches 0 and 1 after its stage, the variants 1 and 2, or 0 to 3."""
    lines = {("dart", 4): 0.5, ("dart_embedding", 4): 0.5, ("dart_embedding", 2): 0.8}
    cells, documents = answered(lines)
    whole = np.arange(6)
    record = {
        ("dart", 4): with_stages(None, [[0, 1]], visual(whole), 6),
        ("dart_embedding", 4): kept_bits([0, 1, 2, 3]),
        ("dart_embedding", 2): kept_bits([1, 2]),
    }
    pairs = zip(documents["strategy"], documents["budget"])
    documents["selection"] = [json.dumps(record[pair]) for pair in pairs]
    data = deployed(cells, documents.assign(grid="1x2x3")).data.set_index("variant_budget")
    assert list(data.index) == [4, 2]
    assert list(data["kept"]) == [2, 2]
    assert list(data["iou"]) == pytest.approx([2 / 4, 1 / 3])
    assert list(data["most"]) == [0.5, 1]
    assert list(data["chance"]) == pytest.approx(
        [(2 * 4 / 6) / (6 - 2 * 4 / 6), (4 / 6) / (20 / 6)]
    )
    assert list(data["difference"]) == pytest.approx([0, 30])
    assert list(data["verdict"]) == ["cannot tell", "better"]
    with pytest.raises(UserError, match="dart_embedding"):
        deployed(cells, documents[documents["strategy"] == "dart"].assign(grid="1x2x3"))


def kept_bits(patches):
    return recorded(
        VisualTokens((2, 3), projected=torch.zeros(1, 6, 1)),
        Selection(torch.tensor([patches])),
        visual(patches),
    )


def visual(patches):
    return Visual(torch.zeros(len(patches), 1), torch.as_tensor(patches), 6)


def test_sensitivity_tells_what_changes_the_selection_from_what_changes_the_score():
    cells, documents = answered({("agilepruner", 64): 0.5, ("agilepruner_slope", 64): 0.8})
    cells["parameter.slope"] = [0.01, 0.04]
    documents["erank_kept"] = 20.0
    documents["selection"] = "same"
    varied = documents["strategy"] == "agilepruner_slope"
    documents.loc[varied & (documents["document"] < 50), "selection"] = "another"
    (line,) = sensitivity(cells, documents).data.to_dict("records")
    assert (line["value"], line["changed"], line["verdict"]) == (0.04, 25.0, "better")
    assert line["difference"] == pytest.approx(30)


@pytest.mark.parametrize("layer", ["attention_local", "received_deep"])
def test_another_layer_ranks_and_the_rest_stays(layer):
    tokens = random_tokens(0, 2, (6, 6))
    chosen = OtherLayer(FasterVLM(), attention=layer)(tokens, 9).indices
    seen = getattr(tokens, layer)
    scores = seen.mean(dim=1) if seen.dim() == 3 else seen
    assert torch.equal(chosen, scores.topk(9).indices.sort().values)
    same = OtherLayer(FasterVLM())(tokens, 9).indices
    assert torch.equal(same, FasterVLM()(tokens, 9).indices)
    assert not torch.equal(same, chosen)


def test_a_spread_budget_is_held_against_equal_tokens_and_against_equal_flops():
    lines = {("agilepruner", 64): 0.5, ("agilepruner", 128): 0.7, ("agilepruner_spread", 64): 0.6}
    cells, documents = answered(lines)
    cells["flops_total"] = [100.0, 200.0, 150.0]  # as much as half way between the fixed ones
    cells["kept_mean"] = cells["kept_min"] = cells["kept_max"] = 64.0
    found = adaptive_budgets(cells, documents).data.set_index("equal")
    assert found.loc["tokens", "difference"] == pytest.approx(10)
    assert found.loc["FLOPs", "difference"] == pytest.approx(0, abs=1e-9)
    assert list(found["verdict"]) == ["better", "cannot tell"]


def test_the_study_page_picks_up_every_analysis_by_its_folder(tmp_path):
    notes = ["The paper says: yes.", "Here, at 64 tokens: no.", agreement([("better", "worse")])]
    sheet = Sheet("Complexity of images", ["a", "b"], [("", [["x", "1"]])], notes)
    figure, _ = panels(1)
    Finding(sheet, pd.DataFrame({"x": [1]}), figure).write(tmp_path / "analyses" / "complexity")
    study_page.write(tmp_path, tmp_path / "study.md")
    text = (tmp_path / "study.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| [Complexity")]
    assert "| yes. | Here, at 64 tokens: no. | disagrees (of 1 comparisons 0 as it says," in line
    assert "    agilepruner analysis=complexity\n" in text
    assert "(study/complexity.svg)" in text
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["complexity.svg"]
    with pytest.raises(SystemExit, match="no analyses"):
        study_page.write(tmp_path / "nowhere", tmp_path / "other.md")


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["better", "better"], "agrees"),
        (["better", "cannot tell"], "agrees in part"),
        (["worse", "cannot tell"], "disagrees in part"),
        (["better", "worse"], "mixed"),
        (["equivalent"], "disagrees"),
        (["cannot tell"], "cannot tell"),
    ],
)
def test_agreement_is_claimed_only_where_a_verdict_says_it(verdicts, word):
    assert f": {word} (of {len(verdicts)}" in agreement(("better", one) for one in verdicts)

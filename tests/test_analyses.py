"""Frames say what rows say, a list is a line per value, an analysis is one file and one YAML."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from plans import composed, executed, planned
from synthetic_rows import row

from agilepruner.cli import CONFIGS
from agilepruner.commands import study
from agilepruner.documents import OnDisk
from agilepruner.errors import NotFinished, UserError
from agilepruner.measures import CORRUPTIONS, STRENGTHS, corrupted, feature_spaces, measured
from agilepruner.models.base import Visual
from agilepruner.report import published
from agilepruner.report.analyses import Finding, analyse, printed
from agilepruner.report.analyses.feature_space import feature_space
from agilepruner.report.analyses.overlap import overlap
from agilepruner.report.analyses.provenance import provenance
from agilepruner.report.analyses.retained_diversity import retained_diversity
from agilepruner.report.analyses.robustness import robustness
from agilepruner.report.analyses.simple_and_complex import simple_and_complex, split
from agilepruner.report.figures import drawn, panels
from agilepruner.report.frames import cells_frame, documents_frame
from agilepruner.report.sheets import Sheet
from agilepruner.runner.kept import recorded
from agilepruner.runner.plan import identify
from agilepruner.strategies.base import Selection, VisualTokens
from scripts.calibrate_erank import images_in

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (CONFIGS / "analysis").glob("*.yaml") if path.stem != "none")
EXAMPLES = dict(
    re.findall(
        r"^`(\S+)`\n\n```\w+\n(.*?)```",
        (ROOT / "docs/adding-an-analysis.md").read_text(encoding="utf-8"),
        re.M | re.S,
    )
)


def test_a_list_of_values_is_a_cell_per_value():
    run = planned("strategy.agilepruner.tau_max=[0.1,0.25,0.5]", "strategy.agilepruner.slope=[0,1]")
    values = [(c.strategy.tau_max, c.strategy.slope) for c in run.cells if c.budget == 64]
    assert sorted(values) == [(t, s) for t in (0.1, 0.25, 0.5) for s in (0, 1)]
    assert len(planned("strategy.agilepruner.tau_max=[0.1,0.1]").cells) == 2  # with vanilla


@pytest.mark.parametrize(("value", "words"), [("[]", "no value"), ("[0.1,9]", "tau_max=9")])
def test_a_list_without_values_or_with_a_bad_one_is_refused(value, words):
    with pytest.raises(UserError, match=words):
        planned(f"strategy.agilepruner.tau_max={value}")


@pytest.mark.parametrize("name", NAMES)
def test_every_analysis_plans_and_says_its_command(name):
    assert planned(f"analysis={name}").cells
    assert f"# agilepruner analysis={name}\n" in (CONFIGS / "analysis" / f"{name}.yaml").read_text()
    assert composed(f"analysis={name}").analysis.endswith(f".{name}")


def test_cells_frame_has_a_line_per_cell_with_its_parameters():
    rows = [row("vanilla", 576, "gqa"), row("agilepruner", 64, "gqa")]
    frame = cells_frame(rows)
    assert list(frame["value"]) == [one.value for one in rows]
    assert list(frame["parameter.tau_max"].dropna()) == [0.25]
    assert json.loads(frame["parameters"][1]) == rows[1].parameters
    assert cells_frame([]).empty


def test_documents_have_their_scores_and_the_complexity_of_their_image(tmp_path, loaded_once):
    run = planned("strategy=[divprune]", "benchmark=[pope]", "limit=7", f"results={tmp_path}")
    rows = executed(run)
    frame = documents_frame(rows, run.directory)
    for one in rows:
        own = frame[frame["cell"] == one.id]
        assert list(own["score"]) == one.scores
        assert own["erank_kept"].mean() == pytest.approx(one.complexity["erank_kept"])
    pruned = frame[frame["strategy"] == "divprune"]
    assert set(pruned["visual"]) == {64}
    assert (pruned["erank_kept"] < pruned["erank_input"]).all()
    assert "erank_input" not in documents_frame(rows)


def scored(effect):
    """Documents on 60 images, where diversity beats attention by ``effect`` on complex ones."""
    records = []
    for image in range(60):
        for strategy, budget in (("vanilla", 576), ("fastervlm", 64), ("divprune", 64)):
            better = effect * (image >= 40) * (strategy == "divprune")
            records.append(
                {
                    **{"strategy": strategy, "label": strategy, "budget": budget},
                    **{"benchmark": "gqa", "benchmark_label": "GQA", "document": image},
                    **{"image": str(image), "erank_input": image, "entropy": (image * 7) % 60},
                    "score": 0.5 + better if strategy != "vanilla" else 1.0,
                }
            )
    frame = pd.DataFrame(records)
    return frame.drop_duplicates(["strategy", "budget"]), frame


def test_thirds_are_of_images_by_their_complexity():
    _, frame = scored(0)
    thirds = split(frame[frame["strategy"] == "vanilla"], "erank_input")
    assert [third["erank_input"].agg(["min", "max"]).tolist() for third in thirds] == [
        *([0, 19], [20, 39], [40, 59])
    ]
    with pytest.raises(UserError, match="raise the limit"):
        split(frame[frame["erank_input"] < 8], "erank_input")


@pytest.mark.parametrize(("effect", "answer"), [(0.5, "higher"), (-0.5, "lower"), (0, "cannot")])
def test_the_interaction_is_seen_where_it_is(effect, answer):
    notes = simple_and_complex(*scored(effect)).sheet.notes
    (by_erank,) = [note for note in notes if note.startswith("Here, at 64 tokens by erank")]
    assert answer in by_erank
    (by_entropy,) = [note for note in notes if note.startswith("Here, at 64 tokens by entropy")]
    assert "cannot tell" in by_entropy


def test_published_numbers_say_where_they_are_from_and_stay_out_of_tables():
    every = pd.concat(printed(name) for name in NAMES)
    assert len(every) > 20
    assert every["source"].str.len().min() > 10
    assert set(every["confidence"]) <= {"low", "medium", "high"}
    assert "study" not in {number.source for number in published.load()}


def test_a_failed_cell_is_no_basis(tmp_path):
    rows = [row("vanilla", 576, "gqa"), row("divprune", 64, "gqa", status="failed", error="x")]
    with pytest.raises(UserError, match="1 of the 2 cells"):
        analyse("agilepruner.report.analyses.complexity.complexity", rows, tmp_path)


def test_files_of_a_finding_are_the_same_each_time(tmp_path):
    def finding():
        figure, axes = panels(1)
        axes[0, 0].plot([1, 2, 3])
        return Finding(Sheet("T", ["a"], [("", [["b"]])], []), pd.DataFrame({"x": [1.5]}), figure)

    finding().write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("data.csv", "figure.png", "figure.svg", "table.md")
    ]
    assert (tmp_path / "data.csv").read_text() == "x\n1.5\n"
    again = drawn(finding().figure)
    assert (tmp_path / "figure.svg").read_bytes() == again["svg"]
    assert (tmp_path / "figure.png").read_bytes() == again["png"]


@pytest.mark.parametrize(("example", "line"), [("lengths", "Random"), ("norms", "POPE")])
def test_the_examples_are_one_file_and_one_yaml_and_run(tmp_path, example, line):
    own = {path: text for path, text in EXAMPLES.items() if Path(path).stem == example}
    assert [Path(path).suffix for path in own] == [".py", ".yaml"]
    for name in ("agilepruner", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("evals", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path, content in own.items():
        (tmp_path / path).write_text(content, encoding="utf-8")
    command = ["-m", "agilepruner", f"analysis={example}", "limit=2", f"results={tmp_path}/out"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^  {line} +\d", done.stdout, re.M)
    written = {path.name for path in (tmp_path / "out/study/analyses" / example).iterdir()}
    assert written == {"table.md", "data.csv", "figure.svg", "figure.png"}


def kept_frames(**phases):
    """Two strategies at 2 of 4 patches on two images: half of what they keep is the same."""
    records = []
    for strategy, patches in (
        ("fastervlm", [0, 1]),
        ("divprune", [1, 2]),
        ("greedy_erank", [0, 3]),
    ):
        for image in "ab":
            bits = kept_record(patches)
            records.append(
                {
                    **{"strategy": strategy, "label": strategy, "parameters": "{}", "budget": 2},
                    **{"benchmark": "gqa", "benchmark_label": "GQA", "image": image},
                    **{"selection": json.dumps(bits), "grid": "1x2x2", "erank_input": 4.0},
                    **{"erank_kept": 1.0 + len(strategy) / 10, "attention_kept": 0.25, **phases},
                }
            )
    return pd.DataFrame({"benchmark_label": ["GQA"]}), pd.DataFrame(records)


def kept_record(patches):
    tokens = VisualTokens((2, 2), projected=torch.zeros(1, 4, 1))
    indices = torch.tensor([patches])
    return recorded(tokens, Selection(indices), Visual(torch.zeros(2, 1), indices[0], 4))


def test_overlap_is_intersection_over_union_of_kept_patches():
    data = overlap(*kept_frames()).data.set_index(["strategy", "other"])["iou"]
    assert data["fastervlm", "divprune"] == pytest.approx(1 / 3)
    assert data["divprune", "greedy_erank"] == 0
    cells, documents = kept_frames()
    with pytest.raises(UserError, match="two strategies"):
        overlap(cells, documents[documents["strategy"] == "divprune"])


def test_the_fallback_is_a_share_of_the_budget():
    cells, documents = kept_frames(**{"phase.walk": 0.25, "phase.fallback": 0.75})
    found = provenance(cells, documents)
    assert set(found.data["fallback"]) == {0.75}
    assert "25 %" in found.sheet.sections[0][1][0][1]
    with pytest.raises(UserError, match="fallback"):
        provenance(*kept_frames())


def test_retained_diversity_is_held_against_the_greedy_search():
    found = retained_diversity(*kept_frames())
    data = found.data.set_index("strategy")
    assert (data["erank_greedy"] == data["erank_kept"]["greedy_erank"]).all()
    assert list(found.data["verdict"]) == [""] * 3  # of two images nothing is said


def test_corruptions_change_an_image_more_with_their_strength():
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    for kind in CORRUPTIONS:
        changes = [
            np.abs(np.asarray(corrupted(image, kind, n), float) - np.asarray(image, float)).mean()
            for n in STRENGTHS
        ]
        assert 0 < changes[0] < changes[1] < changes[2]


def test_measures_of_images_are_a_third_frame(tmp_path, loaded_once):
    run = identify(planned("analysis=feature_space", "benchmark=[pope]", "limit=3"))
    images = pd.DataFrame(measured(run, feature_spaces))
    assert list(images["document"]) == sorted(images["document"])
    assert (images["projected, centred"] > 1).all()
    cells = pd.DataFrame({"model": ["demo"]})
    documents = images.assign(stratum="")
    found = feature_space(cells, documents, images)
    assert set(found.data["published"]) == {106}
    assert not any("missed" in note for note in found.sheet.notes)  # the demo answers nothing here


def test_robustness_is_the_mean_deviation_from_the_clean_image():
    numbers = {"clean": [10.0, 20.0], "noise 1": [12.0, 18.0], "erank_ms": [1.0, 2.0]}
    images = pd.DataFrame({**numbers, "image": ["a", "b"], "answer_ms": 10.0, "encode_ms": 2.0})
    images = images.assign(processor=1.0, budget=64.0)
    found = robustness(pd.DataFrame({"model": ["demo"]}), None, images)
    assert list(found.data["deviation"]) == [2.0]
    assert list(found.data["change"]) == [0.0]
    (cost,) = [note for note in found.sheet.notes if note.startswith("Cost of erank")]
    assert "of one processor" in cost
    assert "erank is 15.0 % of it" in cost


def test_jpeg_is_held_against_the_mean_of_the_kinds():
    draw = np.random.default_rng(0)
    clean = 40 + draw.normal(size=30)
    images = pd.DataFrame({"image": [str(i) for i in range(30)], "clean": clean})
    for kind, size in (("noise", 4.0), ("jpeg", 1.0)):
        for strength in (1, 3):
            images[f"{kind} {strength}"] = clean + size * strength + 0.1 * draw.normal(size=30)
    notes = robustness(pd.DataFrame({"model": ["demo"]}), None, images).sheet.notes
    (agrees,) = [note for note in notes if note.startswith("Agreement")]
    assert "agrees (of 3 comparisons 3 as it says" in agrees


def test_an_image_that_cannot_be_measured_fails_alone_and_is_named(tmp_path, loaded_once):
    run = identify(planned("analysis=feature_space", "benchmark=[gqa]", "limit=8"))
    calls = []

    def fails_once(adapter, image, question):
        calls.append(question)
        if len(calls) == 2:
            raise OSError("truncated")
        return {"projected, centred": 2.0}

    found = measured(run, fails_once)
    assert len(calls) == len(found) > 2
    assert [one.get("problem") for one in found[:3]] == [None, "OSError: truncated", None]
    done = row("vanilla", 576, "gqa", status="failed", error="x")  # its answers are not needed
    function = "agilepruner.report.analyses.feature_space.feature_space"
    finding = analyse(function, [done], tmp_path, found)
    assert finding.data["images"].sum() == len(found) - 1
    (note,) = [note for note in finding.sheet.notes if "could not be measured" in note]
    assert f"1 of {len(found)} images" in note
    assert f"document {found[1]['document']} of GQA (OSError: truncated)" in note
    with pytest.raises(UserError, match="No image could be measured: OSError"):
        analyse(function, [done], tmp_path, [found[1]])


def test_a_study_answers_a_cell_once_and_an_analysis_fails_alone(tmp_path, loaded_once, capsys):
    words = ["benchmark=[vqav2]", "budget=[64]", "limit=3", f"results={tmp_path}"]
    words += ["strategy=[agilepruner,fastervlm]", "vanilla=true"]
    with pytest.raises(NotFinished, match=r"simple_and_complex: .* raise the limit"):
        study.run(["overlap", "simple_and_complex", "provenance", *words])
    assert "Overlap of what strategies keep" in capsys.readouterr().out
    where = tmp_path / "study"
    assert sorted(path.name for path in (where / "analyses").iterdir()) == ["overlap", "provenance"]
    assert len(list((where / "cells").iterdir())) == 3  # with vanilla
    assert "Overlap of what strategies keep" in (where / "dashboard.html").read_text()


def test_a_study_refuses_what_cannot_be_one_run():
    plans = {"a": planned("limit=3"), "b": planned("limit=4")}
    with pytest.raises(UserError, match="a and b differ in limit"):
        study.together(plans)
    with pytest.raises(UserError, match="Did you mean 'overlap'"):
        study.run(["overlab"])


def test_images_at_the_extremes_are_drawn(tmp_path, loaded_once):
    run = planned("analysis=complexity", "benchmark=[pope,gqa]", "limit=4", f"results={tmp_path}")
    rows = executed(run)
    function = "agilepruner.report.analyses.complexity.complexity"
    finding = analyse(function, rows, run.directory, None, OnDisk([run.directory]))
    lowest = documents_frame(rows, run.directory)["erank_input"].min()
    shown = finding.figure.subfigs[1].axes
    assert shown[0].get_title(loc="left") == "Lowest erank"
    assert f"erank {lowest:.1f}" in shown[0].get_xlabel()
    assert shown[0].images
    assert shown[0].images[0].get_array().std() > 0
    without = analyse(function, rows, run.directory)  # of data that is not here: frames
    assert not without.figure.subfigs[1].axes[0].images


def test_a_file_that_is_no_image_is_left_out_of_a_calibration(tmp_path):
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert len(images_in(tmp_path, 5, seed=0)) == 2
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="1 images that can be read, of 2 files"):
        images_in(tmp_path, 5, seed=0)

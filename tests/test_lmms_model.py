"""lmms-eval runs our models and strategies, and gives the answers that a run of ours gives."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from plans import executed, loaded, planned

from agilepruner.commands import export_samples
from agilepruner.errors import UserError
from agilepruner.lmms_model import Pruned
from agilepruner.report.frames import entries_of
from scripts import lmms_tasks


def test_lmms_eval_finds_the_model_by_its_name():
    from lmms_eval.models import get_model

    assert "agilepruner" in entry_points(group="lmms_eval.models").names
    assert get_model("agilepruner") is Pruned


def requests(benchmark, task="pope"):
    settings = {"max_new_tokens": benchmark.max_new_tokens, "until": list(benchmark.stop)}
    images = {d.index: benchmark.image(d)[0] for d in benchmark.documents}

    def look(document):
        return [document]

    return images, [
        SimpleNamespace(args=(d.question, dict(settings), look, d.index, task, "test"))
        for d in benchmark.documents
    ]


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("strategy", ["divprune", "visionzip"])
def test_answers_are_those_of_a_run_of_ours(tmp_path, strategy):
    run = planned(
        f"strategy=[{strategy}]", "vanilla=false", "benchmark=[pope]", "budget=[64]", "limit=6",
        f"results={tmp_path}",
    )  # fmt: skip
    (row,) = executed(run)
    own = entries_of(row, run.directory)
    settings = run.config["benchmark"]["pope"]
    benchmark = loaded("pope", settings, run.config["suite"], "lmms", 6)
    model = Pruned.create_from_arg_string(
        f"model=demo,strategy={strategy},budget=64", {"batch_size": 32, "device": "cuda:0"}
    )
    images, asked = requests(benchmark)
    model.task_dict = {"pope": {"test": images}}
    answers = model.generate_until(list(reversed(asked)))
    assert answers == [own[d.index].answer for d in reversed(benchmark.documents)]
    images[benchmark.documents[0].index] = "no image"
    with pytest.raises(RuntimeError, match="1 of 6 documents failed, the first: image cannot be"):
        model.generate_until(asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("model=demo,strategy=divprun,budget=64", "Did you mean 'divprune'?"),
        ("model=demo,strategy=divprune", "needs budget="),
        ("strategy=divprune,budget=64", "Say which model"),
        ("pretrained=llava-hf/llava-1.5-7b,strategy=divprune,budget=64", "llava-1.5-7b-hf'?"),
        ("model=demo,strategy=divprune,budget=9999", "budget"),
        ("model=demo,strategy=divprune,budget=64,colour=red", "colour"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments, said):
    with pytest.raises(UserError, match=said):
        Pruned.create_from_arg_string(arguments, {"batch_size": 1})


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"docs/clusters\.md"):
        Pruned(strategy="vanilla", model="demo")


def test_tasks_over_the_embedded_suite_are_lmms_evals_own(tmp_path):
    from lmms_eval.tasks import TaskManager

    from agilepruner.places import project

    lmms_tasks.write(tmp_path, Path(project("evals/suite/data")))
    known = TaskManager("ERROR", include_path=str(tmp_path)).all_tasks
    assert {f"embedded_{name}" for name in lmms_tasks.NAMES} <= set(known)


@pytest.fixture
def exported(tmp_path, loaded_once):
    executed(
        planned(
            "strategy=[divprune]", "benchmark=[pope,mme,chair]", "budget=[16]", "limit=2",
            f"results={tmp_path}", "name=one",
        )
    )  # fmt: skip
    assert export_samples.run(["one", f"results={tmp_path}"]) == 0
    return tmp_path / "one" / "lmms_eval"


def test_answers_are_exported_as_lmms_eval_reads_them(exported):
    """By its own loader of baselines, and as its log viewer lists runs."""
    from lmms_eval.baselines.loader import load_baseline

    (samples,) = exported.glob("demo-divprune-16-*/*_samples_embedded_mme.jsonl")
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(records) == 4
    right = {
        one["doc_id"]: float(one["target"].lower() in one["filtered_resps"].lower())
        for one in records
    }
    scores, results = load_baseline(str(samples), "embedded_mme")
    assert scores == right
    assert results["results"].keys() == {"embedded_mme", "embedded_pope", "embedded_chair"}
    assert results["n-samples"]["embedded_mme"]["effective"] == 4
    assert len(list(exported.glob("*/*_results.json"))) == 2  # vanilla too

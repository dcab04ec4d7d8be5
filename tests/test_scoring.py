"""Our scores are lmms-eval's: the same answers through its ``evaluate`` give the same numbers."""

import random
from argparse import Namespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from plans import loaded

from agilepruner.cli import CONFIGS
from agilepruner.report.estimates import leave_one_out
from agilepruner.report.lines import Aggregate
from agilepruner.runner.rows import describe
from evals import tasks
from evals.chair import language_data
from evals.lmms import contained, import_lmms_eval
from evals.scoring import score

BENCHMARKS = (
    "vqav2",
    "gqa",
    "vizwiz",
    "scienceqa_img",
    "textvqa",
    "pope",
    "mme",
    "mmbench_en",
    "mmbench_cn",
    "chair",
)


@pytest.fixture(scope="module")
def config():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("config", overrides=[f"benchmark=[{','.join(BENCHMARKS)}]"])


def load(config, name, limit=None, protocol="lmms"):
    return loaded(name, settings(config, name), config.suite, protocol, limit)


def settings(config, name):
    return OmegaConf.to_container(config.benchmark[name], resolve=True)


def official_task(config, name):
    """lmms-eval's own task, built as it builds it: through ``datasets``, with its own documents."""
    task_class, _ = import_lmms_eval()
    task, _ = tasks.task_config(settings(config, name), "lmms")
    split = task.get("test_split") or task["validation_split"]
    files = {split: f"{config.suite.directory}/{name}.parquet"}
    task.update(dataset_path="parquet", dataset_name=None, dataset_kwargs={"data_files": files})
    with contained():
        return task_class(config=task)


def answers_for(benchmark):
    """Right, wrong and empty answers, mixed."""
    draw = random.Random(7)
    answers = {}
    for document in benchmark.documents:
        record = benchmark.record(document.index)
        right = record.get("answer", record.get("answers", record.get("gt_object")))
        if benchmark.name == "scienceqa_img":
            right = "ABCD"[right]
        if isinstance(right, list):
            right = right[0] if right else ""
            right = right["answer"] if isinstance(right, dict) else right
            if benchmark.name == "chair":
                right = f"The image features a {right}, two dogs and a cat."
        wrong = draw.choice(["No", "yes", "B", "7", "", "The image features two buses."])
        answers[document.index] = str(right) if draw.random() < 0.7 else wrong
    return answers


@pytest.mark.parametrize("name", BENCHMARKS)
def test_documents_and_prompts_equal_lmms_eval(config, name):
    """Our reading of the parquet gives lmms-eval's prompts, columns and images."""
    benchmark, task = load(config, name), official_task(config, name)
    with contained():
        task.build_all_requests()
        assert [d.question for d in benchmark.documents] == [i.args[0] for i in task.instances]
        settings = task.instances[0].args[1]
        assert benchmark.max_new_tokens == settings.get("max_new_tokens")
        assert list(benchmark.stop) == list(settings.get("until") or [])
        for document in benchmark.documents[::17]:
            theirs = dict(task.dataset[task.instances[0].args[5]][document.index])
            (image,) = task.doc_to_visual(theirs)
            assert image.tobytes() == benchmark.image(document)[0].tobytes()
            theirs.pop("image")
            assert theirs == benchmark.record(document.index)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_scores_equal_lmms_eval(config, name, tmp_path):
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import evaluate

    benchmark = load(config, name)
    answers = answers_for(benchmark)
    ours = score(benchmark, dict(answers))

    class Replay(lmms):
        def generate_until(self, requests):
            return [answers[request.doc_id] for request in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        def generate_until_multi_round(self, requests):
            raise NotImplementedError

        def clean(self):
            pass

    task = official_task(config, name)
    model = Replay()
    model.task_dict = {task.config.task: task.dataset}
    with contained(), language_data():
        theirs = evaluate(
            model,
            {task.config.task: task},
            bootstrap_iters=0,
            log_samples=False,
            cli_args=Namespace(
                process_with_media=False, output_path=str(tmp_path), reasoning_tags=None
            ),
            distributed_executor_backend="torchrun",
        )["results"][task.config.task]
    assert ours.metrics
    for metric, value in ours.metrics.items():
        assert value == pytest.approx(float(theirs[f"{metric},none"]), abs=0), metric
    assert 0 < ours.value < ours.scale


@pytest.mark.parametrize("protocol", ["lmms", "paper"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_intervals_are_computed_from_gives_the_printed_numbers(config, name, protocol):
    benchmark = load(config, name, protocol=protocol)
    scores = score(benchmark, answers_for(benchmark))
    for column in describe(benchmark.config, protocol)["columns"]:
        rule = {"strata": None, **column["aggregate"]}
        parts = {"score": scores.units} | scores.parts
        found = leave_one_out(
            Aggregate(rule["of"], tuple(rule["parts"]), rule["points"], rule["strata"]),
            np.array([parts[part] for part in rule["parts"]]),
            np.arange(len(scores.units)),
            np.unique(scores.strata or ["all"] * len(scores.units), return_inverse=True)[1],
        )
        metric = column["metric"]
        printed = scores.value if metric is None else scores.metrics[metric]
        assert found.whole == pytest.approx(printed, rel=1e-9), column["title"]


def test_the_right_answers_score_the_maximum(config):
    benchmark = load(config, "mme")
    answers = {d.index: benchmark.record(d.index)["answer"] for d in benchmark.documents}
    scores = score(benchmark, answers)
    assert scores.value == scores.scale
    assert set(scores.units) == {1.0}


def test_a_hole_is_no_score(config):
    benchmark = load(config, "pope", limit=4)
    with pytest.raises(ValueError, match="1 documents have no answer"):
        score(benchmark, {d.index: "Yes" for d in benchmark.documents[1:]})


def test_a_limit_keeps_what_is_scored_together(config):
    benchmark = load(config, "mme", limit=3)
    ids = [benchmark.record(d.index)["question_id"] for d in benchmark.documents]
    assert len(ids) == 6
    assert len(set(ids)) == 3
    rotations = load(config, "mmbench_en", limit=3)
    questions = {rotations.record(d.index)["index"] % 10**6 for d in rotations.documents}
    assert len(questions) == 3
    assert len(rotations.documents) > 3


def test_captions_without_objects_have_no_chair_i(config):
    benchmark = load(config, "chair", limit=3)
    scores = score(benchmark, {d.index: "nothing here" for d in benchmark.documents})
    assert "coco_cap_chair_i" not in scores.metrics
    assert scores.metrics["coco_cap_recall"] == 0.0

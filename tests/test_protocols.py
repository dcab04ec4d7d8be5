"""One contract per benchmark and protocol: the prompt, the limits, and exact scores.

Tiny parquet files with the columns of the real data sets, made here; lmms-eval's own task objects.
"""

import ast
import json
from functools import cache
from pathlib import Path

import jinja2
import lmms_eval
import pandas as pd
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from plans import loaded

from agilepruner.cli import CONFIGS
from agilepruner.errors import UserError
from agilepruner.runner.identity import digest
from agilepruner.runner.plan import _model, cell_identity, plan
from evals.metrics import ai2d
from evals.scoring import score
from evals.tasks import task_config

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def ten(*answers):
    """VQA's ten annotators: the given answers, the last one repeated."""
    return [*answers, *[answers[-1]] * (10 - len(answers))]


def mmbench(index, question, options, answer, hint="nan"):
    row = {"index": index, "question": question, "hint": hint, "answer": answer}
    row |= {letter: option for letter, option in zip("ABCD", [*options, "nan", "nan"])}
    return row | {"category": "c", "L2-category": "l", "source": "s", "split": "dev"}


def pope(number, category, answer):
    row = {"question_id": str(number), "question": "Is there a dog in the image?"}
    return row | {"answer": answer, "category": category, "image_source": f"COCO_{number}"}


def mme(category, number, answer):
    question = f"Is this a {number}? Please answer yes or no."
    return {
        "question_id": f"{category}/{number}.png",
        "question": question,
        "answer": answer,
        "category": category,
    }


DOCUMENTS = {
    "vqav2": [
        {
            "question": "What is This?",
            "question_id": 1,
            "image_id": 5,
            "answers": [
                {"answer": a, "answer_confidence": "yes", "answer_id": i}
                for i, a in enumerate(ten("cat", "cat", "dog"))
            ],
        }
    ],
    "gqa": [{"question": "Is it red?", "answer": "yes", "imageId": "n1"}],
    "vizwiz": [
        {"question_id": "VizWiz_1", "question": "What brand is IBM?", "answers": ten("ibm")},
        {"question_id": "VizWiz_2", "question": "What?", "answers": ten("unanswerable")},
    ],
    "scienceqa_img": [
        {"question": "Which?", "hint": "A map.", "choices": ["Ohio", "Iowa"], "answer": 1},
        {"question": "Which?", "hint": "", "choices": ["Ohio", "Iowa"], "answer": 0},
    ],
    "textvqa": [
        {
            "question": "what does the Sign say?",
            "question_id": 1,
            "image_id": "t",
            "answers": ten("stop"),
            "ocr_tokens": ["STOP", "ALL WAY"],
        }
    ],
    "pope": [
        pope(1, "random", "yes"),
        pope(2, "random", "no"),
        pope(3, "popular", "yes"),
        pope(4, "popular", "no"),
        pope(5, "adversarial", "yes"),
        pope(6, "adversarial", "no"),
    ],
    "mme": [
        mme("existence", 1, "Yes"),
        mme("existence", 1, "No"),
        mme("code_reasoning", 2, "Yes"),
        mme("code_reasoning", 2, "No"),
    ],
    "mmbench_en": [
        mmbench(1, "What fruit?", ["apple", "pear"], "A", hint="Look."),
        mmbench(1_000_001, "What fruit?", ["pear", "apple"], "B", hint="Look."),
        mmbench(2, "What colour?", ["red", "blue", "green", "grey"], "D"),
    ],
    "mmbench_cn": [
        mmbench(1, "什么水果?", ["苹果", "梨"], "A", hint="看。"),
        mmbench(1_000_001, "什么水果?", ["梨", "苹果"], "B", hint="看。"),
    ],
    "chair": [
        {"question_id": "1", "gt_object": ["dog", "person"]},
        {"question_id": "2", "gt_object": ["car"]},
    ],
    "chartqa": [
        {"type": "human_test", "question": "How many?", "answer": "100"},
        {"type": "augmented_test", "question": "Which?", "answer": "Red"},
    ],
    "ai2d": [{"question": "Which?", "options": ["moon", "sun"], "answer": "1"}],
    "ocrbench": [
        {
            "dataset": "IIIT5K",
            "question": "what is written in the image? ",
            "question_type": "Regular Text Recognition",
            "answer": ["PRIVATE"],
        },
        {
            "dataset": "HME100k",
            "question": "Write it.",
            "question_type": "Handwritten Mathematical Expression Recognition",
            "answer": ["x ^ 2"],
        },
    ],
    "grounding": [{"question": "Is it Left?", "answer": "left", "imageId": "n1"}],
    "refcoco": [
        {"question_id": "1", "answer": ["the red one", "left {0}"], "bbox": [2.0, 2.0, 4.0, 4.0]},
        {"question_id": "2", "answer": ["it"], "bbox": [0.0, 0.0, 8.0, 2.0]},
    ],
    "vqav2_testdev": [{"question": "What is This?", "question_id": 9, "image_id": 5}],
    "vizwiz_test": [{"question_id": "VizWiz_test_1", "question": "What brand is IBM?"}],
}

# (benchmark, protocol) -> prompt of each document (or of the first), new tokens, stop strings.
LLAVA = (128, ())
REGION = "Please provide the bounding box coordinate of the region this sentence describes: "
CORNERS = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
    "bottom-right y). All values are floating point numbers bounded between 0 and 1. "
)
PROMPTS = {
    ("vqav2", "lmms"): (["What is This?" + SHORT], 16, ("\n\n",)),
    ("vqav2", "paper"): (["What is This?" + SHORT], *LLAVA),
    ("vqav2_testdev", "paper"): (["What is This?" + SHORT], *LLAVA),
    ("gqa", "lmms"): (["Is it red?" + SHORT], 16, ("\n\n",)),
    ("gqa", "paper"): (["Is it red?" + SHORT], *LLAVA),
    ("vizwiz", "lmms"): (
        [
            "What brand is ibm?\nWhen the provided information is insufficient, respond with "
            "'Unanswerable'." + SHORT
        ],
        None,
        ("ASSISTANT:",),
    ),
    ("vizwiz", "paper"): (
        [
            "What brand is IBM?\nWhen the provided information is insufficient, respond with "
            "'Unanswerable'." + SHORT
        ],
        *LLAVA,
    ),
    ("vizwiz_test", "paper"): (
        [
            "What brand is IBM?\nWhen the provided information is insufficient, respond with "
            "'Unanswerable'." + SHORT
        ],
        *LLAVA,
    ),
    ("scienceqa_img", "lmms"): (
        ["Context: A map.\nWhich?\nA. Ohio\nB. Iowa" + LETTER, "Which?\nA. Ohio\nB. Iowa" + LETTER],
        16,
        ("\n\n",),
    ),
    ("scienceqa_img", "paper"): (
        ["Context: A map.\nWhich?\nA. Ohio\nB. Iowa" + LETTER, "Which?\nA. Ohio\nB. Iowa" + LETTER],
        1024,
        (),
    ),
    ("textvqa", "lmms"): (["What does the sign say?" + SHORT], None, ("ASSISTANT:",)),
    ("textvqa", "paper"): (
        ["What does the sign say?\nReference OCR token: STOP, ALL WAY" + SHORT],
        *LLAVA,
    ),
    ("pope", "lmms"): (["Is there a dog in the image?" + SHORT], 128, ("\n\n",)),
    ("pope", "paper"): (["Is there a dog in the image?" + SHORT], *LLAVA),
    ("mme", "lmms"): (["Is this a 1?" + SHORT], 16, ("\n\n",)),
    ("mme", "paper"): (["Is this a 1?" + SHORT], *LLAVA),
    ("mmbench_en", "lmms"): (
        ["Look. What fruit? There are several options:\nA. apple\nB. pear\n" + LETTER],
        1024,
        ("ASSISTANT:",),
    ),
    ("mmbench_en", "paper"): (
        [
            "Look.\nWhat fruit?\nA. apple\nB. pear" + LETTER,
            "Look.\nWhat fruit?\nA. pear\nB. apple" + LETTER,
            "What colour?\nA. red\nB. blue\nC. green\nD. grey" + LETTER,
        ],
        1024,
        (),
    ),
    ("mmbench_cn", "lmms"): (
        [
            "看。 什么水果? There are several options:\nA. 苹果\nB. 梨\n"
            "\n请直接使用所提供的选项字母作为答案回答。"
        ],
        256,
        ("\n\n",),
    ),
    ("mmbench_cn", "paper"): (["看。\n什么水果?\nA. 苹果\nB. 梨\n请直接回答选项字母。"], 1024, ()),
    ("chair", "lmms"): (["Please describe this image in detail."], 2048, ()),
    ("chair", "paper"): (["Please describe this image in detail."], 512, ()),
    ("chartqa", "lmms"): (["How many?\nAnswer the question with a single word."], 16, ("\n\n",)),
    ("ai2d", "lmms"): (["Which?\nA. moon\nB. sun" + LETTER], 16, ("\n\n",)),
    ("grounding", "lmms"): (["Is it Left?" + SHORT], 16, ("\n\n",)),
    ("refcoco", "lmms"): (
        [CORNERS + REGION + each for each in ("the red one", "left {0}", "it")],
        None,
        ("ASSISTANT:",),
    ),
    ("refcoco", "paper"): ([REGION + each for each in ("the red one", "left {0}", "it")], *LLAVA),
    ("ocrbench", "lmms"): (["what is written in the image?"], 128, ("\n\n",)),
}

# (benchmark, protocol, model, answers, headline value, other metrics)
SCORES = [
    ("vqav2", "paper", "llava_1_5_7b", ["Cat."], 100 * (2 * (1 / 3) + 8 * (2 / 3)) / 10, {}),
    ("gqa", "paper", "llava_1_5_7b", ["Yes."], 100.0, {}),
    ("gqa", "paper", "llava_1_5_7b", ["no"], 0.0, {}),
    ("vizwiz", "paper", "llava_1_5_7b", ["IBM", "a dog"], 50.0, {}),
    ("scienceqa_img", "paper", "llava_1_5_7b", ["The answer is B.", "A. Ohio"], 100.0, {}),
    ("scienceqa_img", "lmms", "llava_1_5_7b", ["The answer is B.", "A"], 50.0, {}),
    ("textvqa", "paper", "llava_1_5_7b", ["stop"], 100.0, {}),
    # random: F1 1; popular: a yes for a no, F1 2/3; adversarial: a no for a yes, F1 0.
    (
        "pope",
        "paper",
        "llava_1_5_7b",
        ["Yes, there is.", "No, there is not.", "Yes", "Yes", "There is not one", "no"],
        100 * (1 + 2 / 3 + 0) / 3,
        {"pope_accuracy": 4 / 6},
    ),
    # Pooled, and a reply must be the word: two true positives short of three, one false positive.
    ("pope", "lmms", "llava_1_5_7b", ["yes", "no", "yes", "yes", "no", "no"], 100 * 2 / 3, {}),
    # existence: both right, 200; code: one of two, acc 50 and acc+ 0.
    ("mme", "paper", "llava_1_5_7b", ["Yes", "No", "Yes", "Yes"], 250.0, {}),
    (
        "mme",
        "paper",
        "llava_1_5_13b",
        ["Yes", "No", "Yes", "Yes"],
        200.0,
        {"mme_cognition_score": 50.0},
    ),
    ("mmbench_en", "paper", "llava_1_5_7b", ["A", "B. apple", "D"], 100.0, {}),
    ("mmbench_en", "paper", "llava_1_5_7b", ["A", "A", "D"], 50.0, {}),
    ("mmbench_en", "paper", "llava_1_5_7b", ["apple, no banana", "apple", "grey"], 100.0, {}),
    ("mmbench_cn", "paper", "llava_1_5_7b", ["A", "B"], 100.0, {}),
    ("chartqa", "lmms", "qwen2_5_vl_7b", ["104", "red"], 100.0, {"relaxed_human_split": 1.0}),
    ("chartqa", "lmms", "qwen2_5_vl_7b", ["106", "blue"], 0.0, {}),
    ("ai2d", "lmms", "qwen2_5_vl_7b", ["B. sun"], 100.0, {}),
    ("ai2d", "lmms", "qwen2_5_vl_7b", ["b"], 100.0, {}),
    ("ai2d", "lmms", "qwen2_5_vl_7b", ["sun"], 0.0, {}),
    ("grounding", "lmms", "llava_1_5_7b", ["Left."], 100.0, {}),
    ("grounding", "lmms", "llava_1_5_7b", ["on the left"], 0.0, {}),
    # IoU 1, then half of the target (counted), then a bit less than half.
    (
        "refcoco",
        "lmms",
        "llava_1_5_7b",
        ["[0.25, 0.25, 0.75, 0.75]", "[0.25, 0.25, 0.5, 0.75]", "[0, 0, 0.49, 0.25]"],
        100 * 2 / 3,
        {"refcoco_IoU": (1 + 0.5 + 0.49) / 3, "refcoco_ACC@0.9": 1 / 3},
    ),
    ("ocrbench", "lmms", "qwen2_5_vl_7b", ["it says private.", "x^3"], 50.0, {}),
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for name, rows in DOCUMENTS.items():
        pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(len(rows))]
        table = {key: [row.get(key) for row in rows] for key in rows[0]} | {"image": pictures}
        data = Dataset.from_dict(table).cast_column("image", ImageFeature())
        data.to_parquet(folder / f"{name}.parquet")
    return {"kind": "directory", "name": "local", "directory": str(folder), "synthetic": True}


@cache
def configured(benchmark, protocol, model="llava_1_5_7b"):
    overrides = [f"model={model}", f"benchmark=[{benchmark}]", f"protocol={protocol}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides)
    return OmegaConf.to_container(config.benchmark[benchmark], resolve=True)


@pytest.mark.parametrize(("benchmark", "protocol"), PROMPTS)
def test_prompts_and_limits(suite, benchmark, protocol):
    prompts, limit, stop = PROMPTS[benchmark, protocol]
    found = loaded(benchmark, configured(benchmark, protocol), suite, protocol)
    assert [d.question for d in found.documents[: len(prompts)]] == prompts
    assert found.max_new_tokens == limit
    assert found.stop == stop
    entries = found.config.get("fan_out")  # a document each
    rows = DOCUMENTS[benchmark]
    assert len(found.documents) == sum(len(row[entries]) if entries else 1 for row in rows)


@pytest.mark.parametrize(
    ("benchmark", "protocol", "model", "answers", "value", "others"),
    SCORES,
    ids=[f"{b}-{p}-{i}" for i, (b, p, *_) in enumerate(SCORES)],
)
def test_scores_of_canned_answers(suite, benchmark, protocol, model, answers, value, others):
    found = loaded(benchmark, configured(benchmark, protocol, model), suite, protocol)
    for _ in range(2):  # scoring again gives the same: no tally is left behind
        scores = score(found, dict(enumerate(answers)))
        assert scores.value == pytest.approx(value)
        for name, expected in others.items():
            assert scores.metrics[name] == pytest.approx(expected)
    assert len(scores.units) == len(scores.clusters)


def test_chair_counts_what_is_not_there(suite):
    """A dog and two people are there; the cat is not. Length counts tokens, full stops too."""
    found = loaded("chair", configured("chair", "paper"), suite, "paper")
    answers = {0: "A dog and a cat. A man.", 1: "A car."}
    scores = score(found, answers)
    assert scores.value == 50.0  # one of two captions names something absent
    assert scores.metrics["coco_cap_chair_i"] == pytest.approx(25.0)  # one of four mentions
    assert scores.metrics["coco_cap_recall"] == pytest.approx(100.0)
    assert scores.metrics["chair_len"] == pytest.approx((9 + 3) / 2)
    assert not scores.higher_is_better


def test_mme_perception_counts_perception_alone(suite):
    found = loaded("mme", configured("mme", "paper", "llava_1_5_13b"), suite, "paper")
    scores = score(found, dict(enumerate(["Yes", "No", "Yes", "Yes"])))
    assert scores.scale == 200  # one perception subtask
    assert len(scores.units) == 1


@pytest.mark.parametrize(
    ("benchmark", "answer", "line"),
    [
        ("vqav2_testdev", "A cat.", {"question_id": 9, "answer": "cat"}),
        ("vizwiz_test", "IBM", {"image": "VizWiz_test_1.jpg", "answer": "ibm"}),
    ],
)
def test_server_files_are_written_into_the_cell(suite, tmp_path, benchmark, answer, line):
    found = loaded(benchmark, configured(benchmark, "paper"), suite, "paper")
    scores = score(found, {0: answer}, folder=tmp_path)
    assert json.loads((tmp_path / "submission.json").read_text()) == [line]
    assert (scores.metric, scores.value) == ("answered", 100.0)  # no accuracy: nothing is public


def test_mmbench_spreadsheet_survives_control_characters(suite, tmp_path):
    found = loaded("mmbench_en", configured("mmbench_en", "paper"), suite, "paper")
    answers = {0: "A\x00\x1b", 1: "B", 2: "D"}
    score(found, answers, folder=tmp_path)
    table = pd.read_excel(tmp_path / "submission.xlsx")
    assert list(table["index"]) == [1, 1_000_001, 2]
    assert list(table["prediction"]) == ["A", "B", "D"]


def test_hub_sources_of_both_mmbench_versions():
    settings = configured("mmbench_en", "paper")
    assert (settings["hub"]["size"], settings["protocols"]["paper"]["hub"]["size"]) == (4329, 4377)


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", list(overrides))


TABLES = ["llava_1_5_7b", "llava_1_5_13b", "llava_next_7b", "qwen2_5_vl_7b"]
TABLES += ["llava_onevision_7b", "qwen3_vl_8b", "internvl3_8b", "smolvlm2_2b"]


@pytest.mark.parametrize("table", TABLES)
def test_each_table_plans_its_cells_without_loading_anything(table):
    planned = plan(composed(f"table={table}"))
    names = {cell.strategy_name for cell in planned.cells}
    config = planned.config
    assert {"vanilla", "divprune", "agilepruner"} <= names
    budgets = {cell.budget for cell in planned.cells if cell.strategy_name == "divprune"}
    assert budgets == set(config["budget"])
    assert config["suite"]["kind"] == "hub"


def test_preprocessing_follows_the_protocol_and_is_identity():
    cells = {}
    for protocol in ("paper", "lmms"):
        config = composed("table=llava_1_5_7b", f"protocol={protocol}", "benchmark=[gqa]")
        run = plan(config)
        documents, files = {"file": "0"}, {"files": "0", **_model(run.config)}
        cells[protocol] = cell_identity(run.config, run.cells[0], files, documents)
    paper, lmms = (cells[p]["model"] for p in ("paper", "lmms"))
    assert paper["image_processor"]["do_pad"] is True
    assert paper["split_at_image"] is True
    assert lmms["image_processor"] == {}
    assert digest(cells["paper"]) != digest(cells["lmms"])


@pytest.mark.parametrize("model", TABLES[:3])
def test_vicuna_prompt_is_the_official_one_byte_for_byte(model):
    prompt = composed(f"model={model}").model.load.prompt
    assert prompt == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: <image>\n"
        "{question} ASSISTANT:"
    )


def llava_hf():
    """The source of lmms-eval's wrapper: importing it needs a package that we do not."""
    return (Path(lmms_eval.__file__).parent / "models" / "simple" / "llava_hf.py").read_text()


@pytest.mark.parametrize("model", TABLES[:3])
def test_protocol_lmms_sends_what_llava_hf_sends(model):
    source = llava_hf()
    assignments = [n for n in ast.parse(source).body if isinstance(n, ast.Assign)]
    values = {n.targets[0].id: n.value for n in assignments}
    template = ast.literal_eval(values["VICUNA_CHAT_TEMPLATE"])
    messages = [{"role": "user", "content": "<image>\nWhat?"}]
    sent = jinja2.Template(template).render(messages=messages, add_generation_prompt=True)
    settings = composed(f"model={model}", "protocol=lmms").model
    assert settings.load.prompt.format(question="What?") == sent
    assert f'gen_kwargs["max_new_tokens"] = {settings.default_new_tokens}' in source
    assert "in until" not in source  # it reads the stop strings and does nothing with them
    stops = {stop for name in DOCUMENTS for stop in stock_stops(name)}
    assert stops <= set(settings.ignored_stops)


@pytest.mark.parametrize(
    ("model", "wrapper", "said"),
    [
        ("llava_onevision_7b", "simple/llava_onevision", ('"max_new_tokens"] = {}', '"qwen_1_5"')),
        ("qwen3_vl_8b", "simple/qwen3_vl", ('"max_new_tokens": {}', "max_pixels: int = 1605632")),
        ("internvl3_8b", "chat/internvl_hf", ('"max_new_tokens"] = {}', "max_patches: int = 12")),
        ("smolvlm2_2b", "chat/huggingface", ('"max_new_tokens": {}',)),
    ],
)
def test_protocol_lmms_sends_what_the_familys_own_class_sends(model, wrapper, said):
    source = (Path(lmms_eval.__file__).parent / "models" / f"{wrapper}.py").read_text()
    settings = composed(f"model={model}", "protocol=lmms").model
    for text in said:
        assert text.format(settings.default_new_tokens) in source
    if model == "qwen3_vl_8b":  # it drops the blank line and keeps the others
        assert 'if item != "\\n\\n"' in source
        assert settings.by_protocol.lmms.pixels.longest_edge == 1605632
        assert 'system_prompt: Optional[str] = "You are a helpful assistant."' in source
        assert "You are a helpful assistant." in settings.load.prompt
    else:  # stop strings are not read
        stops = {stop for name in DOCUMENTS for stop in stock_stops(name)}
        assert stops <= set(settings.ignored_stops)


def stock_stops(name):
    """Stop strings of a benchmark's stock task; none where it is run under ``paper`` only."""
    benchmark = composed(f"benchmark=[{name}]").benchmark[name]
    if "lmms" not in benchmark.protocols:
        return []
    config, _ = task_config(benchmark, "lmms")
    stops = (config.get("generation_kwargs") or {}).get("until") or ["\n\n"]  # lmms-eval's default
    return [stops] if isinstance(stops, str) else stops


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=qwen2_5_vl_7b", "strategy=[visionzip]"], "has no CLS token"),
        (["model=qwen2_5_vl_7b", "strategy=[prumergeplus]"], "has no CLS token"),
        (["model=qwen2_5_vl_7b", "strategy=[cdpruner]"], "no CLIP text tower"),
        (
            ["model=internvl3_8b", "strategy=[visionzip]", "budget=[65]"],
            "one of .*divprune, .*random",
        ),
        (["model=llava_next_7b", "budget=[64]"], "multiple of 5, e.g. 60"),
        (["model=llava_1_5_7b", "protocol=papr"], "Did you mean 'paper'"),
        (["model=llava_1_5_7b", "budget=[577]"], "more than the 576 visual tokens"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(overrides, message):
    with pytest.raises(UserError, match=message):
        plan(composed("suite=hub", *overrides))


@pytest.mark.parametrize(
    "reply", ["B. sun", "b", "B", "(B)", " B. x", "B.", "sun", "A. B.", "B sun"]
)
def test_ai2d_is_lmms_evals_filter_and_exact_match(reply):
    """Cells are replayed without lmms-eval's filters, so the one that AI2D has is in its metric."""
    from lmms_eval.api.metrics import exact_match_hf_evaluate
    from lmms_eval.tasks.ai2d.utils import MultiChoiceRegexFilter

    document = DOCUMENTS["ai2d"][0]
    filtered = MultiChoiceRegexFilter().apply([[reply]], [document])
    expected = exact_match_hf_evaluate(filtered, ["B"], ignore_case=True, ignore_punctuation=True)
    assert ai2d(document, [reply]) == expected

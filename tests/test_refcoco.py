"""RefCOCO: a document per expression, lmms-eval's scores, and boxes as each model writes them."""

import io
import json
import random
from argparse import Namespace

import numpy as np
import pytest
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from omegaconf import OmegaConf
from PIL import Image
from plans import composed, loaded, planned

from agilepruner.errors import UserError
from agilepruner.runner import identity
from agilepruner.runner.plan import cell_identity, documents_in, scoring
from evals.lmms import contained, import_lmms_eval
from evals.scoring import score

COLUMNS = Features(
    question_id=Value("string"),
    image=ImageFeature(),
    question=Value("string"),
    answer=Sequence(Value("string")),
    segmentation=Sequence(Value("float32")),
    bbox=Sequence(Value("float32")),
    iscrowd=Value("int8"),
    file_name=Value("string"),
)


def picture(size, mode="RGB", turn=None, kind="PNG"):
    """An encoded picture; ``turn`` is an EXIF orientation."""
    file, image = io.BytesIO(), Image.new(mode, size, 90)
    exif = image.getexif()
    if turn:
        exif[0x0112] = turn
    image.save(file, kind, exif=exif)
    return {"bytes": file.getvalue(), "path": None}


def row(number, image, answer, bbox):
    return {
        "question_id": f"{number}",
        "image": image,
        "question": "Please carefully observe the area circled in the image.",
        "answer": answer,
        "segmentation": [1.0, 2.5],
        "bbox": bbox,
        "iscrowd": 0,
        "file_name": f"{number}.jpg",
    }


PICTURES = [
    picture((64, 48)),
    picture((30, 90), mode="L"),
    picture((77, 31), mode="P"),
    picture((60, 40), turn=6, kind="JPEG"),  # shown 40 x 60
    picture((51, 51), mode="CMYK", kind="JPEG"),
]
ROWS = [
    row(i, image, [f"the {j}. thing of {i}" for j in range(i % 4 + 1)], [3.3, 4.1, 20.7, 17.9])
    for i, image in enumerate(PICTURES)
]


def suite_of(folder, rows):
    Dataset.from_list(rows, features=COLUMNS).to_parquet(folder / "refcoco.parquet")
    return {"kind": "directory", "name": "local", "directory": str(folder), "synthetic": True}


def load(suite, protocol="lmms", model="llava_1_5_7b", limit=None):
    config = composed(f"model={model}", "benchmark=[refcoco]", f"protocol={protocol}")
    settings = OmegaConf.to_container(config.benchmark.refcoco, resolve=True)
    return loaded("refcoco", settings, suite, protocol, limit)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return suite_of(tmp_path_factory.mktemp("refcoco"), ROWS)


@pytest.fixture(scope="module")
def official(suite):
    """lmms-eval's own task with its own documents: it decodes every picture and copies it."""
    task_class, load_yaml_config = import_lmms_eval()
    import lmms_eval

    path = f"{lmms_eval.__path__[0]}/tasks/refcoco/refcoco_bbox_rec_val.yaml"
    files = {"val": f"{suite['directory']}/refcoco.parquet"}
    with contained():
        config = load_yaml_config(path, mode="full")
        config |= {"dataset_path": "parquet", "dataset_kwargs": {"data_files": files}}
        return task_class(config=config)


def test_documents_prompts_and_pictures_equal_lmms_evals(suite, official):
    found = load(suite)
    with contained():
        official.build_all_requests()
    assert [d.question for d in found.documents] == [i.args[0] for i in official.instances]
    assert len(found.documents) == sum(len(each["answer"]) for each in ROWS) == 11
    assert found.stop == ("ASSISTANT:",)
    for document in found.documents:
        theirs = dict(official.dataset["val"][document.index])
        ours, note = found.image(document)
        (image,) = official.doc_to_visual(theirs)
        assert (ours.size, ours.tobytes(), note) == (image.size, image.tobytes(), "")
        theirs.pop("image")
        assert found.record(document.index) == theirs
    keys = [document.image_key for document in found.documents]
    assert len(set(keys)) == len(PICTURES)  # a cluster of the intervals is a picture


def reply(record, draw):
    """A box that is right, near, far off, turned over, in another format, or none at all."""
    box = [round(value + draw.choice([0, 0, 0.05, -0.04]), 2) for value in record["bbox"]]
    written = draw.choice(
        ["{}", "It is at {}.", "a) [1, 2] then {}", "{} and [0.1, 0.2, 0.3, 0.4]"]
    )
    other = ["", "[0.5]", "(0.1, 0.2, 0.3, 0.4)", "[0.9, 0.9, 0.1, 0.1]", "[0, 0, 0, 0]"]
    return draw.choice([*[written.format(box)] * 3, *other])


def test_scores_equal_lmms_evals(suite, official, tmp_path):
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import evaluate

    found = load(suite)
    draw = random.Random(3)
    answers = {d.index: reply(found.record(d.index), draw) for d in found.documents}

    class Replay(lmms):
        def generate_until(self, requests):
            return [answers[request.doc_id] for request in requests]

        loglikelihood = generate_until_multi_round = generate_until

        def clean(self):
            pass

    name, model = official.config.task, Replay()
    model.task_dict = {name: official.dataset}
    options = {"process_with_media": False, "output_path": str(tmp_path), "reasoning_tags": None}
    with contained():
        theirs = evaluate(
            model,
            {name: official},
            bootstrap_iters=0,
            log_samples=False,
            cli_args=Namespace(**options),
            distributed_executor_backend="torchrun",
        )["results"][name]
    ours = score(found, dict(answers))
    percent = ours.metrics.pop("refcoco_mean_iou")
    assert percent == 100 * theirs["refcoco_IoU,none"]
    assert len(ours.metrics) == 7
    for metric, value in ours.metrics.items():
        assert value == theirs[f"{metric},none"], metric
    assert ours.value == 100 * theirs["refcoco_ACC@0.5,none"]
    assert 0 < ours.value < 100
    assert np.mean(ours.units) * 100 == pytest.approx(ours.value)
    assert np.mean(ours.parts["iou"]) == pytest.approx(theirs["refcoco_IoU,none"])


@pytest.mark.parametrize(
    ("model", "written"),
    [
        # 64 x 48 in a square of 64: 8 rows of padding above and below.
        ("llava_1_5_7b", "[{0}, {1}, {2}, {3}]"),
        ("llava_next_7b", "[{0}, {1}, {2}, {3}]"),
        (
            "qwen2_5_vl_7b",
            '```json\n[\n\t{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "it"}}\n]\n```',
        ),
        ("qwen3_vl_8b", '[{{"bbox_2d": [{0}, {1}, {2}, {3}]}}]'),
        ("internvl3_8b", "<ref>it</ref><box>[[{0}, {1}, {2}, {3}]]</box>"),
    ],
)
def test_a_box_on_what_the_model_sees_is_right_under_paper(tmp_path, model, written):
    """A white rectangle is looked for in the pixels that the model's own image processor makes."""
    images, rows = [], []
    for number, (size, box) in enumerate(
        [((64, 48), (8, 6, 24, 30)), ((48, 96), (12, 60, 30, 21)), ((101, 50), (70, 5, 30, 12))]
    ):
        left, top, width, height = box
        image = Image.new("RGB", size)
        image.paste((255, 255, 255), (left, top, left + width, top + height))
        file = io.BytesIO()
        image.save(file, "PNG")
        images.append(image)
        rows.append(row(number, {"bytes": file.getvalue(), "path": None}, ["it"], list(box)))
    found = load(suite_of(tmp_path, rows), "paper", model)
    answers = {i: written.format(*seen(model, image)) for i, image in enumerate(images)}
    paper = score(found, answers)
    assert paper.value == 100.0
    assert paper.metrics["refcoco_IoU"] > 0.93  # pixels and three decimals
    lmms = score(load(suite_of(tmp_path, rows), "lmms", model), answers)
    assert lmms.metrics["refcoco_IoU"] < 0.8  # taken for fractions of the picture
    assert found.documents[0].question != load(suite_of(tmp_path, rows)).documents[0].question


def seen(model, image):
    """Left, top, right, bottom of what is white in a model's input, as the model writes them."""
    import transformers

    settings = composed(f"model={model}", "protocol=paper").model.load.image_processor
    if model.startswith("llava"):
        processor = transformers.LlavaImageProcessorPil(
            do_pad=True, size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        )
        pixels = processor(image, return_tensors="np")["pixel_values"][0]
        return [round(value, 3) for value in corners(pixels)]
    if model == "qwen2_5_vl_7b":
        processor = transformers.Qwen2VLImageProcessorPil(
            size=dict(settings.size), patch_size=14, merge_size=2
        )
        time, rows, columns = processor(image, return_tensors="np")["image_grid_thw"][0]
        assert time == 1
        sides = columns * 14, rows * 14
        box = corners(np.asarray(image.resize(sides)).transpose(2, 0, 1).astype(float))
        return [round(value * sides[i % 2]) for i, value in enumerate(box)]
    return [round(1000 * value) for value in corners(np.asarray(image).transpose(2, 0, 1) * 1.0)]


def corners(pixels):
    """Corners of the bright part (C, H, W), as fractions."""
    bright = pixels.min(axis=0) > (pixels.min() + pixels.max()) / 2
    rows, columns = np.where(bright.any(axis=1))[0], np.where(bright.any(axis=0))[0]
    height, width = bright.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("(130,160),(450,560)", 100.0),  # Qwen2-VL's way
        ("x [130.0 160. 450 560]", 100.0),
        ("[[130, 160, 450, 560], [0, 0, 9, 9]]", 100.0),  # the first one counts
        ("[0, 0, 9, 9] [130, 160, 450, 560]", 0.0),
        ("130, 160, 450, 560", 0.0),  # no bracket
        ("[130, 160, 450]", 0.0),
        ("[450, 560, 130, 160]", 0.0),  # turned over
        ("[130, 560, 450, 160]", 0.0),
        ("[1e3, x, 3, 4]", 0.0),
        ("", 0.0),
    ],
)
def test_other_ways_to_write_a_box(tmp_path, answer, value):
    """The target is [0.125, 0.15, 0.45, 0.5625] of 40 x 40."""
    suite = suite_of(tmp_path, [row(0, picture((40, 40)), ["it"], [5, 6, 13, 16.5])])
    found = score(load(suite, "paper", "qwen3_vl_8b"), {0: answer})
    assert found.value == value
    assert 0 <= found.metrics["refcoco_IoU"] <= 1


def test_a_box_as_large_as_the_target_but_turned_over_is_scored(tmp_path):
    """lmms-eval divides by a union of zero."""
    suite = suite_of(tmp_path, [row(0, picture((4, 4)), ["it"], [1, 1, 1, 1])])
    scores = score(load(suite), {0: "[0.75, 0.25, 0.5, 0.5]"})
    assert (scores.value, scores.metrics["refcoco_IoU"]) == (0.0, 0.0)


def test_an_odd_row_fails_alone(tmp_path):
    broken = {"bytes": b"no picture", "path": None}
    rows = [
        row(0, picture((20, 20)), ["one", "two"], [1, 2, 3, 4]),
        row(1, picture((20, 20)), ["three"], None),
        row(2, picture((20, 20)), None, [1, 2, 3, 4]),
        row(3, broken, ["four"], [1, 2, 3, 4]),
        row(4, picture((20, 20)), [], [1, 2, 3, 4]),  # no expression, no document
        row(5, picture((20, 20)), ["five"], [1, 2, 3]),
        row(6, picture((20, 20)), ["six"], [1, 2, 3, 4]),
    ]
    found = load(suite_of(tmp_path, rows))
    said = [(d.question[-3:].strip(), d.error.partition(":")[0]) for d in found.documents]
    odd = ("", "its row cannot be read")
    assert said == [("one", ""), ("two", ""), odd, odd, ("our", ""), odd, ("six", "")]
    assert found.image(found.documents[-1])[0].size == (20, 20)
    with pytest.raises(OSError, match="cannot identify image file"):
        found.image(found.documents[4])


def test_files_of_another_benchmark_are_refused(tmp_path):
    other = Dataset.from_dict({"question": ["What?"], "answer": ["yes"]})
    other.to_parquet(tmp_path / "refcoco.parquet")
    suite = {"kind": "directory", "name": "l", "directory": str(tmp_path), "synthetic": True}
    with pytest.raises(UserError, match=r"refcoco.parquet cannot be loaded \(KeyError: 'bbox'\)"):
        load(suite)


def test_a_target_without_area_is_no_score(tmp_path):
    found = load(suite_of(tmp_path, [row(0, picture((20, 20)), ["it"], [1, 2, 0, 4])]))
    with pytest.raises(ValueError, match="document 0 cannot be scored: ValueError: its target"):
        score(found, {0: "[0.1, 0.1, 0.2, 0.2]"})


def test_what_is_not_known_is_refused(suite):
    words = ["benchmark=[refcoco]", "suite=local", f"suite.directory={suite['directory']}"]
    with pytest.raises(UserError, match="for model 'smolvlm2_2b': its config does not say"):
        planned(*words, "protocol=paper", "model=smolvlm2_2b", "budget=[85]")
    with pytest.raises(UserError, match="resize"):
        planned(*words, "protocol=paper", "model=qwen2_5_vl_7b", "strategy=[resize]")
    assert planned(*words, "protocol=paper", "model=llava_1_5_7b", "strategy=[resize]").cells
    assert planned(*words, "protocol=lmms", "model=demo").cells


def test_the_prompt_is_in_the_identity_and_how_a_box_is_read_is_in_the_scoring(suite):
    words = ["benchmark=[refcoco]", "suite=local", f"suite.directory={suite['directory']}"]
    words += ["protocol=paper", "model=llava_1_5_7b", "strategy=[uniform]"]

    def both(*more):
        run = planned(*words, *more)
        cell = cell_identity(run.config, run.cells[0], {}, {})
        return identity.digest(cell), scoring(run.config, "refcoco")

    asked, scored = both()
    assert both("model.grounding.boxes.of=picture")[0] == asked
    assert both("model.grounding.boxes.of=picture")[1] != scored
    assert both("model.grounding.prompt='Where is {expression}?'")[0] != asked


def test_documents_are_counted_before_anything_is_run(suite):
    words = ["benchmark=[refcoco]", "suite=local", f"suite.directory={suite['directory']}"]
    assert documents_in(planned(*words), "refcoco") == 11
    assert documents_in(planned(*words, "limit=3"), "refcoco") == 3
    hub = planned("model=llava_1_5_7b", "suite=hub", "benchmark=[refcoco]")
    assert documents_in(hub, "refcoco") == 23962
    assert len(load(suite, limit=3).documents) == 3


def test_a_page_shows_the_expression_its_picture_and_its_box(suite):
    from evals import looks, sources

    found = load(suite)
    source = sources.directory(suite, "refcoco", identity.file_digest)
    shown = dict(looks.Looks(found.config, source, "lmms").at([0, 2]))
    assert shown[2].asked[0].question.endswith("the 1. thing of 1")
    assert shown[2].image.size == (30, 90)
    assert shown[0].asked[0].references == ["[0.0516, 0.0854, 0.375, 0.458]"]  # of 64 x 48


def test_lmms_evals_samples_say_the_box(suite):
    from evals import samples, sources

    found = load(suite)
    source = sources.directory(suite, "refcoco", identity.file_digest)
    (first, *_) = samples.samples(found.config, source, "lmms", {0: "[0.1, 0.2, 0.3, 0.4]"})
    assert json.loads(json.dumps(first))["refcoco_IoU"]["pred"] == [0.1, 0.2, 0.3, 0.4]
    assert first["input"].endswith("the 0. thing of 0")

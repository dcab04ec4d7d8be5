"""The model configs end to end: tiny checkpoints of the real classes, loaded, run and scored."""

import json

import pytest
import tiny_models as tiny
from datasets import Dataset
from datasets import Image as ImageFeature
from plans import executed, planned

from agilepruner import flops
from agilepruner.errors import UserError
from agilepruner.report.frames import entries_of
from agilepruner.runner.kept import boxes_of
from agilepruner.strategies.diversity.cdpruner import CDPruner

MODELS = {
    "llava_1_5_7b": ("llava", 576, 32, 24, 1),
    "llava_next_7b": ("next_paper", 2880, 160, 24, 5),
    "qwen2_5_vl_7b": ("qwen", 144, 24, None, 1),
    "qwen3_vl_8b": ("qwen3", 110, 24, None, 1),
    "llava_onevision_7b": ("onevision", 320, 40, 8, 5),
    "internvl3_8b": ("internvl", 80, 40, 8, 5),
    "smolvlm2_2b": ("smolvlm", None, 40, 8, 5),
}

# preprocessor_config.json of the llava-1.5 checkpoints on the hub: CLIP's, with a centre crop.
CLIP_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "LlavaProcessor",
    "crop_size": {"height": 336, "width": 336},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 336},
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Three images, four questions: two share an image."""
    folder = tmp_path_factory.mktemp("suite")
    pictures = [*tiny.images(), tiny.images()[0]]
    answers = [{"answer": "w5", "answer_confidence": "yes", "answer_id": i} for i in range(10)]
    table = {
        "question": [*tiny.QUESTIONS, "w40 w41"],
        "question_id": [1, 2, 3, 4],
        "image_id": [1, 2, 3, 1],
        "answers": [answers] * 4,
        "image": pictures,
    }
    data = Dataset.from_dict(table).cast_column("image", ImageFeature())
    data.to_parquet(folder / "vqav2.parquet")
    return folder


def run(name, kind, budget, protocol, suite, folder, strategy="agilepruner", more=()):
    """Rows of vanilla and a strategy on a tiny checkpoint under a real model config."""
    overrides = [
        f"model={name}",
        f"model.load.path={folder / 'model'}",
        "model.load.dtype=float32",
        "model.load.device=cpu",
        "model.max_new_tokens=3",
        "model.decoder_layers=2",
        "suite=local",
        f"suite.directory={suite}",
        "benchmark=[vqav2]",
        f"protocol={protocol}",
        f"strategy=[{strategy}]",
        f"budget=[{budget}]",
        f"results={folder / 'results'}",
        *more,
    ]
    overrides += tiny.SMALL.get(kind, [])
    if kind in ("qwen3", "onevision", "internvl", "smolvlm"):  # the checkpoint's own
        tiny.processor(kind).save_pretrained(folder / "model")
    tiny.build(kind).save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    rows = executed(planned(*overrides))
    assert [row.status for row in rows] == ["done", "done"], rows[0].error
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_a_model_config_runs(name, suite, tmp_path):
    kind, full, budget, side, tiles = MODELS[name]
    vanilla, pruned = run(name, kind, budget, "paper", suite, tmp_path)
    if kind == "smolvlm":  # text markers stay as well, and images of fewer tiles keep less
        assert 24 < pruned.kept["min"] < pruned.kept["max"] < vanilla.kept["min"]
    else:
        assert pruned.kept == {"min": budget, "mean": budget, "max": budget, "layer_mean": budget}
    assert pruned.n == vanilla.n == 4
    if kind in ("qwen", "qwen3"):  # each image has its own number of tokens
        assert 0.6 * full < vanilla.kept["min"] < vanilla.kept["max"] < full + 40
    elif kind != "smolvlm":
        assert vanilla.kept["min"] == vanilla.kept["max"] == full
        arch = flops.Architecture.from_config(tiny.build(kind).config)
        assert arch.grid == (side, side)
        assert pruned.flops["vision"] == tiles * flops.vision_flops(arch)
    entries = entries_of(pruned, next((tmp_path / "results").iterdir())).values()
    assert [len(boxes_of(entry)) - entry.tiles for entry in entries] == [0] * 4
    assert pruned.flops["vision"] == vanilla.flops["vision"]
    assert pruned.flops["prefill"] < vanilla.flops["prefill"]
    assert vanilla.environment["attention"] == "sdpa"
    assert vanilla.environment["image_processor"].endswith("Pil")


def test_llava_under_protocol_lmms_uses_the_checkpoints_own_processor(suite, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(CLIP_PROCESSOR))
    vanilla, pruned = run("llava_1_5_7b", "llava", 32, "lmms", suite, tmp_path)
    assert vanilla.environment["image_processor"] == "CLIPImageProcessorPil"
    assert pruned.kept["max"] == 32


def test_next_under_protocol_lmms_has_the_native_geometry(suite, tmp_path):
    tiny.processor("next_native").save_pretrained(tmp_path / "model")
    vanilla, pruned = run("llava_next_7b", "next_native", 160, "lmms", suite, tmp_path)
    assert vanilla.environment["image_processor"] == "LlavaNextImageProcessorPil"
    assert vanilla.environment["geometry"] == "native"
    assert 1300 < vanilla.kept["min"] < vanilla.kept["max"] < 1500  # three tiles, unpadded
    assert 32 * 2 < pruned.kept["mean"] < 200  # a fifth of the budget per tile, and newlines


@pytest.mark.parametrize("name", ["llava_1_5_7b", "llava_next_7b"])
def test_cdpruner_reads_every_question_of_an_image(name, suite, tmp_path, monkeypatch):
    kind, _, budget, _, tiles = MODELS[name]
    select, seen = CDPruner.select, []

    def recording(strategy, tokens, count):
        selection = select(strategy, tokens, count)
        seen.append((tokens.text_embeds[0], selection.indices, strategy.joint_range))
        return selection

    monkeypatch.setattr(CDPruner, "select", recording)
    more = [f"model.load.joint_space={tiny.save_clip(tmp_path / 'clip')}"]
    vanilla, pruned = run(name, kind, budget, "paper", suite, tmp_path, "cdpruner", more)
    assert pruned.kept["min"] == pruned.kept["max"] == budget
    assert pruned.flops["selection"] > flops.clip_text_flops() > vanilla.flops["selection"]
    assert len(seen) == 4  # questions; the first and the last share their image
    assert {len(indices) for _, indices, _ in seen} == {tiles}
    assert {joint for *_, joint in seen} == {tiles > 1}  # over the tiles of one image
    assert len({tuple(text.flatten().tolist()) for text, *_ in seen}) == 4


def test_a_checkpoint_that_cannot_be_had_is_one_sentence(suite, tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a directory that looks like a checkpoint
    missing = f"model.load.joint_space={tmp_path}"
    with pytest.raises(UserError, match=r"cannot be loaded.* model.load.joint_space=\.\.\."):
        run("llava_1_5_7b", "llava", 32, "paper", suite, tmp_path, "cdpruner", [missing])
    rows = run("llava_1_5_7b", "llava", 32, "paper", suite, tmp_path, "fastervlm", [missing])
    assert len(rows) == 2  # who does not need it does not load it

"""The model configs end to end: tiny checkpoints of the real classes, loaded, run and scored."""

import pytest
import tiny_models as tiny
from datasets import Dataset
from datasets import Image as ImageFeature
from hydra import compose, initialize_config_dir

from agilepruner import flops
from agilepruner.cli import CONFIGS
from agilepruner.runner.experiment import execute, plan

MODELS = {
    "llava_1_5_7b": ("llava", 576, 32, 24, 1),
    "llava_next_7b": ("next_paper", 2880, 160, 24, 5),
    "qwen2_5_vl_7b": ("qwen", 144, 24, None, 1),
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


@pytest.mark.parametrize("name", MODELS)
def test_a_model_config_runs(name, suite, tmp_path):
    kind, full, budget, side, tiles = MODELS[name]
    model = tiny.build(kind)
    model.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    overrides = [
        f"model={name}",
        f"model.load.path={tmp_path / 'model'}",
        "model.load.dtype=float32",
        "model.load.device=cpu",
        "model.max_new_tokens=3",
        "model.decoder_layers=2",
        "suite=local",
        f"suite.directory={suite}",
        "benchmark=[vqav2]",
        "protocol=paper",
        "strategy=[agilepruner]",
        f"budget=[{budget}]",
        f"results={tmp_path / 'results'}",
    ]
    if kind == "qwen":
        overrides.append("model.visual_tokens=144")
        overrides += [f"model.load.image_processor.size.{e}_edge=112896" for e in ("short", "long")]
        overrides = [o.replace("short_edge", "shortest_edge") for o in overrides]
        overrides = [o.replace("long_edge", "longest_edge") for o in overrides]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        planned = plan(compose("config", overrides))
    vanilla, pruned = execute(planned)
    assert [row.status for row in (vanilla, pruned)] == ["done", "done"], vanilla.error
    assert pruned.kept == {"min": budget, "mean": budget, "max": budget, "layer_mean": budget}
    assert pruned.n == vanilla.n == 4
    if kind == "qwen":  # each image has its own number of tokens
        assert 90 < vanilla.kept["min"] < vanilla.kept["max"] < full + 40
    else:
        assert vanilla.kept["min"] == vanilla.kept["max"] == full
        arch = flops.Architecture.from_config(model.config)
        assert arch.grid == (side, side)
        assert pruned.flops["vision"] == tiles * flops.vision_flops(arch)
    assert pruned.flops["vision"] == vanilla.flops["vision"]
    assert pruned.flops["prefill"] < vanilla.flops["prefill"]
    assert vanilla.environment["attention"] == "sdpa"
    assert vanilla.environment["image_processor"].endswith("Pil")

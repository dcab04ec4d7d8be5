"""Weights, numbers and prompts that a model cannot answer with: refused where they arise."""

import json
import shutil
import weakref

import plans
import pytest
import torch
from safetensors.torch import load_file, save_file

from agilepruner.errors import UserError
from agilepruner.models.base import Generation
from agilepruner.places import ROOT
from agilepruner.runner.run import load_model

RUN = ["benchmark=[vqav2]", "limit=3", "strategy=[vanilla]"]


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(ROOT / "evals/demo_model", tmp_path / "model")


def loading(checkpoint):
    return load_model(plans.planned(f"model.load.path={checkpoint}").config["model"])


def change(checkpoint, edit):
    weights = load_file(checkpoint / "model.safetensors")
    edit(weights)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


def first(weights, part):
    return next(name for name in weights if part in name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["mlp.down_proj", "vision_tower", "projector"])
def test_weights_that_are_no_numbers_are_refused(checkpoint, part, value):
    def edit(weights):
        weights[first(weights, part)].view(-1)[0] = value

    change(checkpoint, edit)
    with pytest.raises(UserError, match="hold NaN or infinite values"):
        loading(checkpoint)


def test_missing_weights_are_not_replaced_by_random_ones(checkpoint):
    change(checkpoint, lambda weights: weights.pop(first(weights, "mlp.down_proj")))
    with pytest.raises(UserError, match="lacks weights that its config asks for"):
        loading(checkpoint)


def test_weights_of_another_shape_are_refused(checkpoint):
    def edit(weights):
        name = first(weights, "mlp.down_proj")
        weights[name] = weights[name][:, :-8].contiguous()

    change(checkpoint, edit)
    with pytest.raises(UserError, match=r"cannot be loaded|of other shapes"):
        loading(checkpoint)


def test_layers_that_the_config_does_not_have_are_refused(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="holds layers that its config does not have"):
        loading(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b""])
def test_a_damaged_checkpoint_is_one_sentence(checkpoint, name, damage):
    path = checkpoint / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as refused:
        loading(checkpoint)
    assert str(checkpoint) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("loaded_once")
def test_a_prompt_longer_than_the_context_is_refused_before_it_is_run(tmp_path, monkeypatch, demo):
    monkeypatch.setattr(demo, "context", 590)
    generate = type(demo).generate
    lengths = []

    def watched(self, prompts, visuals, *others):
        lengths.extend(len(p) - 1 + len(v) for p, v in zip(prompts, visuals))
        return generate(self, prompts, visuals, *others)

    monkeypatch.setattr(type(demo), "generate", watched)
    run = plans.planned(f"results={tmp_path}", *RUN, "strategy=[fastervlm]", "budget=[16]")
    rows = plans.executed(run)
    assert rows[0].status == "failed"
    assert "does not fit the model's context of 590" in rows[0].error
    assert rows[1].status == "done"
    assert max(lengths) < 590


@pytest.mark.usefixtures("loaded_once")
def test_an_answer_that_runs_past_the_context_is_not_believed(tmp_path, monkeypatch, demo):
    run = plans.planned(f"results={tmp_path / 'a'}", *RUN)
    longest = max(row.text_tokens for row in plans.executed(run))
    monkeypatch.setattr(demo, "context", 576 + int(longest) + 2)
    rows = plans.executed(plans.planned(f"results={tmp_path / 'b'}", *RUN))
    assert rows[0].status == "failed"
    assert "context of" in rows[0].error


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_fail_the_document(tmp_path, monkeypatch, demo, value):
    calls = []

    def spoil(_module, _inputs, output):
        calls.append(1)
        if len(calls) == 2:
            output[0] = value
        return output

    hook = demo.model.lm_head.register_forward_hook(spoil)
    try:
        rows = plans.executed(
            plans.planned(f"results={tmp_path}", *RUN, "batch_size=1", "workers=1")
        )
    finally:
        hook.remove()
    assert rows[0].status == "failed"
    assert rows[0].failures == 1
    assert "the logits hold NaN or infinite values" in rows[0].error


@pytest.mark.usefixtures("loaded_once")
def test_a_tower_that_overflows_fails_the_image(tmp_path, monkeypatch, demo):
    see, calls = type(demo).see, []

    def overflowing(self, pixels, needs):
        captured = see(self, pixels, needs)
        if not calls:
            captured["projected"][0] = float("inf")
        calls.append(1)
        return captured

    monkeypatch.setattr(type(demo), "see", overflowing)
    rows = plans.executed(plans.planned(f"results={tmp_path}", *RUN))
    assert rows[0].failures == 1
    assert "document 0: complexity failed: ValueError: the visual tokens hold NaN" in rows[0].error


class OutOfMemory:
    """A device of 20 MB; a document's cache takes 4 MB, which lives as long as the call."""

    context = None

    def __init__(self):
        self.sizes, self.held = [], []

    def generate(self, prompts, visuals, limit, pruning=None):
        cache = torch.zeros(1000 * len(prompts), 1000)
        self.sizes.append((len(prompts), self.alive(cache)))
        if self.sizes[-1][1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [Generation("x", 1, (1,), (1,)) for _ in prompts]

    def alive(self, cache):
        self.held.append(weakref.ref(cache))
        return sum(r().numel() * 4 / 1e6 for r in self.held if r() is not None)


def test_after_an_out_of_memory_error_the_halves_have_the_memory(monkeypatch):
    """The failed batch's cache is gone before its halves are tried, and the size is remembered."""
    from types import SimpleNamespace as Fake

    from agilepruner.runner.generating import Generating

    adapter = OutOfMemory()
    work = Generating(adapter, limit=1, batch_size=32)
    prompts = [Fake(ids=[1], visual=[0] * 9, pruning=None, length=9) for _ in range(8)]
    done = work.generate(prompts)
    assert [size for size, _ in adapter.sizes] == [8, 4, 4]
    assert [result.problem for result in done] == [""] * 8
    assert [len(batch) for batch in work.batches(prompts)] == [4, 4]  # what fitted
    long = [Fake(ids=[1], visual=[0] * 99, pruning=None, length=99) for _ in range(2)]
    assert [len(batch) for batch in work.batches(long)] == [1, 1]


@pytest.mark.parametrize("part", ["select", "measure", "resize"])
def test_what_a_failed_part_held_is_gone_before_its_halves_are_tried(monkeypatch, part):
    """As generating, so selecting, measuring and encoding anew: none retries inside ``except``."""
    from types import SimpleNamespace as Fake

    from agilepruner.runner import encoding, selecting

    sizes, held = [], []

    def hungry(pictures):
        cache = torch.zeros(1000 * len(pictures), 100)
        held.append(weakref.ref(cache))
        sizes.append((len(pictures), sum(one() is not None for one in held)))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"select": pictures, "measure": (torch.ones(2), None), "resize": pictures}[part]

    tokens = Fake(batch=1, grid=(2, 2), count=4)
    pictures = [encoding.Picture(tokens, [Fake(image_key=str(i))]) for i in range(8)]
    seeing = encoding.Encoding(Fake(encode_at=lambda some, _: hungry(some)), None, frozenset(), 1)
    if part == "select":
        work = selecting.Selecting(Fake(tile_budget=lambda budget: budget), seeing)
        monkeypatch.setattr(work, "_selected", lambda _cell, some: hungry(some))
        cell = Fake(budget=1, id="")
        assert work._select(cell, pictures, []) == pictures
        assert [len(some) for some in work._alike(cell, pictures)] == [2, 2, 2, 2]  # what fitted
    elif part == "measure":
        monkeypatch.setattr(encoding, "_complexity", hungry)
        assert seeing._measure(pictures) == (pictures, [])
    else:
        done, failed = seeing._resize(pictures, (1, 1))
        assert (len(done), failed, seeing._most) == (8, [], 2)
    assert [size for size, _ in sizes] == [8, 4, 2, 2, 4, 2, 2]
    assert {alive for _, alive in sizes} == {1}

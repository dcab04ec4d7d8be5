"""The baseline that resizes the image: its grid, the tower's answer to it, a run, the audit."""

import pytest
import test_models_run as runs
import tiny_models as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from plans import composed
from torch.nn.functional import interpolate
from transformers import Qwen2VLImageProcessorPil

from agilepruner import flops
from agilepruner.cli import CONFIGS
from agilepruner.models.llava import LlavaAdapter
from agilepruner.models.llava_next import unpadded
from agilepruner.report.frames import entries_of
from agilepruner.runner.stored import rows_in
from agilepruner.strategies.base import keep_all
from agilepruner.strategies.baseline.resize import Resize

suite = runs.suite
side = st.integers(1, 60)


@given(own=st.tuples(side, side), budget=st.integers(1, 4000))
def test_no_larger_grid_of_the_shape_is_within_the_budget(own, budget):
    rows, columns = Resize().grid(own, budget)
    if budget >= own[0] * own[1]:
        assert (rows, columns) == own
        return
    assert 1 <= rows <= own[0]
    assert 1 <= columns <= own[1]
    assert rows * columns <= budget < (rows + 1) * (columns + 1)
    if own[0] == own[1]:
        assert rows == columns


def test_the_papers_budgets_of_a_square():
    grids = {budget: Resize().grid((24, 24), budget) for budget in (576, 128, 64, 32)}
    assert grids == {576: (24, 24), 128: (11, 11), 64: (8, 8), 32: (5, 5)}


@torch.inference_mode()
def test_llavas_tower_sees_a_smaller_image():
    """As transformers does it alone: the processor's size, interpolated position embeddings."""
    model, images = tiny.adapter("llava"), list(tiny.images())
    tokens = model.encode_at(images, (11, 11))
    edge = 11 * 14
    batch = type(model.image_processor)(
        do_pad=True, size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
    )(images=images, return_tensors="pt")
    assert batch["pixel_values"].shape[-2:] == (154, 154)
    tower = model.model.model.vision_tower
    output = tower(batch["pixel_values"], output_hidden_states=True, interpolate_pos_encoding=True)
    expected = model.model.model.multi_modal_projector(output.hidden_states[-2][:, 1:])
    assert torch.equal(torch.cat([t.projected for t in tokens]), expected)
    assert expected.shape[1] == 121


@torch.inference_mode()
def test_qwens_tower_sees_a_smaller_image():
    """As its processor does under a smaller pixel budget, where that gives the same grid."""
    model, image = tiny.adapter("qwen"), tiny.images()[0].resize((336, 336))
    (tokens,) = model.encode_at([image], Resize().grid((12, 12), 40))
    size = {"shortest_edge": 1, "longest_edge": 36 * 28**2}
    batch = Qwen2VLImageProcessorPil(size=size)(images=[image], return_tensors="pt")
    assert batch["image_grid_thw"].tolist() == [[1, 12, 12]]  # patches: 6 x 6 tokens
    expected = model.model.model.visual(batch["pixel_values"], batch["image_grid_thw"])
    assert torch.equal(tokens.projected[0], expected.pooler_output)
    assert tokens.grid == (6, 6)


@pytest.mark.parametrize("name", runs.MODELS)
def test_a_run_encodes_once_more_and_counts_what_the_smaller_tower_costs(name, suite, tmp_path):
    kind, _, budget, _, tiles = runs.MODELS[name]
    vanilla, resized = runs.run(name, kind, budget, "paper", suite, tmp_path, "resize")
    if kind == "smolvlm":  # text markers stay as well, and images of fewer tiles keep less
        assert resized.kept["max"] == vanilla.kept["max"] - 5 * (16 - 4)
    else:
        assert budget / 2 <= resized.kept["min"] <= resized.kept["max"] <= budget
    assert resized.flops["vision"] < vanilla.flops["vision"] / 3
    assert resized.complexity["erank_input"] == vanilla.complexity["erank_input"]
    if tiles == 1:  # else the one is of all tiles together, the other the mean over tiles
        assert resized.complexity["erank_kept"] < resized.complexity["erank_input"]
    if kind == "llava":
        arch = flops.Architecture.of(tiny.build(kind))
        assert resized.kept["mean"] == 25
        assert resized.flops["vision"] == flops.vision_flops(arch.at_grid(5, 5))
        more = ["budget=[576]", "name=whole"]
        vanilla, whole = runs.run(name, kind, budget, "paper", suite, tmp_path, "resize", more)
        assert whole.flops == vanilla.flops
        answers = [
            {(e.doc, e.answer) for e in entries_of(row, tmp_path / "results" / "whole").values()}
            for row in (vanilla, whole)
        ]
        assert answers[0] == answers[1]


def test_another_grid_than_promised_is_no_score(suite, tmp_path, monkeypatch):
    encode_at = LlavaAdapter.encode_at
    monkeypatch.setattr(LlavaAdapter, "encode_at", lambda self, i, grid: encode_at(self, i, (4, 4)))
    with pytest.raises(AssertionError):
        runs.run("llava_1_5_7b", "llava", 32, "paper", suite, tmp_path, "resize")
    (row,) = [r for r in rows_in(tmp_path / "results" / "sweep") if r.strategy == "resize"]
    assert "encoded at 4 x 4 tokens, which is not the largest grid" in row.error


def test_what_cannot_be_encoded_fails_its_own_cell(suite, tmp_path, monkeypatch):
    def broken(self, images, grid):
        raise ValueError("no such grid")

    monkeypatch.setattr(LlavaAdapter, "encode_at", broken)
    with pytest.raises(AssertionError):
        runs.run("llava_1_5_7b", "llava", 32, "paper", suite, tmp_path, "resize")
    rows = {row.strategy: row for row in rows_in(tmp_path / "results" / "sweep")}
    assert rows["vanilla"].status == "done"
    assert "encoding at 5 x 5 tokens failed: ValueError: no such grid" in rows["resize"].error


@pytest.mark.parametrize(
    ("kind", "grid", "edge"),
    [
        ("next_paper", (11, 11), 154),
        ("next_native", (11, 11), 154),
        ("onevision", (2, 2), 28),
        ("internvl", (3, 3), 84),
        ("smolvlm", (2, 2), 56),
    ],
)
@torch.inference_mode()
def test_every_tile_is_made_smaller(kind, grid, edge):
    """The cut and its order stay; a tile is its own picture, resized."""
    model, images = tiny.adapter(kind), list(tiny.images())
    assert "resolution" in model.provides
    for whole, small, image in zip(
        model.encode(images, frozenset()), model.encode_at(images, grid), images
    ):
        assert (small.grid, small.batch, small.count) == (grid, whole.batch, grid[0] * grid[1])
        assert small.seeds == whole.seeds
        assert model.layout(small, image) == model.layout(whole, image)
        pixels = model.pixels(model.prepare(image))
        smaller = interpolate(pixels.float(), (edge, edge), mode="bicubic", antialias=True)
        assert torch.equal(small.projected, model.see(smaller, frozenset())["projected"])
        visual = model.embed(small, keep_all(small))
        assert not visual.pruned
        assert len(visual) == model.offered(small)
        order = getattr(small, "order", torch.arange(small.batch * small.count))
        assert sorted(order[order >= 0].tolist()) == sorted(set(order[order >= 0].tolist()))


def test_smaller_tiles_are_packed_as_transformers_packs_whole_ones():
    model = tiny.adapter("next_native")
    for width, height in [(336, 336), (700, 300), (300, 1000), (640, 480), (50, 900)]:
        size = torch.tensor([height, width])
        shape = model._shape(size)
        expected = model.order(1 + shape[0] * shape[1], size, model.grid)
        assert torch.equal(unpadded(shape, model.grid, size), expected)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "table").glob("*.yaml")))
def test_tables_of_real_models_have_every_baseline(name):
    """The resized image as well, where boxes are not in its pixels."""
    config = composed(f"table={name}")
    if config.model.name == "demo" and name != "baselines":
        return
    expected = {"random", "uniform", "pooling", "resize"}
    if name == "qwen2_5_vl_7b_grounding":
        expected.remove("resize")
    assert expected <= set(config.strategy)

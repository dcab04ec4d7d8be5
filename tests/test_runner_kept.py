"""A journal says which patches an answer was given: as they were, in few bytes."""

from dataclasses import replace

import pytest
import torch
from plans import executed, loaded, planned

from agilepruner.config import build_strategies
from agilepruner.models.base import Visual
from agilepruner.report.frames import kept_of
from agilepruner.runner.kept import NONE, read, recorded, shares, with_stages
from agilepruner.strategies.base import Selection, VisualTokens, keep, phases_of


def tokens(tiles=1, grid=(4, 5)):
    return VisualTokens(grid, features=torch.randn(tiles, grid[0] * grid[1], 3))


def seen(selection, count):
    offsets = torch.arange(len(selection.indices))[:, None] * count
    anchors = (selection.indices + offsets).flatten()
    return Visual(torch.zeros(len(anchors), 2), anchors, len(selection.indices) * count)


def test_a_plain_selection_of_several_tiles_comes_back():
    chosen = torch.tensor([[7, 0, 19], [3, 4, 1]])
    selection = keep(chosen, phases_of([1, 2]))
    said = recorded(tokens(2), selection, seen(selection, 20))
    kept = read(said, 40)
    assert kept.patches == [0, 7, 19, 21, 23, 24]
    assert kept.phases == [1, 0, 1, 1, 0, 1]
    assert kept.joined == []
    assert shares([said, None], ["first", "second"]) == pytest.approx(
        {"first": 1 / 3, "second": 2 / 3}
    )


def test_every_patch_takes_no_bytes():
    every = keep(torch.arange(20)[None])
    assert recorded(tokens(), every, seen(every, 20)) is None
    assert read(None, 20).patches == list(range(20))


def test_what_merges_says_where_each_patch_went():
    weights = torch.zeros(2, 3, 21)  # two tiles, the last column is CLS
    weights[0, 0, 20] = weights[0, 1, 5] = weights[0, 2, 6] = 1
    weights[0, 2, 7], weights[0, 1, 7] = 0.6, 0.4
    weights[1, 0, 2] = 1
    selection = Selection(torch.tensor([[20, 5, 6], [2, -1, -1]]), weights)
    kept = read(recorded(tokens(2), selection, seen(selection, 20)), 40)
    assert kept.patches == [NONE, 5, 6, 22]
    expected = [NONE] * 40
    expected[5], expected[6], expected[7], expected[22] = 1, 2, 2, 3
    assert kept.joined == expected


def test_tokens_that_show_nothing_are_none():
    selection = Selection(torch.arange(20)[None], torch.zeros(1, 20, 20))
    assert read(recorded(tokens(), selection, seen(selection, 20)), 20).patches == []


def test_stages_are_of_the_patches_or_of_the_merged_tokens():
    every = keep(torch.arange(20)[None])
    said = with_stages(None, [[0, 2, 19], [2]], seen(every, 20), 20)
    assert read(said, 20).stages == [[0, 2, 19], [2]]
    some = keep(torch.tensor([[3, 9, 12]]))
    said = with_stages(recorded(tokens(), some, seen(some, 20)), [[1]], seen(some, 20), 20)
    assert read(said, 20).left == [9]
    mixed = Selection(torch.tensor([[9, 3]]), torch.ones(1, 2, 20))
    said = with_stages(recorded(tokens(), mixed, seen(mixed, 20)), [[1]], seen(mixed, 20), 20)
    assert read(said, 20).stages == [[1]]


def test_a_damaged_record_is_refused():
    with pytest.raises(ValueError, match="bytes for 20 patches"):
        read({"bits": "AA=="}, 20)


STRATEGIES = "[agilepruner,vispruner_erank,visionzip,prumergeplus,fastv,vscan_full]"


@pytest.mark.usefixtures("loaded_once")
def test_selecting_again_gives_what_the_journal_says(tmp_path, demo):
    run = planned(
        f"strategy={STRATEGIES}",
        "benchmark=[pope]",
        "budget=[128]",
        "limit=2",
        f"results={tmp_path}",
    )
    rows = executed(run)
    settings = run.config["benchmark"]["pope"]
    benchmark = loaded("pope", settings, run.config["suite"], "lmms", 1)
    (document,) = benchmark.documents
    image, _ = benchmark.image(document)
    (encoded,) = demo.encode([image], demo.provides)
    strategies = dict(build_strategies(run.config["strategy"]))
    for row in rows:
        kept = kept_of(row, run.directory)[document.index]
        if row.strategy == "vanilla":
            assert kept.patches == list(range(encoded.count))
            continue
        strategy = strategies[row.strategy]
        selection = strategy(replace(encoded, shared=None), row.budget)
        indices = selection.indices[0].masked_fill(selection.indices[0] >= encoded.count, NONE)
        assert kept.patches == indices[selection.indices[0] >= 0].tolist(), row.strategy
        if selection.phases is not None:
            assert kept.phases == selection.phases[0].tolist()
            assert set(row.phases) == set(strategy.phases)
            assert sum(row.phases.values()) == pytest.approx(1)
        assert bool(kept.joined) == strategy.merges
        sizes = [len(kept.patches), *map(len, kept.stages)]
        assert sizes[0] == row.kept["max"]
        if strategy.inside:
            assert sizes[-1] < sizes[0]
            assert set(kept.stages[-1]) <= set(range(sizes[0]))

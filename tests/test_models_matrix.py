"""Every strategy on every adapter: what the language model gets is what the selection says."""

import pytest
import tiny_models as tiny
import torch
from strategy_configs import ALL, BEFORE_LLM

from agilepruner.errors import UserError
from agilepruner.models.base import split, stack
from agilepruner.strategies.base import keep_all

BUDGET = {"llava": 32, "next_paper": 160, "next_native": 160, "qwen": 24, "onevision": 40}
BUDGET |= {"qwen3": 24, "internvl": 40, "smolvlm": 40}


@pytest.fixture(scope="module", params=tiny.KINDS)
def encoded(request):
    model = tiny.adapter(request.param)
    count = 1 if request.param.startswith("next") else 2  # thousands of tokens each
    return request.param, model, model.encode(tiny.images()[:count], model.provides)


@pytest.mark.parametrize("name", sorted(BEFORE_LLM))
def test_every_strategy_on_every_adapter(encoded, name):
    kind, model, tokens = encoded
    strategy = BEFORE_LLM[name]
    budget = BUDGET[kind]
    if lacking := sorted(set(strategy.needs) - model.provides):
        with pytest.raises(UserError, match=f"'{lacking[0]}' is needed but was not captured"):
            strategy(tokens[0], model.tile_budget(budget))
        return
    visuals = []
    for one in tokens:
        selection = strategy(one, model.tile_budget(budget))
        visuals.append(model.embed(one, selection))
    for one, visual in zip(tokens, visuals):
        assert visual.embeds.shape == (len(visual.anchors), model.config.text_config.hidden_size)
        assert torch.isfinite(visual.embeds).all()
        if strategy.merges:
            continue
        if not strategy.budgeted:
            assert len(visual) == model.offered(one)
        elif model.exact_budget:
            assert len(visual) == one.batch * model.tile_budget(budget)
        assert visual.anchors.tolist() == sorted(set(visual.anchors.tolist()))
        whole = model.embed(one, keep_all(one)).embeds
        assert torch.equal(visual.embeds, whole[visual.anchors])
    prompts = [model.tokenize(question) for question in tiny.QUESTIONS]
    for visual, answer in zip(visuals, model.generate(prompts, visuals, 3)):
        assert set(answer.visual) == {len(visual)}


@pytest.mark.parametrize("name", ["agilepruner", "vscan"])  # one selects, one mixes projected
def test_images_of_one_shape_are_selected_together_as_alone(encoded, name):
    """The runner stacks images of equal grids; NeXT's tiles go to their own image again."""
    kind, model, _ = encoded
    strategy = BEFORE_LLM[name]
    pictures = [tiny.images()[0], tiny.images()[0].transpose(0)]
    tokens = model.encode(pictures, model.provides)
    share = model.tile_budget(BUDGET[kind])
    together = split(strategy(stack(tokens), share), [t.batch for t in tokens])
    for one, selection in zip(tokens, together):
        alone = strategy(one, share)
        assert torch.equal(selection.indices, alone.indices)
        seen, expected = model.embed(one, selection).embeds, model.embed(one, alone).embeds
        torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)
        if alone.projected:
            mixed = (alone.weights @ one.projected).flatten(0, 1)
            merged = tiny.of_patches(model.embed(one, alone))
            torch.testing.assert_close(merged, mixed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(name for name, s in ALL.items() if s.inside))
def test_pruning_inside_the_language_model_on_every_adapter(encoded, name):
    """All tokens enter, fewer arrive at the second layer, and a batch is as its documents alone."""
    _, model, tokens = encoded
    strategy = ALL[name]
    prompts = [model.tokenize(question) for question in tiny.QUESTIONS[: len(tokens)]]
    visuals = [model.embed(one, keep_all(one)) for one in tokens]
    for prompt, visual in zip(prompts, visuals):
        pruning = (strategy, 3 * len(visual) // 4)
        together = model.generate([prompt, prompt], [visual, visual], 3, pruning)
        (alone,) = model.generate([prompt], [visual], 3, pruning)
        first, second, *_ = alone.visual
        assert first == len(visual)
        assert 0 < second < first
        assert [answer.text for answer in together] == [alone.text] * 2

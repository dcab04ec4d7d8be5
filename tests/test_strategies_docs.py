"""The documentation of strategies says what the code does, and its example works."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import test_strategies_properties as properties
from strategy_configs import ALL, NAMES, build, random_tokens

from agilepruner.strategies.base import keep, top

DOCS = Path(__file__).parents[1] / "docs"
MATRIX = [
    properties.test_says_what_it_is,
    properties.test_keeps_what_it_was_asked_for,
    properties.test_a_batch_is_its_images_one_at_a_time,
    properties.test_reordering_the_patches_reorders_the_selection,
    properties.test_duplicates_and_zeros_still_meet_the_budget,
    properties.test_nan_and_wrong_shapes_are_refused_with_the_shape,
]


def test_the_example_is_one_file_one_yaml_and_passes_the_shared_tests(monkeypatch, tmp_path):
    text = (DOCS / "adding-a-strategy.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20

    target = re.search(r"_target_: (\S+)\.Outliers", config)[1]
    module = ModuleType(target)
    monkeypatch.setitem(sys.modules, target, module)
    exec(compile(code, "docs/adding-a-strategy.md", "exec"), module.__dict__)
    (tmp_path / "outliers.yaml").write_text(config)
    strategy = build("outliers", tmp_path)

    tokens = random_tokens(0, 2, (5, 5))
    away = (tokens.projected - tokens.projected.mean(dim=1, keepdim=True)).norm(dim=2)
    assert strategy(tokens, 7).indices.tolist() == keep(top(away, 7)).indices.tolist()

    monkeypatch.setitem(properties.BEFORE_LLM, "outliers", strategy)
    monkeypatch.setitem(properties.ALL, "outliers", strategy)
    monkeypatch.setattr(properties, "FOLDER", tmp_path)
    for promise in MATRIX:
        promise("outliers")


def facts(name):
    """The columns of a strategy's row that its class attributes decide."""
    strategy = ALL[name]
    paper = f"[{strategy.paper}](https://arxiv.org/abs/{strategy.paper})" if strategy.paper else ""
    text = "yes" if "text_embeds" in strategy.needs or strategy.family == "decoder" else ""
    cls = "yes" if {"attention", "cls", "last_query"} & set(strategy.needs) else ""
    kind = "merges" if strategy.merges else "selects"
    return [f"`{name}`", strategy.label, strategy.family, paper, kind, text, cls], strategy.choice


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_every_strategy(name):
    columns, choice = facts(name)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (DOCS.parent / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{name}` |")
    ]
    assert len(rows) == 1, f"README.md needs the row | {' | '.join(columns)} |"
    assert rows[0][:7] == columns
    assert rows[0][7], "say where its golden vectors come from, or that there are none"
    assert rows[0][8] == choice

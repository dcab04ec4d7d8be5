"""A cell's identity is what changes its answers, and nothing else."""

import dataclasses
import importlib.util
import sys

from agilepruner.runner.cells import (
    Cell,
    _modules_behind,
    code_digest,
    directory_digest,
    file_digest,
)

from agilepruner.strategies.adaptive.agilepruner import AgilePruner
from agilepruner.strategies.diversity.divprune import DivPrune

CONTEXT = {"model": {"name": "demo", "weights": "1"}, "protocol": {"name": "lmms"}}


def cell(**changes):
    given = {
        "strategy_name": "agilepruner",
        "strategy": AgilePruner(),
        "budget": 64,
        "benchmark": "pope",
        "context": CONTEXT,
    }
    return Cell(**{**given, **changes})


def test_identity_is_stable_and_complete():
    assert cell().id == cell().id
    changed = [
        cell(budget=32),
        cell(benchmark="gqa"),
        cell(strategy=DivPrune()),
        cell(strategy=dataclasses.replace(AgilePruner(), tau_max=0.3)),
        cell(context={**CONTEXT, "limit": 5}),
        cell(context={**CONTEXT, "model": {"name": "demo", "weights": "2"}}),
    ]
    assert len({c.id for c in [cell(), *changed]}) == len(changed) + 1


def test_the_config_name_is_not_part_of_the_identity():
    assert cell(strategy_name="other").id == cell().id


def test_code_counts_and_comments_do_not(tmp_path):
    path = tmp_path / "probe_strategy.py"

    def digest(source):
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("probe_strategy", path)
        sys.modules["probe_strategy"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        code_digest.cache_clear()
        return code_digest("probe_strategy")

    try:
        one = digest('"""Doc."""\nX = 1\n')
        assert digest('"""Other words."""\n# a comment\nX = 1\n') == one
        assert digest('"""Doc."""\nX = 2\n') != one
        used = digest("from agilepruner.complexity import effective_rank\nX = 1\n")
        assert used != digest("from agilepruner.complexity import attention_entropy as a\nX = 1\n")
    finally:
        del sys.modules["probe_strategy"]
        code_digest.cache_clear()


def test_the_code_of_a_strategy_is_all_it_computes_with():
    importlib.import_module("agilepruner.strategies.adaptive.agilepruner")
    behind = _modules_behind("agilepruner.strategies.adaptive.agilepruner")
    names = {name.removeprefix("agilepruner.") for name in behind}
    assert names >= {"strategies.adaptive.agilepruner", "complexity", "linalg"}


def test_digests_follow_content_not_names_of_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    one, two = (directory_digest(tmp_path / folder, ["*.json"]) for folder in ("a", "b"))
    assert one == two
    (tmp_path / "b" / "config.json").write_text('{"x": 1}')
    assert directory_digest(tmp_path / "b", ["*.json"]) != one
    assert file_digest(tmp_path / "a" / "config.json") != file_digest(tmp_path / "b/config.json")

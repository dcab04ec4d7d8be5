"""Adding a strategy is one file and one YAML, and the README's table says what the code does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from strategy_configs import ALL
from tiny_models import KINDS

from scripts import strategy_table

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = dict(
    re.findall(
        r"^`(\S+)`\n\n```\w+\n(.*?)```",
        (ROOT / "docs/adding-a-strategy.md").read_text(encoding="utf-8"),
        re.M | re.S,
    )
)
# What the example's file and YAML enter by being there.
ENTERED = [
    "tests/test_strategies_properties.py",
    "tests/test_models_matrix.py",
    "tests/test_strategies_docs.py::test_the_table_has_every_strategy_once",
    "tests/test_cli.py::test_every_option_of_every_group_composes",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """This checkout with the example of docs/adding-a-strategy.md, and nothing else changed."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("agilepruner", "configs", "docs", "scripts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("evals", "results"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines(keepends=True)
    before = [line for line in lines if not line.startswith("| `outliers` |")]  # already added
    (folder / "README.md").write_text("".join(before), encoding="utf-8")
    for name, content in EXAMPLE.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def python(tree, *arguments):
    """Run in the tree, with the tree's own code."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )


def test_the_example_is_one_file_and_one_yaml():
    code, config = EXAMPLE
    assert code.endswith(".py")
    assert config.endswith(".yaml")
    assert len([line for line in EXAMPLE[code].splitlines() if line.strip()]) <= 20


def test_the_example_passes_the_tests_of_every_strategy(tree):
    select = "outliers or every_option or every_strategy_once"
    done = python(tree, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", select, *ENTERED)
    assert done.returncode == 0, done.stdout
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line and "outliers" in line]
    assert sum("test_strategies_properties.py" in line for line in passed) >= 8
    assert sum("on_every_adapter" in line for line in passed) == len(KINDS)


def test_the_example_runs_and_stands_in_the_readme_after_make_docs(tree):
    run = python(tree, "-m", "agilepruner", "strategy=[divprune,outliers]", "dry_run=true")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^pope +outliers +64", run.stdout, re.M)

    stale = python(tree, "scripts/strategy_table.py", "--check")
    assert stale.returncode == 1
    assert "run `make docs`" in stale.stderr
    assert python(tree, "scripts/strategy_table.py").returncode == 0
    assert python(tree, "scripts/strategy_table.py", "--check").returncode == 0
    expected = "| `outliers` | Outliers | diversity |  | selects |  |  | no released code |  |"
    assert expected in (tree / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_table_has_every_strategy_once():
    page = strategy_table.renewed(
        "# Page\n<!-- strategies:begin -->\nyesterday\n<!-- strategies:end -->\nend\n",
        strategy_table.strategies(strategy_table.CONFIGS / "strategy"),
    )
    assert "yesterday" not in page
    assert page.startswith("# Page\n")
    assert page.endswith("<!-- strategies:end -->\nend\n")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line[:3] == "| `"]
    assert sorted(name.strip("`") for name, *_ in rows) == sorted(ALL)
    assert rows[0][:3] == ["`vanilla`", "Vanilla", "baseline"]
    for name, label, family, *_ in rows:
        strategy = ALL[name.strip("`")]
        assert (label, family) == (strategy.label, strategy.family)


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(ValueError, match="strategies:begin"):
        strategy_table.renewed("# Page\n", ALL)

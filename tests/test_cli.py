"""The command line: every config composes, and a mistake gets one clear sentence."""

import commands
import pytest
from plans import composed, planned

from agilepruner.cli import CONFIGS
from agilepruner.errors import UserError
from agilepruner.runner.plan import identify


def options(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "group", ["model", "suite", "strategy", "benchmark", "table", "analysis", "logger"]
)
def test_every_option_of_every_group_composes(group):
    assert options(group)
    if group in ("strategy", "benchmark"):
        config = composed(f"{group}=[{','.join(options(group))}]")
        assert sorted(config[group]) == options(group)
    else:
        for name in options(group):
            assert composed(f"{group}={name}")


def test_lists_share_one_run_and_vanilla_comes_first():
    run = planned("strategy=[divprune,agilepruner]", "budget=[32,64]")
    cells = [(cell.strategy_name, cell.budget) for cell in run.cells]
    assert cells[0] == ("vanilla", 576)
    assert sorted(cells[1:]) == [
        ("agilepruner", 32),
        ("agilepruner", 64),
        ("divprune", 32),
        ("divprune", 64),
    ]
    assert len({cell.id for cell in identify(run).cells}) == 5


def test_a_parameter_reaches_the_strategy():
    run = planned("strategy=agilepruner", "strategy.agilepruner.tau_max=0.3")
    assert run.cells[-1].strategy.tau_max == 0.3


def test_the_main_table_is_sixteen_rows_by_ten_columns():
    """Random's three are of three seeds each."""
    assert len(planned("table=main").cells) == 160 + 2 * 3 * 10
    assert len(planned("table=main", "strategy.random.seed=0").cells) == 160


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["budget=0"], "budget=0, expected an integer from 1"),
        (["budget=-3"], "budget=-3, expected an integer from 1"),
        (["budget=6.5"], "budget=6.5, expected an integer"),
        (["budget=577"], "576 visual tokens"),
        (["budget=[]"], "not empty"),
        (["limit=0"], "limit=0"),
        (["protocol=lmm"], "Did you mean 'lmms'"),
        (["suite=local", "suite.directory=/does/not/exist"], "does not exist"),
        (["model.load.path=/does/not/exist"], "does not exist"),
        (["strategy=cdpruner"], "needs image_embeds"),
        (["reference=divprun"], "Unknown reference 'divprun'.*Known: agilepruner, best, vanilla"),
        (["margins.average=-1"], "margins.average=-1, expected a number from 0 to 100"),
        (["noise=32"], "noise=32 is the batch_size of the first answers"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(overrides, words):
    with pytest.raises(UserError, match=words):
        planned(*overrides)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["strategy=[divprun]"], "Unknown strategy 'divprun'. Did you mean 'divprune'?"),
        (["benchmark=popee"], "Unknown benchmark 'popee'. Did you mean 'pope'?"),
        (["table=mian"], "Unknown table 'mian'. Did you mean 'main'?"),
        (["budgett=64"], "Unknown setting 'budgett'. Did you mean 'budget'?"),
        (["strategy.agilepruner.taumax=1"], "Did you mean 'strategy.agilepruner.tau_max'?"),
        (["budget=0"], "budget=0, expected an integer from 1"),
        (["audit-papr"], "Did you mean the command 'audit-paper'?"),
    ],
)
def test_a_typo_says_what_was_meant_exits_2_and_writes_nothing(tmp_path, arguments, words):
    done = commands.run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_is_worth_reading(tmp_path):
    done = commands.run("--help", cwd=tmp_path)
    assert done.returncode == 0
    for words in ("strategy=[divprune,fastervlm]", "budget", "fastervlm", "table: ", "continues"):
        assert words in done.stdout

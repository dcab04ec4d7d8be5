"""Arguments that mean nothing are refused before anything is loaded, in one sentence that helps."""

import math
import re
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Literal, get_args, get_origin, get_type_hints

import commands
import pytest
from hydra import compose, initialize_config_dir
from strategy_configs import ALL, random_tokens

from agilepruner import config as schema
from agilepruner import strategies as package
from agilepruner.cli import CONFIGS
from agilepruner.config import check
from agilepruner.errors import UserError
from agilepruner.overrides import explain
from agilepruner.ranges import Range, Rule, conform, declared
from agilepruner.runner.plan import plan
from agilepruner.strategies.adaptive.erank_share import ErankShare
from agilepruner.strategies.adaptive.vispruner import VisPruner
from agilepruner.strategies.base import NEEDS, Strategy
from agilepruner.strategies.decoder.pyramiddrop import PyramidDrop
from agilepruner.strategies.decoder.schedule import DecoderStrategy, average


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("config", overrides=list(overrides))


def refusal(*overrides):
    """The sentence that a config is refused with."""
    with pytest.raises(UserError) as caught:
        check(composed(*overrides))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# Hyper-parameters


def strategies():
    """Every strategy class of the package."""
    for module in walk_packages(package.__path__, "agilepruner.strategies."):
        for found in vars(import_module(module.name)).values():
            if isinstance(found, type) and issubclass(found, Strategy) and "family" in dir(found):
                yield found


def ranges(kind):
    """Every range in a declaration, at any depth."""
    found = [part for part in getattr(kind, "__metadata__", ()) if isinstance(part, Range)]
    return found + [r for part in get_args(kind) for r in ranges(part)]


STRATEGIES = sorted(set(strategies()), key=lambda cls: cls.__name__)
PARAMETERS = [(cls, f.name) for cls in STRATEGIES if hasattr(cls, "label") for f in fields(cls)]


def made(cls):
    """A strategy of the class, with its defaults; those that hold another one hold VisPruner."""
    inner = (VisPruner(),) if "inner" in {f.name for f in fields(cls)} else ()
    return cls(*inner, low=0, high=1) if cls is ErankShare else cls(*inner)


def test_every_strategy_is_looked_at():
    assert {type(strategy) for strategy in ALL.values()} <= set(STRATEGIES)
    assert len(PARAMETERS) >= 20


@pytest.mark.parametrize(("cls", "name"), PARAMETERS)
def test_every_hyper_parameter_has_a_range_and_keeps_it(cls, name):
    kind, strategy = declared(cls)[name], made(cls)
    default = getattr(strategy, name)
    wrong = ["0.5", "", object(), {}, math.nan, math.inf, -math.inf]
    if default is not None:
        wrong.append(None)
    if isinstance(default, bool):
        wrong += [0, 1]
    elif isinstance(default, Strategy):
        wrong += [VisPruner, 1]
    elif get_origin(kind) is Literal:
        wrong += [True, 1, [default]]
    else:
        assert ranges(kind), f"{cls.__name__}.{name} declares no range"
        (allowed,) = ranges(kind)
        low, high = allowed.low, allowed.high
        assert math.isfinite(low)
        assert math.isfinite(high)
        several = isinstance(default, tuple)
        wrong += [True, False, low - 1, high + 1, 10**400, -1e300]
        wrong += [[], [high, low], [low, low], [math.nan], [low, high + 1], [True], ["a"]]
        for edge in (low, high):
            good = [edge] if several else edge
            kept = getattr(replace(strategy, **{name: good}), name)
            assert kept == ((edge,) if several else edge)
            assert default is None or type(kept) is type(default)
    for value in wrong:
        with pytest.raises(UserError, match=rf"^{cls.__name__}\.{name}.*=.*, expected "):
            replace(strategy, **{name: value})


@pytest.mark.parametrize(("cls", "name"), PARAMETERS)
def test_what_a_range_allows_can_be_run(cls, name):
    tokens = random_tokens(0, 2, (6, 6))
    for value in (edge for r in ranges(declared(cls)[name]) for edge in (r.low, r.high)):
        several = isinstance(getattr(made(cls), name), tuple)
        strategy = replace(made(cls), **{name: [value] if several else value})
        if isinstance(strategy, DecoderStrategy):
            assert average(strategy.plan(32, 576, 570), 32, 576) <= 570
        for budget in (1, 9, 35) if strategy.budgeted else ():
            indices = strategy(tokens, budget).indices
            assert indices.shape == (2, budget + strategy.extra)


def test_the_refusal_names_strategy_parameter_value_range_and_default():
    message = refusal("strategy.agilepruner.tau_max=nan")
    assert message == (
        "strategy.agilepruner.tau_max=nan, expected a number from 0 to 2 (default 0.25)."
    )


def test_a_strategy_inside_a_strategy_is_checked_where_it_stands():
    inner = ["strategy=bat_erank", "strategy.bat_erank.inner.matched=2"]
    assert refusal(*inner).startswith("strategy.bat_erank.inner.matched=2, expected")
    assert "missing" in refusal("strategy=bat_erank", "~strategy.bat_erank.inner")
    assert "share" in refusal(
        "strategy=bat_erank",
        "strategy.bat_erank.inner._target_=agilepruner.strategies.attention.fastervlm.FasterVLM",
        "~strategy.bat_erank.inner.matched",
    )
    with pytest.raises(UserError, match=r"low=0\.9 is more than high=0\.1"):
        ErankShare(VisPruner(), low=0.9, high=0.1)


def test_equal_hyper_parameters_are_one_strategy_however_they_are_written():
    assert PyramidDrop([0, 0.5]) == PyramidDrop((0.0, 0.5))
    assert replace(VisPruner(), share=1) == VisPruner(share=1.0)
    assert isinstance(VisPruner(share=1).share, float)


# Settings

LONG = "x" * 65
GENERATION = "benchmark.pope.protocols.paper.overrides.generation_kwargs"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # names and places
        ("name=../x", "name='../x', expected a text"),
        ("name=a/b", "without / or backslash"),
        ("name=/tmp/x", "without / or backslash"),
        (r"name='a\\b'", "without / or backslash"),
        ("name=''", "name='', expected"),
        ("name=.", "not . or .."),
        ("name=..", "not . or .."),
        ("name=null", "name=null, expected a text"),
        ("name=true", "name=\"'true'\""),
        ("name=1.5", "name=\"'1.5'\""),
        ("name=[a]", "expected a text"),
        (f"name='{'ü' * 150}'", "expected a text"),
        ("~name", "name is missing"),
        ("results=''", "results='', expected a text naming a directory"),
        ("results=null", "expected a text naming a directory"),
        ("results='~/x'", "with ~ written out"),
        ("results=/dev/null/x", "/dev/null is no directory"),
        (f"results={'x' * 300}", "expected a text naming a directory"),
        # numbers
        ("batch_size=0", "batch_size=0, expected an integer from 1"),
        ("batch_size=true", "batch_size=true, expected an integer"),
        ("batch_size=2.5", "expected an integer"),
        ("batch_size='4'", "batch_size='4', expected an integer"),
        ("batch_size=nan", "expected an integer"),
        ("batch_size=null", "expected an integer"),
        ("batch_size=[4]", "expected an integer"),
        ("batch_size=99999999999999999999", "from 1 to 10,000"),
        ("images_per_window=0", "expected an integer from 1"),
        ("images_per_window=inf", "expected an integer from 1"),
        ("workers=-1", "expected an integer from 1 to 1,000, or null"),
        ("workers=2.0", "or null"),
        ("limit=true", "limit=true, expected an integer"),
        ("limit=''", "limit='', expected an integer"),
        ("limit=[1]", "limit=[1], expected an integer"),
        ("vanilla=1", "expected true or false"),
        ("dry_run=null", "expected true or false"),
        ("protocol=lmm", "Did you mean 'lmms'?"),
        ("protocol=null", "expected one of lmms, paper"),
        # budgets
        ("budget=null", "e.g. budget=64"),
        ("budget=true", "budget=true, expected an integer"),
        ("budget=[64,true]", "budget[1]=true, expected an integer"),
        ("budget=[[64]]", "budget[0]=[64]"),
        ("budget=['64']", "budget[0]='64'"),
        ("budget=64.0", "budget=64.0, expected an integer"),
        ("budget=[]", "not empty"),
        ("~budget", "budget is missing"),
        # a model
        ("model.load.dtype=fp16", "Did you mean 'float16'?"),
        ("model.load.dtype=null", "expected one of float32"),
        ("model.load.device=gpu", "like auto, cpu, cuda"),
        ("model.load.device=cuda:99", "torch can use"),
        ("model.load.attention=flsh_attention_2", "Did you mean 'flash_attention_2'?"),
        ("model.load.prompt=hi", "with {question} once"),
        ("model.load.prompt='{question}'", "<image>"),
        ("model.load.prompt='<image> <image> {question}'", "expected the image once"),
        ("model.load.path=''", "expected a text naming"),
        ("model.load.path=/does/not/exist", "does not exist"),
        ("model.load.path='a b'", "hub name"),
        (f"model.load.path='{CONFIGS}'", "no config.json"),
        ("model.load.revision=1.5", "\"'1.5'\""),
        ("model.load.image_processor=3", "expected a mapping"),
        ("+model.load.image_processor.type=CLIPImageProcesorPil", "Did you mean 'CLIP"),
        ("+model.load.geometry=paper", "Unknown setting 'model.load.geometry'"),
        ("model.load._target_=agilepruner.models.llava.laod", "Did you mean 'load'?"),
        ("model.load._target_=agilepruner.models.lava.load", "of a module that exists"),
        ("model.load=3", "model.load=3, expected settings"),
        ("~model.load", "model.load is missing"),
        ("model.visual_tokens=0", "expected an integer from 1"),
        ("model.decoder_layers=nan", "expected an integer"),
        ("model.max_new_tokens=-1", "or null"),
        ("model.erank_avg=0", "model.erank_avg=0, expected a number from 1"),
        ("model.mme=totl", "Did you mean 'total'?"),
        ("model.provides=[foo]", "model.provides[0]='foo'"),
        ("+model.tile=5", "Did you mean 'model.tiles'?"),
        (f"model.name={LONG}", "1 to 64"),
        (f"suite.name={LONG}", "1 to 64"),
        # a suite, a logger
        ("suite.kind=hubb", "Did you mean 'hub'?"),
        ("suite.directory=null", "does not exist"),
        ("suite=local", "suite.directory has no value yet"),
        ("logger.kind=wand", "Did you mean 'wandb'?"),
        ("logger.kind=wandb", "Choose logger=wandb"),
        ("logger=wandb logger.mode=onlin", "Did you mean 'online'?"),
        ("logger=wandb logger.project=a/b", "without / "),
        (f"logger=wandb logger.group={'x' * 129}", "1 to 128"),
        (f"logger=wandb name={'x' * 129}", "logger.group"),
        ("+x=1", "Unknown setting 'x'"),
        # strategies
        ("strategy=[]", "strategy is empty: choose at least one"),
        ("strategy.agilepruner=null", "expected a mapping of settings"),
        ("strategy.agilepruner._target_=os.system", "is not a strategy"),
        ("strategy.agilepruner._target_=agilepruner", "like package.module.name"),
        ("+strategy.mine.x=1", "strategy.mine._target_=null, expected"),
        ("strategy.agilepruner._target_=.foo.Bar", "package.module.name"),
        ("strategy.agilepruner.tau_max={a:1}", "tau_max"),
        ("+strategy.agilepruner.taumax=1", "Did you mean 'strategy.agilepruner.tau_max'?"),
        ("strategy.agilepruner.erank_avg='${foo}'", "cannot be filled in"),
        # benchmarks
        ("benchmark=[]", "benchmark is empty: choose at least one"),
        ("benchmark.pope=null", "expected settings"),
        ("benchmark.pope.label=null", "expected a text"),
        ("~benchmark.pope.protocols", "protocols is missing"),
        ("benchmark.pope.protocols.lmms.task=pope/popee.yaml", "e.g. pope/pope.yaml"),
        ("~benchmark.pope.protocols.lmms.headline", "headline is missing"),
        ("benchmark.pope.protocols.lmms.headline.scale=0", "expected a number from 0.001"),
        ("+benchmark.pope.protocols.lmms.headline.multiplyer=2", "headline.multiplier'?"),
        ("+benchmark.pope.protocols.lmms.unit_score=evals.metrics.popee", "Did you mean 'pope'"),
        ("+benchmark.pope.labell=x", "Did you mean 'benchmark.pope.label'?"),
        ("suite=hub ~benchmark.pope.hub", "has no data set on the hub"),
        ("suite=hub benchmark.pope.hub.size=0", "expected an integer from 1"),
        (f"{GENERATION}.do_sample=true", "answers are greedy"),
        (f"{GENERATION}.temperature=0.7", "answers are greedy"),
        (f"{GENERATION}.max_new_tokens=0", "expected an integer from 1"),
        (f"+{GENERATION}.top_p=0.7", "Unknown setting"),
        ("benchmark=vqav2_testdev", "has no protocol 'lmms'"),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_what_was_expected(overrides, words):
    assert words in refusal(*split(overrides))


def split(overrides):
    """Overrides of a line; a space inside quotes is none between them."""
    parts, quoted = [""], False
    for character in overrides:
        quoted ^= character == "'"
        if character == " " and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


WRONG = ["null", "true", "[]", "{a: 1}", "nan", "-1", "''", "99999999999999999999999"]


def scalars(node, path=""):
    """Dotted names of every value of a config."""
    for key, value in node.items():
        name = f"{path}{key}"
        if isinstance(value, dict) and value:
            yield from scalars(value, f"{name}.")
        yield name


@pytest.mark.parametrize("value", WRONG)
def test_any_value_anywhere_is_accepted_or_refused_in_one_sentence(value):
    """Every key of the config; what is no UserError is a traceback for a user."""
    base = composed("logger=wandb", "strategy=[bat_erank,sparsevlm]", "benchmark=[mme,chair]")
    names = list(scalars(check(base)))
    assert len(names) > 100
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    parsed = OverridesParser.create().parse_override(f"x={value}").value()
    sentences = []
    for name in names:
        changed = base.copy()
        with open_dict(changed):
            OmegaConf.update(changed, name, parsed, merge=False)
        try:
            check(changed)
        except UserError as error:
            sentences.append(str(error))
    assert len(sentences) > len(names) / 4
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_what_is_right_comes_back_as_plain_data_of_the_declared_types():
    checked = check(composed("name=2024", "budget=[32,64,32]", "workers=3", "results=7"))
    assert (checked["name"], checked["results"]) == ("2024", "7")
    assert checked["budget"] == [64, 32]
    assert checked["workers"] == 3
    assert check(composed("budget=8"))["budget"] == [8]
    planned = plan(composed("name=2024"))
    assert planned.directory == Path("results/2024")


def test_a_checked_config_has_the_keys_that_were_composed_and_no_more():
    config = composed("+benchmark.pope.columns=[a,b]")
    checked = check(config)
    assert checked["benchmark"]["pope"]["columns"] == ["a", "b"]  # a report's own
    assert list(checked["model"]["load"]) == list(config.model.load)
    assert set(checked) == set(config)


def test_no_range_is_left_out_of_the_schema():
    """Every number in the config has a range, so that none is accepted that means nothing."""
    typed = [owner for owner in vars(schema).values() if hasattr(owner, "__required_keys__")]
    assert len(typed) >= 10
    for owner in typed:
        for key, kind in get_type_hints(owner, include_extras=True).items():
            if re.search(r"\b(int|float)\b", str(get_type_hints(owner)[key])):
                assert ranges(kind), f"{owner.__name__}.{key} has no range"


def test_what_a_model_provides_is_what_strategies_can_read():
    checked = check(composed())
    assert set(checked["model"]["provides"]) <= set(NEEDS)


def test_results_in_a_place_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    assert "cannot be written to" in refusal(f"results={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_gpu_is_asked_for_only_where_one_is_wanted(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert check(composed("model.load.device=cuda:1"))["model"]["load"]["device"] == "cuda:1"
    assert "2 cuda devices" in refusal("model.load.device=cuda:2")


def test_conform_is_strict_about_types():
    kind = list[int] | None
    assert conform(kind, None, "x") is None
    assert conform(kind, [1], "x") == [1]
    for value in (True, 1, "1", [True], [1.0], [None], {}):
        with pytest.raises(UserError, match=r"^x(\[0\])?="):
            conform(kind, value, "x")
    assert Rule("even", lambda n: n % 2 == 0).holds(2)


# The command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["budget=32,64"], "budget=[32,64]; sweep over them with -m"),
        (["budget=range(1,3)"], "add -m"),
        (["model.load.path=/a=b"], "\"model.load.path='/a=b'\""),
        (["model.load.prompt=a{question}"], "quotes of its own"),
        (["strategy=null"], "Unknown strategy 'null'"),
        (["strategy={a:1}"], "strategy takes names: agilepruner"),
        (["budget=[32"], "a bracket without its partner"),
        (["name='a"], "a quote without its partner"),
        (["budget=[32,]"], "an empty item"),
        (["budget={a:1}"], "another shape"),
        (["budget"], "written key=value"),
        (["=3"], "write key=value"),
        (["strategy=divprune", "strategy.fastv.depth=1"], "add strategy=[fastv]"),
        (["strategy.fasttv.depth=1"], "Did you mean 'fastv'?"),
        (["strategy.agilepruner.taumax=1"], "Did you mean 'strategy.agilepruner.tau_max'?"),
        (["model.load.dtyp=float16"], "Did you mean 'model.load.dtype'?"),
        (["model.tiles=5"], "+model.tiles=..."),
        (["logger.moed=x"], "Did you mean 'logger.mode'?"),
        (["name.x=1"], "name has no settings"),
        (["hydra.foo=1"], "no setting of Hydra"),
    ],
)
def test_what_hydra_refuses_is_explained_with_the_fix(arguments, words):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (Hydra raises several kinds)
        composed(*arguments)
    message = explain(caught.value, arguments)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("value", ["/a=b", "32,64", "a{b}", "it's", "a:b=c", "[x", "a b,c"])
def test_the_quoted_setting_that_is_suggested_is_read_as_that_text(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from agilepruner.overrides import _quoted

    shell = _quoted("name", value)
    assert shell[0] == shell[-1] == '"'
    assert OverridesParser.create().parse_override(shell[1:-1]).value() == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["batch_size=0"], "batch_size=0, expected an integer from 1"),
        (["model.load.device=cuda:99"], "model.load.device=cuda:99"),
        (["logger=wandb", "logger.mode=onlin"], "Did you mean 'online'?"),
        (["strategy.agilepruner.tau_max=nan"], "expected a number from 0 to 2"),
        (["budget=32,64"], "budget=[32,64]"),
        (["model.load.path=/a=b"], "quotes of its own"),
        (["strategy=null"], "Unknown strategy 'null'"),
        (["name=../x"], "without / or backslash"),
        (["-m", "name=../x", "budget=32,64"], "without / or backslash"),
        (["model=[demo,llava_1_5_7b]"], "-m model=demo,llava_1_5_7b"),
        (["budget.x=1"], "budget.x=1"),
    ],
)
def test_the_command_says_one_sentence_exits_2_and_writes_nothing(tmp_path, arguments, words):
    done = commands.run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_sweep_gets_typed_values_and_the_config_can_be_printed(tmp_path):
    swept = ["-m", "strategy=divprune,fps", "budget=32,64", "name=2024", "dry_run=true"]
    done = commands.run(*swept, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Dry run of '2024'") == 4
    printed = commands.run("--cfg", "job", "name=2024", cwd=tmp_path)
    assert printed.returncode == 0
    assert "name: 2024" in printed.stdout

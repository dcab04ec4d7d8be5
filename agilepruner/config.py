"""The typed config: every key with its type and range, and one sentence for what is wrong.

``check`` refuses, before anything is loaded or written, what can be known to fail or to mean
nothing. What it returns is plain data of these types; mypy knows the keys.
"""

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agilepruner.errors import UserError, unknown
from agilepruner.ranges import (
    OPEN,
    Range,
    Rule,
    conform,
    declared,
    filled,
    length,
    no_setting,
    shown,
)
from agilepruner.strategies.base import NEEDS, Strategy

CHECKPOINT = ("path", "revision", "dtype", "device", "attention", "image_processor")
PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}

Tokens = Annotated[
    int,
    Range(1, 1_000_000),
    "visual tokens kept per image, e.g. budget=64 or budget=[32,64,128]",
]
Positions = Literal["reset", "keep"]  # of kept tokens, see models.base.Visual
Line = Annotated[str, length(1000)]
Tag = Annotated[str, length(64), "as long as a tag of W&B may be"]
Count = Annotated[int, Range(1, 1_000_000_000)]
Processes = Annotated[
    Annotated[int, Range(0, 1000)] | None, "processes that score; 0: only this one, null: automatic"
]
Positive = Annotated[float, Range(0.001, 1_000_000)]
Function = Annotated[str, Rule("like package.module.name", re.compile(r"\w+(\.\w+)+").fullmatch)]
Place = Annotated[
    str, Rule("naming a directory, with ~ written out", lambda path: path[:1] != "~" and fits(path))
]
Name = Annotated[
    str,
    length(200),
    Rule("without / or backslash", lambda name: not set("/\\") & set(name)),
    Rule("not . or ..", lambda name: name not in (".", "..") and fits(name)),
    "results are in a directory of this name",
]


def fits(path: str) -> bool:
    """Whether a file system can have it: printable, no part longer than 255 bytes."""
    printable = bool(path.strip()) and path.isprintable()
    return printable and all(len(part.encode()) < 256 for part in path.split("/"))


class Load(TypedDict):
    """What loads a model: a function and its arguments, which the function may extend."""

    _target_: Function
    path: Place
    revision: NotRequired[Line | None]
    prompt: Annotated[str, Rule("with {question} once", lambda text: text.count("{question}") == 1)]
    dtype: Literal["float32", "float16", "bfloat16"]
    device: Annotated[
        str,
        Rule(
            "like auto, cpu, cuda, cuda:0 or mps", re.compile("auto|cpu|mps|cuda(:\\d+)?").fullmatch
        ),
    ]
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
    image_processor: NotRequired[dict[str, Any] | None]
    joint_space: NotRequired[Place | None]
    joint_space_revision: NotRequired[Line | None]
    split_at_image: NotRequired[bool]
    geometry: NotRequired[Literal["paper", "native"]]
    full: NotRequired[Annotated[int, Range(1, 100_000)]]


class Boxes(TypedDict):
    """What the numbers of a box are: of the padded square, the picture, or the resized picture."""

    of: Literal["square", "picture", "resized"]
    scale: NotRequired[Annotated[Positive, "what the whole picture is, 1 or 1000"]]
    factor: NotRequired[Annotated[int, Range(1, 1000), "that resized sides are multiples of"]]
    pixels: NotRequired[dict[str, Annotated[int, Range(1, 10**9)]]]


class Grounding(TypedDict):
    """How a model was taught to give boxes."""

    prompt: Annotated[str, Rule("with {expression} once", lambda s: s.count("{expression}") == 1)]
    boxes: Boxes


class Model(TypedDict):
    """A model: what the planner must know before it is loaded, and what loads it."""

    name: Tag
    label: Line
    visual_tokens: Annotated[int, Range(1, 100_000), "of one image, unpruned"]
    decoder_layers: Annotated[int, Range(2, 1000)]
    positions: Positions
    max_new_tokens: Annotated[int, Range(1, 100_000)] | None
    default_new_tokens: NotRequired[Annotated[int, Range(1, 100_000), "where a task sets none"]]
    ignored_stops: NotRequired[list[str]]
    provides: list[Annotated[str, Rule(f"among {', '.join(NEEDS)}", NEEDS.__contains__)]]
    load: Annotated[Load, OPEN]
    erank_avg: NotRequired[Annotated[float, Range(1, 10_000), "mean effective rank"]]
    mme: NotRequired[Literal["total", "perception"]]
    grounding: NotRequired[Grounding | None]
    joint_range: NotRequired[bool]
    tiles: NotRequired[Annotated[int, Range(1, 100), "that share a budget equally"]]
    lacks: NotRequired[dict[str, Line]]
    by_protocol: NotRequired[dict[str, dict[str, Any]]]
    shapes: NotRequired[dict[str, dict[str, Any]]]


class Suite(TypedDict):
    """Where documents come from."""

    name: Tag
    kind: Literal["directory", "hub"]
    directory: Annotated[Place | None, "of <benchmark>.parquet files"]
    synthetic: bool


class Hub(TypedDict):
    """A data set of the hub."""

    path: Line
    size: Annotated[Count, "rows, checked after loading"]
    units: NotRequired[Annotated[Count, "of documents scored together; for the dry run's estimate"]]
    name: NotRequired[Line | None]
    images: NotRequired[Line | None]
    image_of: NotRequired[list[Line]]
    documents: NotRequired[Annotated[Count, "where rows are several documents; for dry_run"]]
    revision: NotRequired[Line | None]


class Headline(TypedDict):
    """The metric in the table."""

    metric: Line
    scale: Annotated[Positive, "the largest value in the table"]
    multiplier: NotRequired[Positive]
    higher_is_better: NotRequired[bool]
    sum: NotRequired[Annotated[list[Line], filled]]
    scale_per: NotRequired[Line]


class Generation(TypedDict):
    """Decoding, which is greedy whatever else a task may set."""

    max_new_tokens: NotRequired[Annotated[int, Range(1, 100_000)]]
    until: NotRequired[Line | list[Annotated[str, Rule("not empty", bool)]]]
    temperature: NotRequired[Annotated[float, Range(0, 0), "answers are greedy"]]
    num_beams: NotRequired[Annotated[int, Range(1, 1), "answers are greedy"]]
    do_sample: NotRequired[Annotated[Literal[False], "answers are greedy"]]


class Overrides(TypedDict):
    """Changes to lmms-eval's task file; its other keys are lmms-eval's own."""

    generation_kwargs: NotRequired[Generation]
    test_split: NotRequired[Line]


class Protocol(TypedDict):
    """A benchmark under one protocol."""

    task: Line
    headline: Headline
    hub: NotRequired[Hub]
    overrides: NotRequired[Annotated[Overrides, OPEN]]
    process_results: NotRequired[Function]
    doc_to_text: NotRequired[Function]
    process_results_arguments: NotRequired[dict[str, Any]]
    doc_to_text_arguments: NotRequired[dict[str, Any]]
    unit_score: NotRequired[Function]
    unit_parts: NotRequired[Function]
    stratum: NotRequired[Line]
    aggregations: NotRequired[dict[str, Line]]
    # What rows.describe reads and checks, where this protocol says it differently.
    order: NotRequired[Any]
    columns: NotRequired[Any]
    unit_points: NotRequired[Any]
    published: NotRequired[Any]
    split: NotRequired[Any]
    published_split: NotRequired[Any]
    about: NotRequired[Any]
    charts: NotRequired[Any]


class Unit(TypedDict):
    """What is scored together: documents of one value of a column (modulo a number)."""

    column: Line
    modulo: NotRequired[Count]


class Benchmark(TypedDict):
    """A benchmark: what the runner reads. Reports may have more keys of their own."""

    label: Line
    protocols: Annotated[dict[str, Protocol], filled]
    hub: NotRequired[Hub]
    unit: NotRequired[Unit | None]
    strata: NotRequired[Line | None]
    needs_language_data: NotRequired[bool]
    fan_out: NotRequired[Line]
    hub_has: NotRequired[Line]
    headlines: NotRequired[dict[str, Headline]]


AnyBenchmark = Annotated[Benchmark, OPEN]


class Logger(TypedDict):
    """Where rows go besides files."""

    kind: Literal["none", "wandb"]
    project: NotRequired[
        Annotated[
            str,
            length(128),
            Rule(r"without / \ # ? % :", lambda text: not set(text) & set("/\\#?%:")),
        ]
    ]
    group: NotRequired[Annotated[str, length(128)]]
    mode: NotRequired[Literal["auto", "online", "offline"]]


class MarginsConfig(TypedDict):
    """Differences that do not matter, see ``report.statistics.Margins``."""

    average: Annotated[float, Range(0, 100), "points of the Average"]
    benchmark: Annotated[float, Range(0, 100), "percent of a benchmark's scale"]


class Config(TypedDict):
    """One run."""

    budget: Annotated[list[Tokens], filled, "e.g. budget=[32,64,128]"]
    protocol: Literal["lmms", "paper"]
    limit: Annotated[Count | None, "at most so many documents of each benchmark; null: all"]
    positions: Annotated[list[Positions], filled] | None
    vanilla: bool
    reference: Line | None
    margins: MarginsConfig
    paper: Line | None
    anchor: Literal["stop", "warn"]
    analysis: Annotated[Function | None, "of report/analyses, as analysis=complexity sets it"]
    measure: NotRequired[Annotated[Function | None, "of measures.py, for an analysis"]]
    dry_run: bool
    throughput: Annotated[
        Annotated[float, Range(1e-6, 1e9)] | None, "TFLOP/s, for the hours of a dry run"
    ]
    name: Name
    results: Place
    reuse: bool
    images_per_window: Annotated[int, Range(1, 10_000), "images answered together"]
    batch_size: Annotated[int, Range(1, 10_000), "sequences per generation call"]
    noise: Annotated[
        Annotated[int, Range(1, 10_000)] | None, "sequences per call of vanilla's second answers"
    ]
    workers: Annotated[
        Annotated[int, Range(1, 1000)] | None, "generation calls at the same time; null: automatic"
    ]
    scorers: Processes
    model: Model
    suite: Suite
    strategy: dict[str, dict[str, Any]]
    benchmark: dict[str, AnyBenchmark]
    logger: Logger


def check(config: DictConfig) -> Config:
    """The config as plain data, every value of its declared type, budgets in descending order.

    Checked is all that can be known without loading a model or documents, and nothing is written.

    Raises:
        UserError: the setting, its value, what was expected, and how to fix it.
    """
    for group, example in (("strategy", "[divprune,agilepruner]"), ("benchmark", "[pope,gqa]")):
        if not config.get(group):
            raise UserError(f"{group} is empty: choose at least one, e.g. {group}={example}.")
    try:
        _check_switches(config)
        data: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{error.full_key or 'The config'} cannot be filled in: {cause}.") from None
    if not isinstance(data.get("budget", []), list):
        data["budget"] = [conform(Tokens, data["budget"], "budget")]
    if isinstance(data.get("positions"), str):
        data["positions"] = [data["positions"]]
    checked: Config = conform(Config, data, "")
    checked["budget"] = sorted(set(checked["budget"]), reverse=True)
    if checked["positions"]:
        checked["positions"] = list(dict.fromkeys(checked["positions"]))
    _check_budgets(checked["budget"], checked["model"])
    _check_results(Path(checked["results"]))
    _check_load(checked["model"]["load"])
    _check_suite(checked["suite"])
    for name, benchmark in checked["benchmark"].items():
        _check_benchmark(name, benchmark, checked)
    build_strategies(checked["strategy"])
    _check_noise(checked)
    if checked["analysis"]:
        _arguments(checked["analysis"], "analysis")
    if measure := checked.get("measure"):
        _arguments(measure, "measure")
    _check_logger(checked["logger"])
    return checked


def build_strategies(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Strategy]]:
    """The chosen strategies with their config names.

    A list as the value of a hyper-parameter that is a single one gives a strategy per value, and
    several lists every combination: ``strategy.agilepruner.tau_max=[0.1,0.25,0.5]`` is three.

    Raises:
        UserError: no such class or hyper-parameter, or a value outside its range.
    """
    built: list[tuple[str, Strategy]] = []
    for name, said in settings.items():
        for one in _combinations(said, f"strategy.{name}"):
            strategy = name, _build(one, f"strategy.{name}")
            built += [strategy] if strategy not in built else []
    return built


def _combinations(settings: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Settings of one strategy each, for lists of values."""
    kind = strategy_class(settings, where)
    known: dict[str, Any] = declared(kind) if is_dataclass(kind) else {}
    lists = {
        key: value
        for key, value in settings.items()
        if isinstance(value, list) and key in known and not _takes_list(known[key])
    }
    for key, values in lists.items():
        if not values:
            raise UserError(f"{where}.{key}=[] has no value: give one, or a list of some.")
    for chosen in product(*lists.values()):
        yield {**settings, **dict(zip(lists, chosen))}


def _takes_list(kind: Any) -> bool:
    """Whether one value of a declared type is a list (or tuple)."""
    return any(get_origin(part) in (list, tuple) or _takes_list(part) for part in get_args(kind))


def known_keys(path: str) -> list[str]:
    """Keys declared under a dotted path ("model.load"); none where they are free."""
    kind: Any = Config
    for part in path.split(".") if path else ():
        kind = _schema(declared(kind).get(part)) if kind else None
    return list(declared(kind)) if kind else []


def _schema(kind: Any) -> Any:
    """The TypedDict behind a declaration, or None."""
    origin = getattr(kind, "__origin__", kind)
    return origin if isinstance(origin, type) and issubclass(origin, dict) else None


def _check_switches(config: DictConfig) -> None:
    """What other settings are looked up by: wrong, it would be reported as theirs."""
    for key in ("protocol", "model.mme"):
        value = OmegaConf.select(config, key)
        owner = Config if key == "protocol" else Model
        if value is not None or key == "protocol":
            conform(declared(owner)[key.rpartition(".")[2]], value, key)


def _check_budgets(budgets: list[int], model: Model) -> None:
    full, tiles = model["visual_tokens"], model.get("tiles", 1)
    for budget in budgets:
        if budget > full:
            raise UserError(
                f"budget={budget} is more than the {full} visual tokens of model "
                f"'{model['name']}'. Choose 1 to {full}; strategy=vanilla keeps all."
            )
        if budget % tiles:
            raise UserError(
                f"budget={budget} cannot be shared by the {tiles} tiles of model "
                f"'{model['name']}'. Choose a multiple of {tiles}, e.g. "
                f"{max(tiles, budget // tiles * tiles)}."
            )


def _check_results(directory: Path) -> None:
    """It is a directory that can be written to, or can be made one."""
    while not os.path.lexists(directory) and directory != directory.parent:
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        why = "cannot be written to" if directory.is_dir() else "is no directory"
        raise UserError(f"{directory} {why}. Choose another place with results=...")


def _check_load(load: Load) -> None:
    target = load["_target_"]
    known = _arguments(target, "model.load._target_")
    for key in load.keys() - {"_target_", "joint_space_revision"}:
        if known is not None and key not in known:
            raise no_setting("model.load", key, known)
    placeholder = _constant(target.rpartition(".")[0], "PLACEHOLDER")
    if placeholder is not None and load["prompt"].count(placeholder) != 1:
        raise UserError(
            f"model.load.prompt={shown(load['prompt'])}, expected the image once as "
            f"{placeholder} and {{question}} once."
        )
    for key in ("path", "joint_space"):
        if load.get(key):
            _check_checkpoint(str(load.get(key)), key)
    package = PACKAGES.get(load["attention"])
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"model.load.attention={load['attention']} needs the package {package}, which is not "
            "installed. Install it or choose sdpa."
        )
    kind = (load.get("image_processor") or {}).get("type")
    if kind is not None:
        import transformers

        made = [name for name in dir(transformers) if name.endswith("ImageProcessorPil")]
        if kind not in made:
            raise unknown("model.load.image_processor.type", str(kind), made)
    _check_device(load["device"])


def _check_checkpoint(path: str, key: str) -> None:
    """A directory with a config.json, or a name that the hub could have."""
    directory = Path(path)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise UserError(f"model.load.{key}={path} has no config.json: it is not a checkpoint.")
    elif directory.is_absolute() or path.startswith("."):
        raise UserError(
            f"The directory {path} does not exist. Set model.load.{key}=... to one that does, or "
            "to a hub name."
        )
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise UserError(
            f"model.load.{key}={shown(path)}, expected a directory that exists or a hub name "
            "(owner/name)."
        )


def _check_device(device: str) -> None:
    """Refuse a device that this machine lacks; torch is asked only about a GPU."""
    if device in ("auto", "cpu"):
        return
    import torch

    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(index or 0) >= count:
        raise UserError(
            f"model.load.device={device}, but torch can use {count} {kind} devices here. "
            "Choose auto (a GPU where there is one) or cpu."
        )


def _check_suite(suite: Suite) -> None:
    if suite["kind"] == "hub":
        return
    directory = suite["directory"]
    if directory is None or not Path(directory).is_dir():
        raise UserError(
            f"The suite directory {shown(directory)} does not exist. Set suite.directory=..., or "
            "build one with scripts/build_suite.py."
        )


def _check_benchmark(name: str, benchmark: Benchmark, config: Config) -> None:
    """The chosen protocol: its task file and functions exist, and a hub suite has its data set."""
    protocol, where = config["protocol"], f"benchmark.{name}"
    if protocol not in benchmark["protocols"]:
        raise UserError(
            f"Benchmark '{name}' has no protocol '{protocol}'. "
            f"Known: {', '.join(benchmark['protocols'])}."
        )
    chosen = benchmark["protocols"][protocol]
    where = f"{where}.protocols.{protocol}"
    package = importlib.util.find_spec("lmms_eval")
    tasks = Path(next(iter(package.submodule_search_locations or [""])) if package else "", "tasks")
    if not (tasks / chosen["task"]).is_file():
        raise UserError(
            f"{where}.task={chosen['task']}, expected a YAML file of lmms-eval's tasks, "
            "e.g. pope/pope.yaml."
        )
    for key in ("process_results", "doc_to_text", "unit_score", "unit_parts"):
        if key in chosen:
            _arguments(str(chosen.get(key)), f"{where}.{key}")
    given = {
        "process_results_arguments": chosen.get("process_results_arguments", {}),
        "doc_to_text_arguments": chosen.get("doc_to_text_arguments", {}),
    }
    for key, arguments in given.items():
        for name_of, value in arguments.items():
            if value is None:
                raise UserError(
                    f"Benchmark '{name}' under protocol={protocol} has no {key}.{name_of} for "
                    f"model '{config['model']['name']}': its config does not say. Choose "
                    "protocol=lmms, another model, or give it: for RefCOCO model.grounding "
                    "(docs/protocols.md)."
                )
    for metric, function in chosen.get("aggregations", {}).items():
        if "." in function:
            _arguments(function, f"{where}.aggregations.{metric}")
    if config["suite"]["kind"] == "hub" and "hub" not in chosen and "hub" not in benchmark:
        raise UserError(
            f"{where} has no data set on the hub. Give the benchmark "
            "hub: {path: owner/name, size: documents}, or choose suite=local"
            f"{_instead(benchmark)}."
        )


def _instead(benchmark: Benchmark) -> str:
    """Which benchmark of the hub stands for one that is of the embedded suite alone."""
    other = benchmark.get("hub_has")
    return f" or benchmark=[{other}]" if other else ""


def _check_noise(config: Config) -> None:
    """The noise floor needs vanilla's first answers, made with other batches."""
    if config["noise"] is None:
        return
    if config["noise"] == config["batch_size"]:
        raise UserError(
            f"noise={config['noise']} is the batch_size of the first answers: choose another one, "
            "e.g. noise=1."
        )
    if not config["vanilla"] and "vanilla" not in config["strategy"]:
        raise UserError("noise needs vanilla's answers: leave vanilla=true.")


def _check_logger(logger: Logger) -> None:
    if logger["kind"] == "wandb":
        for key in ("project", "group", "mode"):
            if key not in logger:
                raise UserError(f"logger.kind=wandb needs logger.{key}. Choose logger=wandb.")


def _build(settings: Mapping[str, Any], where: str) -> Strategy:
    """A strategy from its class and hyper-parameters, some of which may be strategies."""
    found = strategy_class(settings, where)
    parameters = {key: value for key, value in settings.items() if key != "_target_"}
    known: dict[str, Any] = {}
    if is_dataclass(found):
        known = {field.name: field for field in fields(found)}
    for key, value in parameters.items():
        if key not in known:
            raise no_setting(where, key, known)
        if isinstance(value, Mapping) and "_target_" in value:
            parameters[key] = _build(value, f"{where}.{key}")
    for key, field in known.items():
        if key not in parameters and field.default is MISSING:
            raise UserError(f"{where}.{key} is missing: {found.__name__} has no default for it.")
    try:
        return found(**parameters)
    except UserError as error:
        raise UserError(str(error).replace(f"{found.__name__}.", f"{where}.", 1)) from None


def strategy_class(settings: Mapping[str, Any], where: str) -> type[Strategy]:
    """The class that a strategy's settings name."""
    target = conform(Function, settings.get("_target_"), f"{where}._target_")
    _arguments(target, f"{where}._target_")
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type) or not issubclass(found, Strategy):
        raise UserError(
            f"{where}._target_={target} is not a strategy: it does not extend Strategy."
        )
    return found


def _arguments(path: str, where: str) -> list[str] | None:
    """Refuse a dotted name that leads nowhere, without importing it (that may take seconds).

    Returns:
        the function's arguments; None where its source does not say.
    """
    module, _, name = path.rpartition(".")
    names = _defined(module) if module else None
    if names is None:
        raise UserError(f"{where}={path}, expected package.module.name of a module that exists.")
    if name not in names:
        functions = (ast.FunctionDef, ast.ClassDef)
        made_here = [n for n, node in names.items() if isinstance(node, functions) and n[0] != "_"]
        raise unknown(f"{where} in {module}:", name, made_here)
    function = names[name]
    if not isinstance(function, ast.FunctionDef):
        return None
    given = [argument.arg for argument in function.args.args + function.args.kwonlyargs]
    return [*given, *(CHECKPOINT if function.args.kwarg else ())]


def _defined(module: str) -> dict[str, ast.AST | None] | None:
    """Names at the top of a module with their definitions; None where there is no such module."""
    loaded = sys.modules.get(module)
    try:
        spec = None if loaded else importlib.util.find_spec(module)
    except ImportError:  # of a package above it
        spec = None
    source = getattr(loaded, "__file__", None) or (spec.origin if spec else None)
    names: dict[str, ast.AST | None] = dict.fromkeys(dir(loaded)) if loaded else {}
    if source is not None and source.endswith(".py"):
        names |= _definitions(source)
    return names or None


def _constant(module: str, name: str) -> Any:
    """The value of a constant at the top of a module, without importing it; None: there is none."""
    node = (_defined(module) or {}).get(name)
    return ast.literal_eval(node.value) if isinstance(node, ast.Assign) else None


@cache
def _definitions(source: str) -> dict[str, ast.AST | None]:
    """Names at the top of a source file, with their definitions where they are defined there.

    Imported names have none.
    """
    names: dict[str, ast.AST | None] = {}
    for node in ast.parse(Path(source).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name): None for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return names

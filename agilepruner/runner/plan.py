"""From a composed config to cells: checked before anything is loaded or written, then identified.

``plan`` needs no weights, no documents and no network. ``identify`` finds the files that will be
loaded (fetching a checkpoint or data set from the hub where it is not here) and binds every cell to
them. A benchmark whose documents cannot be had fails its own cells only.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agilepruner.config import build_strategies, check
from agilepruner.errors import UserError, unknown
from agilepruner.hub import Part, check_room
from agilepruner.places import CONFIGS
from agilepruner.runner import identity
from agilepruner.runner.cells import Cell
from agilepruner.runner.rows import BEST, SHOWN, describe
from agilepruner.strategies.base import Strategy

log = logging.getLogger(__name__)

# Parts of a protocol that say how answers are scored or shown, and change none of them.
SCORING = (
    *("headline", "unit_score", "unit_parts", "stratum", "aggregations"),
    *("process_results", "process_results_arguments"),
    *SHOWN,
)
# Where an answer is made, besides the adapter, strategy and prompt that the config names.
ANSWERING = ("agilepruner.runner.answer", "evals.tasks")
SCORERS = ("agilepruner.runner.score", "evals.scoring")


@dataclass(frozen=True)
class Run:
    """A validated plan.

    Attributes:
        config: the composed config as plain data.
        cells: vanilla first. directory: of its results.
        sources: benchmark -> its files, once identified.
        failed: benchmark -> why its documents cannot be had.
        checkpoint: settings of ``model.load`` that name the local directories whose files were
            hashed, once identified: what is loaded is what was hashed.
    """

    config: Mapping[str, Any]
    cells: list[Cell]
    directory: Path
    sources: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, cell: Cell) -> Path:
        return self.directory / "cells" / cell.folder


def plan(config: DictConfig, beside: Collection[str] = ()) -> Run:
    """Validate a config and list its cells; nothing is loaded but strategies.

    Args:
        config: as composed.
        beside: strategies that other jobs of the same sweep may add to the table.

    Raises:
        UserError: what is wrong and how to fix it.
    """
    data = check(config)
    budgets = data["budget"]
    strategies = build_strategies(data["strategy"])
    if data["vanilla"] and "vanilla" not in data["strategy"]:
        strategies = [("vanilla", _vanilla()), *strategies]
    if data["reference"] is not None:
        names = {*beside, *(name for name, _ in strategies), BEST}
        if data["reference"] not in names:
            raise unknown("reference", data["reference"], names)
    possible = [
        (name, strategy, budget)
        for name, strategy in strategies
        for budget in _possible(strategy, budgets, data["model"])
    ]
    cells = []
    for benchmark, settings in data["benchmark"].items():
        describe(settings, data["protocol"])
        if data["suite"]["kind"] == "directory":
            from evals.sources import suite_file

            suite_file(data["suite"], benchmark)
        for name, strategy in strategies:
            _check_needs(name, strategy, data["model"])
            _check_boxes(name, strategy, data, benchmark)
        cells += [
            Cell(name, strategy, budget, benchmark, positions)
            for name, strategy, budget in possible
            for positions in _positions(strategy, data)
        ]
    cells.sort(key=lambda cell: cell.strategy_name != "vanilla")
    return Run(data, cells, Path(data["results"]) / data["name"])


def _vanilla() -> Strategy:
    from agilepruner.strategies.baseline.vanilla import Vanilla

    return Vanilla()


def _possible(strategy: Strategy, budgets: list[int], model: Mapping[str, Any]) -> list[int]:
    """The budgets that a strategy can be run at.

    Raises:
        UserError: none of them, with the smallest possible one.
    """
    full = model["visual_tokens"]
    if not strategy.inside:
        return budgets if strategy.budgeted else [full]
    reached, refused = [], []
    for budget in budgets:
        try:
            strategy.promise(full, budget, model["decoder_layers"])
            reached.append(budget)
        except UserError as error:
            refused.append(error)
    if not reached:
        raise refused[0]
    for refusal in refused:
        log.info("left out: %s", refusal)
    return reached


def _positions(strategy: Strategy, config: Mapping[str, Any]) -> list[str]:
    """What is to become of the positions of kept tokens; the model's own where none are dropped."""
    own = [config["model"]["positions"]]
    return (config["positions"] or own) if strategy.drops else own


def _check_needs(name: str, strategy: Strategy, model: Mapping[str, Any]) -> None:
    """Say before anything is loaded that a model lacks what a strategy reads."""
    lacking = sorted(set(strategy.needs) - set(model["provides"]))
    if lacking:
        reasons = model.get("lacks") or {}
        why = "; ".join(reasons[need] for need in lacking if need in reasons)
        raise UserError(
            f"Strategy '{name}' needs {', '.join(lacking)}, which model '{model['name']}' does not "
            f"have{f' ({why})' if why else ''}. Choose another model, or one of its strategies: "
            f"{', '.join(_fed(model))}."
        )


def _check_boxes(name: str, strategy: Strategy, config: Mapping[str, Any], benchmark: str) -> None:
    """Refuse pixels of the resized picture where a strategy resizes the picture by itself."""
    protocol = config["benchmark"][benchmark]["protocols"][config["protocol"]]
    boxes = protocol.get("process_results_arguments", {}).get("boxes") or {}
    if boxes.get("of") == "resized" and "resolution" in strategy.needs:
        raise UserError(
            f"Strategy '{name}' makes the picture smaller, and model '{config['model']['name']}' "
            f"writes boxes in pixels of the picture that it sees: {benchmark} under "
            f"protocol={config['protocol']} would misread them. Leave '{name}' out."
        )


def _fed(model: Mapping[str, Any]) -> list[str]:
    """Strategies of configs/strategy that a model can feed."""
    found = []
    for path in sorted((CONFIGS / "strategy").glob("*.yaml")):
        said = _without_the_runs(OmegaConf.to_container(OmegaConf.load(path)))
        ((name, strategy), *_) = build_strategies({path.stem: said})
        if strategy.needs <= set(model["provides"]):
            found.append(name)
    return found


def _without_the_runs(said: Any) -> Any:
    """Settings of a strategy without those that a run fills in, whose defaults do as well."""
    if not isinstance(said, Mapping):
        return said
    kept = {key: value for key, value in said.items() if "${" not in f"{value}"[:2]}
    return {key: _without_the_runs(value) for key, value in kept.items()}


# --- identity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needed:
    """What a run reads of the hub; what lies in directories is not in here.

    Attributes:
        checkpoints: setting of ``model.load`` -> the files of its checkpoint.
        documents: benchmark -> the files of its documents.
        failed: benchmark -> why its documents cannot be had.
    """

    checkpoints: Mapping[str, Part]
    documents: Mapping[str, list[Part]]
    failed: Mapping[str, str]

    @property
    def parts(self) -> list[Part]:
        return [
            *self.checkpoints.values(),
            *(p for parts in self.documents.values() for p in parts),
        ]


def ask(run: Run) -> Needed:
    """Ask the hub for every repository that a run needs; nothing is downloaded.

    Raises:
        UserError: a checkpoint cannot be had.
    """
    from agilepruner.models.checkpoints import on_hub

    models = {
        setting: on_hub(path, revision)
        for setting, path, revision in checkpoints(run)
        if not Path(path).is_dir()
    }
    documents, failed = {}, {}
    if run.config["suite"]["kind"] == "hub":
        for name in run.config["benchmark"]:
            try:
                documents[name] = parts_of(run.config, name)
            except UserError as error:
                failed[name] = str(error)
    return Needed(models, documents, failed)


def checkpoints(run: Run) -> Iterator[tuple[str, str, str | None]]:
    """Setting of ``model.load``, path and revision of every checkpoint that will be read."""
    load = run.config["model"]["load"]
    yield "path", load["path"], load.get("revision")
    joint = load.get("joint_space")
    if joint and any("text_embeds" in cell.strategy.needs for cell in run.cells):
        yield "joint_space", joint, load.get("joint_space_revision")


def identify(run: Run, fetch: bool = True) -> Run:
    """Bind every cell to the bytes that decide its answers.

    All repositories are asked for, and the disk is looked at, before anything is downloaded.

    Args:
        run: a plan.
        fetch: download what is not here; False raises instead.

    Raises:
        UserError: a checkpoint cannot be had, no benchmark's documents can, or the disk is full.
    """
    from agilepruner.models.checkpoints import snapshot

    needed = ask(run)
    if fetch:
        for line in lacking_words(run.config):
            log.info("%s", line)
        check_room(needed.parts)
    places = {
        setting: snapshot(needed.checkpoints[setting], fetch)
        if setting in needed.checkpoints
        else Path(path)
        for setting, path, _ in checkpoints(run)
    }
    digests = {setting: identity.checkpoint_digest(place) for setting, place in places.items()}
    model = {"files": digests.pop("path"), **digests, **_model(run.config)}
    sources, failed = {}, dict(needed.failed)
    for name in run.config["benchmark"]:
        if name in failed:
            continue
        try:
            sources[name] = _source(run.config, name, needed.documents.get(name), fetch)
        except UserError as error:
            if run.config["suite"]["kind"] == "directory":
                raise
            failed[name] = str(error)
    for name, why in failed.items():
        log.error("%s: %s", run.config["benchmark"][name]["label"], why)
    if not sources:
        raise UserError("The documents of no benchmark could be loaded: see above.")
    cells = []
    for cell in run.cells:
        documents = sources[cell.benchmark].identity if cell.benchmark in sources else None
        whole = cell_identity(run.config, cell, model, documents)
        how = scoring(run.config, cell.benchmark)
        cells.append(replace(cell, identity=whole, key=identity.digest(whole), scoring=how))
    checkpoint = {**{setting: str(place) for setting, place in places.items()}, "revision": None}
    return replace(run, cells=cells, sources=sources, failed=failed, checkpoint=checkpoint)


def lacking_words(config: Mapping[str, Any]) -> Iterator[str]:
    """What benchmarks of captions lack of the language data that finds their words.

    Made-up captions have a closed vocabulary, whose words are found without.
    """
    from evals.chair import missing_resources

    for settings in config["benchmark"].values():
        needed = settings.get("needs_language_data") and not config["suite"]["synthetic"]
        if needed and (missing := missing_resources()):
            yield (
                f"{settings['label']} is scored without NLTK data ({', '.join(missing)} missing): "
                "inflect finds nearly the same words, and rows say so. To have it: "
                f"python -m nltk.downloader {' '.join(missing)}"
            )


def on_hub_as(config: Mapping[str, Any], benchmark: str) -> Mapping[str, Any]:
    """The hub data set of a benchmark under the run's protocol."""
    settings = config["benchmark"][benchmark]
    return settings["protocols"][config["protocol"]].get("hub", settings["hub"])


def documents_in(run: Run, benchmark: str) -> int:
    """How many documents of a benchmark will be answered.

    An estimate where a limit counts units (pairs, rotations) and the data set is not here yet.
    """
    from evals.sources import count_documents
    from evals.tasks import counted

    config, limit = run.config, run.config["limit"]
    settings, here = config["benchmark"][benchmark], run.sources.get(benchmark)
    files = here.files if here else ()
    if config["suite"]["kind"] == "directory":
        files = (Path(config["suite"]["directory"]) / f"{benchmark}.parquet",)
    if files:
        count = count_documents(files, settings.get("fan_out"))
    else:
        hub = on_hub_as(config, benchmark)
        count = int(hub.get("documents", hub["size"]))
    if limit is None:
        return count
    if settings.get("unit") is None:
        return min(count, limit)
    if files:
        return counted(files, settings, limit)
    return min(count, round(limit * count / on_hub_as(config, benchmark).get("units", count)))


def parts_of(config: Mapping[str, Any], benchmark: str, commit: str | None = None) -> list[Part]:
    """What a benchmark needs of the hub, at a commit if one is given.

    Raises:
        UserError: the hub does not have it, or cannot be reached.
    """
    from evals import sources
    from evals.tasks import split_name

    where = on_hub_as(config, benchmark)
    where = {**where, "revision": commit} if commit else where
    return sources.hub(where, split_name(config["benchmark"][benchmark], config["protocol"]))


def source_of(
    config: Mapping[str, Any],
    benchmark: str,
    known: Mapping[str, Any] | None = None,
    fetch: bool = True,
) -> Any:
    """Files of a benchmark's documents.

    Args:
        config: the composed config.
        benchmark: whose.
        known: ``documents`` of an identity: of a hub data set its commit is taken.
        fetch: download what is missing.

    Raises:
        UserError: they cannot be had.
    """
    parts = None
    if config["suite"]["kind"] == "hub":
        recorded = (known or {}).get("hub")
        parts = parts_of(config, benchmark, recorded[0][1] if recorded else None)
    return _source(config, benchmark, parts, fetch)


def _source(
    config: Mapping[str, Any], benchmark: str, parts: list[Part] | None, fetch: bool
) -> Any:
    from evals import sources

    if parts is None:
        return sources.directory(config["suite"], benchmark, identity.file_digest)
    where = on_hub_as(config, benchmark)
    source = sources.downloaded(where, parts, fetch)
    sources.check_size(source, where, config["limit"])
    return source


def cell_identity(
    config: Mapping[str, Any],
    cell: Cell,
    model: Mapping[str, Any],
    documents: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything that decides the answers of a cell, as plain data."""
    settings = config["benchmark"][cell.benchmark]
    protocol = settings["protocols"][config["protocol"]]
    asked = asked_of(settings, config["protocol"])
    code = [
        *ANSWERING,
        *strategy_modules(cell.strategy),
        *identity.modules_named(config["model"]["load"]["_target_"]),
        *identity.modules_named(asked),
    ]
    return {
        "version": identity.VERSION,
        "model": dict(model),
        "strategy": described(cell.strategy),
        "budget": cell.budget,
        "positions": cell.positions,
        "benchmark": cell.benchmark,
        "protocol": asked,
        "unit": settings.get("unit") if config["limit"] else None,
        "strata": settings.get("strata") if config["limit"] else None,
        "limit": config["limit"],
        "documents": documents and dict(documents),
        "task": identity.task_digest(protocol["task"]),
        "code": identity.code_digest(code),
        "versions": identity.versions(identity.ANSWERED_BY),
    }


def asked_of(benchmark: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """The part of a benchmark's protocol that decides what is asked, and how."""
    said = benchmark["protocols"][protocol]
    return {key: value for key, value in said.items() if key not in (*SCORING, "hub")}


def scoring(config: Mapping[str, Any], benchmark: str) -> str:
    """Digest of everything between a cell's answers and its row."""
    from evals.chair import language_source
    from evals.sources import KINDS

    kinds = Path(config["suite"]["directory"] or "") / KINDS
    settings = config["benchmark"][benchmark]
    protocol = settings["protocols"][config["protocol"]]
    words = settings.get("needs_language_data", False)
    return identity.digest(
        {
            "settings": {key: protocol[key] for key in SCORING if key in protocol},
            "shown": describe(settings, config["protocol"]),
            "unit": settings.get("unit"),
            "suite": [config["suite"]["name"], config["suite"]["synthetic"]],
            "kinds": identity.file_digest(kinds) if kinds.is_file() else "",
            "language": language_source() if words else "",
            "task": identity.task_digest(protocol["task"]),
            "code": identity.code_digest([*SCORERS, *identity.modules_named(protocol)]),
            "versions": identity.versions(identity.SCORED_BY),
        }
    )


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model's config changes answers, besides its files."""
    apart = {"_target_", "path", "revision", "device", "joint_space", "joint_space_revision"}
    model = config["model"]
    return {
        "adapter": model["load"]["_target_"],
        "max_new_tokens": model["max_new_tokens"],
        **{key: model[key] for key in ("default_new_tokens", "ignored_stops") if key in model},
        **{key: value for key, value in model["load"].items() if key not in apart},
    }


def described(strategy: Strategy) -> dict[str, Any]:
    """A strategy as plain data: class and hyper-parameters, those of nested strategies too."""
    kind = type(strategy)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **parameters(strategy)}


def parameters(strategy: Strategy) -> dict[str, Any]:
    """The hyper-parameters as plain data; a strategy among them with its class."""
    names: list[str] = [each.name for each in fields(strategy)] if is_dataclass(strategy) else []
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(strategy, name)
        if isinstance(value, Strategy):
            value = described(value)
        found[name] = list(value) if isinstance(value, tuple) else value  # as a row is read back
    return found


def strategy_modules(strategy: Strategy) -> list[str]:
    """Where a strategy's class and its bases are defined, and those of the strategies in it."""
    found = [base.__module__ for base in type(strategy).__mro__ if base is not object]
    for value in vars(strategy).values():
        if isinstance(value, Strategy):
            found += strategy_modules(value)
    return list(dict.fromkeys(found))

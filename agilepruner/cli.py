"""The command line: compose a config, run its cells, print the table."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from agilepruner.errors import UserError, unknown
from agilepruner.places import CONFIGS, project
from agilepruner.ranks import first
from agilepruner.streams import sturdy_streams

ONE_EACH = ("model", "suite", "table", "analysis", "logger", "launcher")
GROUPS = (*ONE_EACH, "strategy", "benchmark")

NOISY = (
    *("httpx", "httpx2", "httpcore", "urllib3", "fsspec", "filelock", "huggingface_hub"),
    *("datasets", "transformers", "lmms-eval", "numexpr"),
)

log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("project", project, replace=True)


def _sweep_directory(results: str, name: str | int) -> str:
    """Where Hydra writes a sweep's record; it does so before the first job checks the name."""
    from agilepruner.config import Name
    from agilepruner.ranges import conform

    return str(Path(str(results)) / conform(Name, name, "name"))


OmegaConf.register_new_resolver("sweep_directory", _sweep_directory, replace=True)


class Sweep(Callback):
    """Where a sweep's jobs leave their rows, known before the first of them runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _apart(config.hydra.launcher):
            _sweeps.append(config)


_sweeps: list[DictConfig] = []


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def run(config: DictConfig) -> None:
    """One composed config: answer, score, report. A sweep calls this once per job."""
    hydra_config = HydraConfig.get()
    sweeps = hydra_config.mode == RunMode.MULTIRUN
    if sweeps and _apart(hydra_config.launcher):  # what goes wrong is for who launched it to say
        _log_to_stderr()
        _run(config)
        return
    try:
        _run(config)
    except UserError as error:
        _stop(str(error), 2)
    except NotFinished as error:
        if not sweeps:
            _stop(str(error), 1)
        log.error("%s", error)
        _failed_jobs.append(error)


_failed_jobs: list["NotFinished"] = []


def _apart(launcher: Any) -> bool:
    """Whether a launcher runs its jobs in processes of their own."""
    return not str(launcher._target_).endswith(".BasicLauncher")


class NotFinished(Exception):
    """Some cells have no score, or something could not be stored; exit status 1."""


def _run(config: DictConfig) -> None:
    from agilepruner.runner.plan import identify, plan
    from agilepruner.runner.run import execute

    _one_choice_each(HydraConfig.get().overrides.task)
    planned = plan(config)
    if planned.config["dry_run"]:
        from agilepruner.dry_run import describe

        _show(describe(planned))
        return
    planned = identify(planned)
    write = partial(_write_so_far, planned) if first() else lambda rows: None  # one prints
    outcome = execute(planned, write, _first_look(planned.config))
    problems = [outcome.problem] if outcome.problem else []
    if not first():  # it would end the others with a status of its own
        return
    shown = outcome.rows
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        shown = _with_earlier(planned, outcome.rows)
    if planned.config["analysis"]:
        problems += _analyse(planned, outcome.rows)
    else:
        reference = planned.config["reference"]
        problems += _report(shown, planned.directory, planned.config["name"], reference)
    _log(planned, outcome.rows)
    failed = [row for row in outcome.rows if row.status != "done"]
    if failed:
        cells = ", ".join(f"{r.strategy}@{r.budget} on {r.benchmark}" for r in failed[:5])
        problems.append(
            f"{len(failed)} of {len(planned.cells)} cells failed ({cells}): {failed[0].error}. "
            "Mend the cause and run the same command: it tries the failed documents again and no "
            "others."
        )
    if problems:
        raise NotFinished(" ".join(problems))


def _first_look(config: Any) -> Any:
    """What vanilla's first answers are held against; None where nothing was published."""
    from agilepruner.report.anchor import far_from_published, is_published

    published = is_published(config["model"]["name"]) and not config["suite"]["synthetic"]
    return far_from_published if published else None


def _write_so_far(planned: Any, rows: list[Any]) -> None:
    """Bring table and page up to date while the run goes on."""
    from agilepruner.report.table import make_report
    from agilepruner.runner.claims import Claims

    try:
        report = make_report(rows, planned.config["name"])
        with Claims(planned.directory) as claims:
            claims.take("report", wait=True)
            report.write(planned.directory)
    except (OSError, UserError) as error:
        log.warning("the table so far could not be written: %s", error)


def _report(rows: list[Any], directory: Path, name: str, reference: str | None = None) -> list[str]:
    """Print and write a report; what could not be written."""
    from agilepruner.report.kinds import kinds_of
    from agilepruner.report.table import make_report
    from agilepruner.runner.claims import Claims

    report = make_report(rows, name, kinds_of(rows), reference)
    _show(report.text)
    try:
        with Claims(directory) as claims:
            claims.take("report", wait=True)
            report.write(directory)
    except (OSError, UserError) as error:
        return [f"The report could not be written to {directory}: {error}."]
    return []


def _analyse(planned: Any, rows: list[Any]) -> list[str]:
    """Print an analysis and write its files; what stood in the way."""
    from agilepruner.report.analyses import analyse
    from agilepruner.report.sheets import render_text

    try:
        function = planned.config["analysis"]
        finding = analyse(function, rows, planned.directory)
        _show(render_text(finding.sheet))
        where = planned.directory / "analyses" / function.rpartition(".")[2]
        finding.write(where)
    except (OSError, UserError) as error:
        return [f"The analysis was not made: {error}"]
    log.info("data, figure and table: %s", where)
    return []


def _log(planned: Any, rows: list[Any]) -> None:
    settings = planned.config["logger"]
    if settings["kind"] == "wandb":
        from agilepruner.report.wandb import log_rows

        log_rows(rows, settings["project"], settings["group"], settings["mode"], planned.directory)


def _one_choice_each(overrides: Sequence[str]) -> None:
    """Refuse a list of models (suites, tables, analyses, loggers): Hydra would mix settings."""
    for key, _, value in (override.partition("=") for override in overrides):
        if key in ONE_EACH and value.startswith("["):
            raise UserError(
                f"{key}={value}, expected one name: sweep over several with -m {key}={value[1:-1]}."
            )


def _with_earlier(planned: Any, rows: list[Any]) -> list[Any]:
    """A sweep's jobs fill one table: this job's rows and the finished ones beside them."""
    from agilepruner.runner.run import context, rows_in

    own = {(_table(row), context(row)) for row in rows}
    ids = {row.id for row in rows}
    beside = [row for row in rows_in(planned.directory) if row.id not in ids]
    fitting = [row for row in beside if (_table(row), context(row)) in own]
    return _together([*fitting, *rows])


def _table(row: Any) -> tuple[str, str, str]:
    return row.model, row.suite, row.protocol


def _together(rows: list[Any]) -> list[Any]:
    """Of each table the rows that can stand in one: those of the newest row's model and limit.

    Rows come oldest first. A cell that was answered by older code and by newer is shown once.
    """
    from agilepruner.runner.run import context

    newest = {_table(row): context(row) for row in rows}
    fitting = [row for row in rows if context(row) == newest[_table(row)]]
    cells = {
        (*_table(row), row.strategy, str(row.parameters), row.budget, row.benchmark): row
        for row in fitting
    }
    left = len(rows) - len(cells)
    if left:
        log.warning("%d earlier rows are left out: other weights, limit or code", left)
    return list(cells.values())


def _show(text: str) -> None:
    """Print a result; a closed or full stdout is said on stderr and costs nothing else."""
    try:
        print(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        log.error("the result could not be printed (%s); it is in the results directory", error)


# --- commands that need no config ---


def _from_disk(command: str, words: list[str]) -> int:
    """``agilepruner score NAME...`` and ``report NAME...``, with ``results=``, ``reference=``."""
    from agilepruner.runner.run import rescore, rows_in

    names = [word for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    root, reference = Path(settings.pop("results", "results")), settings.pop("reference", None)
    if not names or settings:
        raise UserError(
            f"agilepruner {command} NAME... [results=DIR] [reference=STRATEGY]: names of runs."
        )
    rows: list[Any] = []
    for name in names:
        directory = root / name
        if not (directory / "cells").is_dir():
            have = sorted(path.parent.name for path in root.glob("*/cells"))
            raise unknown("run", name, have) if have else UserError(f"{root} holds no runs.")
        rows += rescore(directory) if command == "score" else rows_in(directory)
    rows = _together(rows)
    joined = "+".join(names)
    problems = _report(rows, root / joined, joined, reference)
    failed = [row for row in rows if row.status != "done"] if command == "score" else []
    if failed:
        problems.append(f"{len(failed)} of {len(rows)} cells failed: {failed[0].error}.")
    if problems:
        _stop(" ".join(problems), 1)
    return 0


def _doctor(_words: list[str]) -> int:
    from agilepruner.doctor import main as examine

    return examine()


def _audit(_words: list[str]) -> int:
    from agilepruner.report.audit import main as audit

    return audit() or 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "doctor": _doctor,
    "audit-paper": _audit,
    "score": lambda words: _from_disk("score", words),
    "report": lambda words: _from_disk("report", words),
}


def main() -> None:
    """Entry point: exit status 2 for what the user must fix, 1 for failed cells."""
    _log_to_stderr()
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printer
    try:
        if command is not None:
            sys.exit(command(sys.argv[2:]))
        run()
    except UserError as error:
        _stop(str(error), 2)
    except NotFinished as error:  # of a job in a process of its own
        log.error("%s", error)
        _failed_jobs.append(error)
    except Exception as error:
        frames = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
        if _run.__code__ in frames:  # a bug; before that, Hydra composes the command line
            raise
        _stop(explain(error, sys.argv[1:]), 2)
    except KeyboardInterrupt:
        _stop("interrupted; the same command continues where this one stopped", 130)
    for sweep in _sweeps:
        _report_sweep(sweep)
    if _failed_jobs:
        _stop(f"{len(_failed_jobs)} jobs of the sweep have failed cells, see above", 1)


def _log_to_stderr() -> None:
    sturdy_streams()
    level = logging.INFO if first() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _report_sweep(config: DictConfig) -> None:
    """The table of a sweep whose jobs printed theirs elsewhere."""
    from agilepruner.runner.run import rows_in

    directory = Path(str(config.results)) / str(config.name)
    rows = rows_in(directory)
    for problem in _report(rows, directory, str(config.name), config.reference) if rows else []:
        log.error("%s", problem)


def _stop(message: str, status: int) -> NoReturn:
    print(f"agilepruner: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception, arguments: Sequence[str] = ()) -> str:
    """Say in one sentence what was wrong with the command line, and what was meant.

    Hydra's messages name the failed group or key; the nearest known one and the fix are added here.

    Args:
        error: what Hydra raised while it composed the config.
        arguments: the command line, where the message does not name the culprit.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'\n1\.", text, re.DOTALL):
        key, value = found.groups()
        return (
            f"{key}={value} is several values: put brackets around them for one run, "
            f"{key}=[{value}]; sweep over them with -m; or, where it is one text, give it quotes "
            f"of its own, {_quoted(key, value)}"
        )
    if found := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{found[1]} sweeps over values: add -m, or give a list in brackets for one run."
    if "hydra/launcher/submitit" in text:
        return "This launcher is an extra: pip install 'agilepruner[slurm]'."
    if found := re.search(rf"Could not (?:find|load) '({'|'.join(GROUPS)})/([^']*)'", text):
        group, name = found.groups()
        return str(unknown(group, name, _names(group)))
    if "Config group override must be" in text:
        for argument in arguments:
            key, _, value = argument.partition("=")
            if not key:
                return f"'{argument}' has no name: write key=value, e.g. budget=64."
            if key in GROUPS and value not in _names(key) and value[:1] != "[":
                return str(unknown(key, value, _names(key)))
    if found := re.search(r"Could not override '([\w./@]+)'", text):
        return _unknown_setting(found[1], text)
    if found := re.search(r"Error merging override (.*?) Cannot merge", text):
        return f"{found[1]} has another shape than the setting; see `agilepruner --cfg job`."
    cause = text.split("\n")[0].rstrip(".")
    if found := re.match(r"UserError raised while resolving interpolation: (.*)", cause):
        return f"{found[1]}."
    return f"{cause}. Given: {' '.join(arguments)}" if arguments else cause


def _unreadable(override: str) -> str:
    """What to do about an argument that Hydra's grammar does not read."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is no setting: write key=value, e.g. budget=64."
    if any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()")):
        return f"{override} has a bracket without its partner."
    if any(value.count(quote) % 2 for quote in "'\""):
        return f"{override} has a quote without its partner."
    if re.search(r"[\[,]\s*[,\]]", value):
        return f"{override} has an empty item: remove the comma."
    return (
        f"The value of {key} has a character that means something to Hydra ('=', braces, brackets, "
        f"a colon): give it quotes of its own inside the shell's, {_quoted(key, value)}"
    )


def _quoted(key: str, value: str) -> str:
    """A setting whose value is one text, as a shell takes it."""
    escaped = value.replace("'", "\\'")
    return f"\"{key}='{escaped}'\""


def _unknown_setting(key: str, text: str) -> str:
    """What was meant by a key that is not in the composed config."""
    from agilepruner.config import known_keys
    from agilepruner.ranges import no_setting

    parent, _, name = key.rpartition(".")
    group, *rest = key.split(".")
    if group == "hydra":
        return f"{key} is no setting of Hydra: `agilepruner --cfg hydra` shows them."
    if key in GROUPS:
        return f"{key} takes names: {', '.join(_names(key))}."
    if group in ("strategy", "benchmark") and rest:
        option, *_ = rest
        if option not in _names(group):
            return str(unknown(group, option, _names(group)))
        if f"Key '{option}' is not in struct" in text:
            return f"{key}: {group} '{option}' is not chosen; add {group}=[{option}]."
        settings = OmegaConf.load(CONFIGS / group / f"{option}.yaml")
        inside = OmegaConf.select(settings, ".".join(rest[1:-1])) if rest[1:-1] else settings
        known = list(map(str, inside)) if isinstance(inside, DictConfig) else []
        return str(no_setting(parent, name, set(known) - {"_target_"}))
    known = known_keys(parent)
    if name in known:
        return f"{key} is not set by this choice of {group}: add it with +{key}=..."
    return str(no_setting(parent, name, [*known, "table"] if not parent else known))


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


if __name__ == "__main__":
    main()

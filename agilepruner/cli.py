"""The command line: compose a config, run its cells, print the table."""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agilepruner.errors import UserError, unknown
from agilepruner.places import CONFIGS, project
from agilepruner.streams import sturdy_streams

GROUPS = ("model", "suite", "strategy", "benchmark", "table", "logger")

NOISY = (
    *("httpx", "httpx2", "httpcore", "urllib3", "fsspec", "filelock", "huggingface_hub"),
    *("datasets", "transformers", "lmms-eval", "numexpr"),
)

log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("project", project, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def run(config: DictConfig) -> None:
    """One composed config: answer, score, report. A sweep calls this once per job."""
    try:
        _run(config)
    except UserError as error:
        _stop(str(error), 2)
    except NotFinished as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            _stop(str(error), 1)
        log.error("%s", error)
        _failed_jobs.append(error)


_failed_jobs: list["NotFinished"] = []


class NotFinished(Exception):
    """Some cells have no score, or something could not be stored; exit status 1."""


def _run(config: DictConfig) -> None:
    from agilepruner.runner.plan import identify, plan
    from agilepruner.runner.run import execute

    planned = plan(config)
    if planned.config["dry_run"]:
        from agilepruner.dry_run import describe

        _show(describe(planned))
        return
    planned = identify(planned)
    outcome = execute(planned)
    problems = [outcome.problem] if outcome.problem else []
    if int(os.environ.get("RANK", 0)) == 0:  # of several processes one prints
        shown = outcome.rows
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            shown = _with_earlier(planned, outcome.rows)
        problems += _report(shown, planned.directory, planned.config["name"])
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


def _report(rows: list[Any], directory: Path, name: str) -> list[str]:
    """Print and write a report; what could not be written."""
    from agilepruner.report.kinds import kinds_of
    from agilepruner.report.table import make_report
    from agilepruner.runner.claims import Claims

    report = make_report(rows, name, kinds_of(rows))
    _show(report.text)
    try:
        with Claims(directory) as claims:
            claims.take("report", wait=True)
            report.write(directory)
    except (OSError, UserError) as error:
        return [f"The report could not be written to {directory}: {error}."]
    return []


def _log(planned: Any, rows: list[Any]) -> None:
    settings = planned.config["logger"]
    if settings["kind"] == "wandb":
        from agilepruner.report.wandb import log_rows

        log_rows(rows, settings["project"], settings["group"], settings["mode"], planned.directory)


def _with_earlier(planned: Any, rows: list[Any]) -> list[Any]:
    """A sweep's jobs fill one table: this job's rows and the finished ones beside them."""
    from agilepruner.runner.run import rows_in

    known = {row.id: row for row in rows}
    own = {_kind(row) for row in rows}
    for row in rows_in(planned.directory):
        if _kind(row) in own:
            known.setdefault(row.id, row)
    return list(known.values())


def _kind(row: Any) -> tuple:
    return row.model, row.suite, row.protocol, row.identity.get("limit")


def _show(text: str) -> None:
    """Print a result; a closed or full stdout is said on stderr and costs nothing else."""
    try:
        print(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        log.error("the result could not be printed (%s); it is in the results directory", error)


# --- commands that need no config ---


def _from_disk(command: str, words: list[str]) -> int:
    """``agilepruner score NAME...`` and ``agilepruner report NAME... [results=DIR]``."""
    from agilepruner.runner.run import rescore, rows_in

    names = [word for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    root = Path(settings.pop("results", "results"))
    if not names or settings:
        raise UserError(f"agilepruner {command} NAME... [results=DIR]: names of earlier runs.")
    rows: list[Any] = []
    for name in names:
        directory = root / name
        if not (directory / "cells").is_dir():
            have = sorted(path.parent.name for path in root.glob("*/cells"))
            raise unknown("run", name, have) if have else UserError(f"{root} holds no runs.")
        rows += rescore(directory) if command == "score" else rows_in(directory)
    joined = "+".join(names)
    problems = _report(rows, root / joined, joined)
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
    sturdy_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printer
    try:
        if command is not None:
            sys.exit(command(sys.argv[2:]))
        run()
    except UserError as error:
        _stop(str(error), 2)
    except (
        MissingConfigException,
        ConfigCompositionException,
        OverrideParseException,
        OmegaConfBaseException,
    ) as error:
        _stop(explain(error), 2)
    except KeyboardInterrupt:
        _stop("interrupted; the same command continues where this one stopped", 130)
    if _failed_jobs:
        _stop(f"{len(_failed_jobs)} jobs of the sweep have failed cells, see above", 1)


def _stop(message: str, status: int) -> NoReturn:
    print(f"agilepruner: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception) -> str:
    """Say in one sentence what was wrong with the command line, and what was meant.

    Hydra's messages name the failed group or key; the nearest known one is added here.
    """
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    if found := re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", text):
        group, name = found.groups()
        return str(unknown(group, name, _names(group)))
    if found := re.search(r"Could not override '([\w./@]+)'", text):
        key = found.group(1)
        return str(unknown("setting", key, _settings(text, key)))
    if found := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{found.group(1)} has no value yet: add {found.group(1)}=... to the command."
    return text.split("\n")[0]


def _names(group: str) -> list[str]:
    return [path.stem for path in (CONFIGS / group).glob("*.yaml")]


def _settings(text: str, key: str) -> list[str]:
    """Keys that exist where the unknown one was looked for."""
    config = OmegaConf.load(CONFIGS / "config.yaml")
    top = [name for name in config if name not in ("defaults", "hydra")] + list(GROUPS)
    parent, _, _ = key.rpartition(".")
    parts = parent.split(".") if parent else []
    if len(parts) >= 2 and parts[0] in GROUPS:
        path = CONFIGS / parts[0] / f"{parts[1]}.yaml"
        if path.exists():
            names = [str(name) for name in OmegaConf.load(path) if name != "_target_"]
            return [f"{parent}.{name}" for name in names]
    return [str(name) for name in top]


if __name__ == "__main__":
    main()

"""The command line: compose a config, run its cells, print the table."""

import logging
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agilepruner.errors import UserError, unknown
from agilepruner.places import CONFIGS, project

GROUPS = ("model", "suite", "strategy", "benchmark", "table", "logger")

log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("project", project, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def run(config: DictConfig) -> None:
    """One composed config: answer, score, report. A sweep calls this once per job."""
    try:
        _run(config)
    except UserError as error:
        _stop(str(error), 2)
    except CellsFailed as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            _stop(str(error), 1)
        log.error("%s", error)
        _failed_jobs.append(error)


_failed_jobs: list["CellsFailed"] = []


def _run(config: DictConfig) -> None:
    from agilepruner.runner.experiment import execute, plan

    planned = plan(config)
    if planned.config["dry_run"]:
        from agilepruner.dry_run import describe

        print(describe(planned))
        return
    rows = execute(planned)
    from agilepruner.report.kinds import read_kinds
    from agilepruner.report.table import write_report

    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    shown = _with_earlier(planned, rows) if sweeping else rows
    kinds = read_kinds(Path(planned.config["suite"]["directory"] or "") / "scenes.csv")
    print(write_report(shown, planned.directory, planned.config["name"], kinds=kinds))
    settings = planned.config["logger"]
    if settings["kind"] == "wandb":
        from agilepruner.report.wandb import log_rows

        log_rows(rows, settings["project"], settings["group"], settings["mode"], planned.directory)
    failed = [row for row in rows if row.status != "done"]
    if failed:
        cells = ", ".join(f"{r.strategy}@{r.budget} on {r.benchmark}" for r in failed[:5])
        raise CellsFailed(
            f"{len(failed)} of {len(rows)} cells failed ({cells}): {failed[0].error} "
            "Their documents are tried again when you run the same command."
        )


class CellsFailed(Exception):
    """Some cells have no score; exit status 1."""


def _with_earlier(planned, rows):
    """A sweep's jobs fill one table: this job's rows and the finished ones beside them."""
    from agilepruner.runner.rows import read_row

    known = {row.id: row for row in rows}
    for path in sorted((planned.directory / "cells").glob("*/row.json")):
        row = read_row(path)
        if row is not None and (row.model, row.suite, row.protocol) == (
            planned.config["model"]["name"],
            planned.config["suite"]["name"],
            planned.config["protocol"],
        ):
            known.setdefault(row.id, row)
    return list(known.values())


def main() -> None:
    """Entry point: exit status 2 for what the user must fix, 1 for failed cells."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "datasets", "transformers", "lmms-eval", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if sys.argv[1:] == ["doctor"]:
        from agilepruner.doctor import main as examine

        sys.exit(examine())
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printer
    try:
        run()
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

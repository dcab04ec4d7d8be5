"""The command line: compose a config, run its cells, print the table."""

import logging
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from agilepruner import commands
from agilepruner.errors import NotFinished, UserError
from agilepruner.overrides import explain, names, one_choice_each
from agilepruner.places import CONFIGS
from agilepruner.ranks import first
from agilepruner.reporting import analysed, failures, refreshed, report, show, together
from agilepruner.streams import sturdy_streams

NOISY = (
    *("httpx", "httpx2", "httpcore", "urllib3", "fsspec", "filelock", "huggingface_hub"),
    *("datasets", "transformers", "lmms-eval", "numexpr"),
)

log = logging.getLogger(__name__)


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


_failed_jobs: list[NotFinished] = []


def _apart(launcher: Any) -> bool:
    """Whether a launcher runs its jobs in processes of their own."""
    return not str(launcher._target_).endswith(".BasicLauncher")


def _run(config: DictConfig) -> None:
    from agilepruner.report.published import check_table
    from agilepruner.report.settings import Settings
    from agilepruner.runner.plan import identify, plan
    from agilepruner.runner.run import execute

    one_choice_each(HydraConfig.get().overrides.task)
    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    planned = plan(config, beside=names("strategy") if multirun else ())
    settings = Settings.of(planned.config)
    if planned.config["dry_run"]:
        from agilepruner.dry_run import describe

        show(describe(planned))
        return
    check_table(settings.paper)
    sink = _sink(planned.config)
    planned = identify(planned)
    write = partial(_write_so_far, planned, settings) if first() else None  # one prints
    outcome = execute(planned, write, _first_look(planned.config))
    problems = [outcome.problem] if outcome.problem else []
    if planned.config["noise"] and not outcome.problem:
        problems += _noise(planned)
    if not first():  # it would end the others with a status of its own
        return
    shown = outcome.rows
    if multirun:
        shown = _with_earlier(planned, outcome.rows)
    if planned.config["analysis"]:
        problems += analysed(planned, outcome.rows)
        problems += refreshed(planned.directory, planned.config["name"], settings)
    else:
        problems += report(shown, planned.directory, planned.config["name"], settings)
    _log(sink, shown, planned.directory)
    problems += failures(outcome.rows, len(planned.cells))
    if problems:
        raise NotFinished(" ".join(problems))


def _noise(planned: Any) -> list[str]:
    """Answer vanilla once more, for the noise floor; what went wrong."""
    from agilepruner.runner.run import execute, once_more

    again = once_more(planned)
    log.info("the noise floor: vanilla once more, batch_size=%d", again.config["batch_size"])
    outcome = execute(again)
    failed = [row for row in outcome.rows if row.status != "done"]
    problems = [f"The noise floor is not whole: {failed[0].error}."] if failed else []
    return problems + ([outcome.problem] if outcome.problem else [])


def _first_look(config: Any) -> Any:
    """What vanilla's first answers are held against; None where nothing was published."""
    from agilepruner.report.anchor import far_from_published, is_published

    published = is_published(config["model"]["name"]) and not config["suite"]["synthetic"]
    return far_from_published if published else None


def _write_so_far(planned: Any, settings: Any, rows: list[Any]) -> None:
    """Bring table and page up to date while the run goes on."""
    from agilepruner.report.settings import FILE
    from agilepruner.report.table import make_report
    from agilepruner.runner.claims import Claims

    there = settings.reference in {row.strategy for row in rows}
    judged = settings if there else replace(settings, reference=None)  # its line comes later
    try:
        report = make_report(rows, planned.config["name"], None, judged)
        report = replace(report, files={**report.files, FILE: settings.text()})
        with Claims(planned.directory) as claims:
            claims.take("report", wait=True)
            report.write(planned.directory)
    except (OSError, UserError) as error:
        log.warning("the table so far could not be written: %s", error)


def _sink(config: Any) -> Any:
    """Where rows go besides files; None: nowhere.

    Raises:
        UserError: W&B is wanted and is not installed.
    """
    from agilepruner.report.wandb import Sink

    logger = config["logger"]
    if logger["kind"] != "wandb":
        return None
    return Sink(logger["project"], logger["group"], logger["mode"])


def _log(sink: Any, rows: list[Any], directory: Path) -> None:
    if sink is not None:
        from agilepruner.documents import OnDisk
        from agilepruner.report.wandb import log_results

        log_results(rows, sink, directory, OnDisk([directory]))


def _with_earlier(planned: Any, rows: list[Any]) -> list[Any]:
    """A sweep's jobs fill one table: this job's rows and the finished ones beside them."""
    from agilepruner.report.join import table_of
    from agilepruner.runner.stored import context, rows_in

    own = {(table_of(row), context(row)) for row in rows}
    ids = {row.id for row in rows}
    beside = [row for row in rows_in(planned.directory) if row.id not in ids]
    fitting = [row for row in beside if (table_of(row), context(row)) in own]
    return together([*fitting, *rows])


def main() -> None:
    """Entry point: exit status 2 for what the user must fix, 1 for failed cells."""
    _log_to_stderr()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printer
    try:
        if sys.argv[1:2] and sys.argv[1] in commands.NAMES:
            _command(sys.argv[1], sys.argv[2:])
        run()
    except UserError as error:
        _stop(str(error), 2)
    except NotFinished as error:  # of a job in a process of its own
        log.error("%s", error)
        _failed_jobs.append(error)
    except Exception as error:
        frames = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
        if {_run.__code__, _command.__code__} & set(frames):
            raise  # a bug; before that, Hydra composes the command line
        _stop(explain(error, sys.argv[1:]), 2)
    except KeyboardInterrupt:
        _stop("interrupted; the same command continues where this one stopped", 130)
    for sweep in _sweeps:
        _report_sweep(sweep)
    if _failed_jobs:
        _stop(f"{len(_failed_jobs)} jobs of the sweep have failed cells, see above", 1)


def _command(name: str, words: list[str]) -> NoReturn:
    try:
        sys.exit(commands.command(name)(words))
    except NotFinished as error:
        _stop(str(error), 1)


def _log_to_stderr() -> None:
    sturdy_streams()
    level = logging.INFO if first() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _report_sweep(config: DictConfig) -> None:
    """The table of a sweep whose jobs printed theirs elsewhere."""
    from agilepruner.report.settings import Settings
    from agilepruner.runner.stored import rows_in

    directory = Path(str(config.results)) / str(config.name)
    rows = together(rows_in(directory))
    settings = Settings.of(config)
    for problem in report(rows, directory, str(config.name), settings) if rows else []:
        log.error("%s", problem)


def _stop(message: str, status: int) -> NoReturn:
    print(f"agilepruner: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()

"""The paper's study as one run: every analysis, with each image encoded once for all of them."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agilepruner.runner.plan import Run

USAGE = "agilepruner study [analysis...] [words of a run, e.g. model=demo limit=24]"
# What analyses may set apart from each other; all else is the run's, and the same for all.
OWN = ("strategy", "benchmark", "budget", "vanilla", "analysis", "measure", "reference")

log = logging.getLogger(__name__)


def run(words: list[str]) -> int:
    """``agilepruner study [analysis...] [words of a run]``; without names, every analysis.

    The same cells, journals and files as ``agilepruner analysis=...`` one after the other, so a
    study that was stopped goes on where it was. An analysis fails alone: the others are made.
    """
    from agilepruner.errors import NotFinished, UserError, unknown
    from agilepruner.overrides import composed
    from agilepruner.places import CONFIGS
    from agilepruner.ranks import first
    from agilepruner.report.settings import Settings
    from agilepruner.reporting import analysed, failures, refreshed
    from agilepruner.runner.plan import identify, plan
    from agilepruner.runner.run import execute

    known = sorted(path.stem for path in (CONFIGS / "analysis").glob("*.yaml"))
    known.remove("none")
    names = [word for word in words if "=" not in word]
    given = [word for word in words if "=" in word]
    for name in names:
        if name not in known:
            raise unknown("analysis", name, known)
    plans = {
        name: plan(composed([f"analysis={name}", *given])) for name in dict.fromkeys(names or known)
    }
    whole = together(plans)
    if whole.config["logger"]["kind"] != "none":
        raise UserError(
            f"agilepruner study logs nowhere; agilepruner wandb-sync {whole.config['name']} does, "
            "when it is done."
        )
    if whole.config["dry_run"]:
        from agilepruner.dry_run import describe
        from agilepruner.reporting import show

        show(describe(whole))
        return 0
    whole = identify(whole)
    cells = _cells_of(plans, whole)
    outcome = execute(whole)
    if not first():  # one process prints and writes
        return 0
    rows = {row.id: row for row in outcome.rows}
    problems = [outcome.problem] if outcome.problem else []
    for name, own in plans.items():
        log.info("analysis %s", name)
        part = replace(
            whole,
            config=own.config,
            cells=cells[name],
            sources={b: s for b, s in whole.sources.items() if b in own.config["benchmark"]},
        )
        found = [rows[cell.id] for cell in part.cells if cell.id in rows]
        problems += [f"{name}: {problem}" for problem in analysed(part, found)]
    name, settings = whole.config["name"], Settings.of(whole.config)
    problems += refreshed(whole.directory, name, settings)
    problems += failures(outcome.rows, len(whole.cells))
    if problems:
        raise NotFinished(" ".join(problems))
    return 0


def together(plans: Mapping[str, "Run"]) -> "Run":
    """One run of the cells of several, each once.

    Raises:
        UserError: they set a thing differently that can be set once only.
    """
    from agilepruner.errors import UserError

    first_name, first = next(iter(plans.items()))
    benchmarks: dict[str, Any] = {}
    seen, cells = set(), []
    for name, one in plans.items():
        for key in {*first.config, *one.config} - set(OWN):
            if first.config.get(key) != one.config.get(key):
                raise UserError(
                    f"The analyses {first_name} and {name} differ in {key}: run them apart, "
                    f"agilepruner analysis={name}."
                )
        for benchmark, settings in one.config["benchmark"].items():
            if benchmarks.setdefault(benchmark, settings) != settings:
                raise UserError(
                    f"The analysis {name} has another benchmark {benchmark} than those before it: "
                    f"run it apart, agilepruner analysis={name}."
                )
        for cell in one.cells:
            if _what(cell) not in seen:
                seen.add(_what(cell))
                cells.append(cell)
    cells.sort(key=lambda cell: cell.strategy_name != "vanilla")
    return replace(first, config={**first.config, "benchmark": benchmarks}, cells=cells)


def _what(cell: Any) -> tuple[Any, ...]:
    """What makes a cell another one within a run."""
    return cell.benchmark, cell.budget, cell.positions, cell.strategy_name, repr(cell.strategy)


def _cells_of(plans: Mapping[str, "Run"], whole: "Run") -> Mapping[str, list[Any]]:
    """The identified cells of each analysis."""
    from agilepruner.errors import UserError

    identified = {_what(cell): cell for cell in whole.cells}
    names = {cell.id: cell.strategy_name for cell in whole.cells}
    for cell in whole.cells:
        if names[cell.id] != cell.strategy_name:
            raise UserError(
                f"{cell.strategy_name} and {names[cell.id]} are the same strategy on "
                f"{cell.benchmark}: give them one name, or run their analyses apart."
            )
    return {name: [identified[_what(cell)] for cell in own.cells] for name, own in plans.items()}

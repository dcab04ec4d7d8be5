"""Documents that a difference needs, from a run's variance, before the GPU hours are spent."""

from typing import Any

USAGE = (
    "agilepruner power NAME... difference=POINTS [benchmark=pope,gqa|average|all] "
    "[strategies=FIRST,OTHER,...] [power=0.8] [comparisons=1] [results=DIR]"
)


def run(words: list[str]) -> int:
    """Print, per budget and pair of strategies, what a difference needs."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import UserError
    from agilepruner.report.estimates import LEVEL
    from agilepruner.report.lines import build_tables
    from agilepruner.report.power import needs, sheet
    from agilepruner.report.sheets import render_text
    from agilepruner.report.statistics import Samples
    from agilepruner.reporting import joined, show

    keys = ("difference", "benchmark", "strategies", "power", "comparisons", "results")
    names, settings = parsed(words, USAGE, keys)
    difference = _number(settings, "difference", None, 0, float("inf"))
    power = _number(settings, "power", "0.8", 0, 1)
    comparisons = _number(settings, "comparisons", "1", 0, float("inf"))
    level = LEVEL / max(comparisons, 1)
    if power <= level:
        raise UserError(f"power={power:g}, expected more than the level of the test, {level:.3g}.")
    runs = directories(names, USAGE, settings.get("results", "results"))
    rows = joined(runs).rows
    shown = False
    for table in build_tables(rows):
        samples = Samples(table)
        pairs, columns = _pairs(table, settings), _columns(table, settings)
        found = list(needs(samples, pairs, columns, difference, power, level))
        if found:
            show(render_text(sheet(samples, found, difference, power, level, sizes())))
            shown = True
    if not shown:
        raise UserError(
            "These runs hold no two finished lines that answered the same documents in that "
            "column. Run two strategies on it, e.g. with limit=100, and try again."
        )
    return 0


def _number(given: dict[str, str], key: str, default: str | None, low: float, high: float) -> float:
    """A setting above ``low`` and below ``high``."""
    from agilepruner.errors import UserError

    text = given.get(key, default)
    if text is None:
        raise UserError(f"Give the difference to look for, e.g. {key}=1. Usage: {USAGE}")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low < value < high:
        between = f"above {low:g}" + (f" and below {high:g}" if high < float("inf") else "")
        raise UserError(f"{key}={text}, expected a number {between}.")
    return value


def _columns(table: Any, given: dict[str, str]) -> list[Any]:
    """The columns that were asked for; the Average where none was, if there is one."""
    from agilepruner.errors import unknown
    from agilepruner.report.lines import AVERAGE

    average = [AVERAGE] if table.averaged else []
    wanted = given.get("benchmark", "average" if average else "all").strip("[]").split(",")
    if wanted == ["all"]:
        return [*table.columns, *average]
    for name in wanted:
        if name not in (*table.shown, "average"):
            raise unknown("benchmark", name, [*table.shown, "average", "all"])
    chosen = [column for column in table.columns if column.benchmark in wanted]
    return chosen + (average if "average" in wanted else [])


def _pairs(table: Any, given: dict[str, str]) -> list[tuple[Any, Any]]:
    """The first strategy's lines beside the others' of each budget; by default, the reference's."""
    from agilepruner.errors import UserError, unknown
    from agilepruner.report.lines import VANILLA
    from agilepruner.report.statistics import REFERENCE

    names = list(dict.fromkeys(line.strategy for line in table.lines))
    if "strategies" in given:
        first, *others = given["strategies"].strip("[]").split(",")
        for name in (first, *others):
            if name not in names:
                raise unknown("strategy", name, names)
        if not others or first in others:
            raise UserError(f"strategies={given['strategies']}, expected two or more, each once.")
    else:
        first = REFERENCE if REFERENCE in names else VANILLA
        others = [name for name in names if name not in (first, VANILLA)]
    if VANILLA in others:  # it has no budget: the others are held against it
        others = [*(name for name in others if name != VANILLA), first]
        first = VANILLA
    if first == VANILLA:
        mine = [table.vanilla] if table.vanilla else []
        return [(line, own) for own in mine for line in table.lines if line.strategy in others]
    return [
        (own, other)
        for group in table.groups
        for own in group.lines
        if own.strategy == first
        for other in group.lines
        if other.strategy in others
    ]


def sizes() -> dict[str, int]:
    """Benchmark -> documents of its whole split, as its config says."""
    from omegaconf import OmegaConf

    from agilepruner.places import CONFIGS

    found = {}
    for path in sorted((CONFIGS / "benchmark").glob("*.yaml")):
        size = OmegaConf.select(OmegaConf.load(path), "hub.size")
        if size is not None:
            found[path.stem] = int(size)
    return found

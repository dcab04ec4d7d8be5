"""Tables and page of runs from disk, also while one goes on."""


def run(words: list[str]) -> int:
    """``agilepruner report NAME...`` and settings, see ``reporting.USAGE``."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished
    from agilepruner.reporting import (
        SETTINGS,
        USAGE,
        documents,
        joined,
        place_of,
        report,
        settings_of,
    )

    usage = f"agilepruner report {USAGE}"
    names, given = parsed(words, usage, SETTINGS)
    runs = directories(names, usage, given.get("results", "results"))
    settings, wanted = settings_of(runs, given), documents(given.get("documents"))
    found, title = joined(runs), "+".join(names)
    sources = found.sheets if len(runs) > 1 else []
    where = place_of(runs, given)
    problems = report(found.rows, where, title, settings, runs, wanted, sources)
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

"""Tables and page of runs from disk, also while one goes on."""


def run(words: list[str]) -> int:
    """``agilepruner report NAME... [results=DIR] [reference=STRATEGY] [documents=N|all]``."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished
    from agilepruner.reporting import SETTINGS, documents, report, together
    from agilepruner.runner.stored import rows_in

    usage = "agilepruner report NAME... [results=DIR] [reference=STRATEGY] [documents=N|all]"
    names, settings = parsed(words, usage, SETTINGS)
    runs = directories(names, usage, settings.get("results", "results"))
    rows = together([row for directory in runs for row in rows_in(directory)])
    joined = "+".join(names)
    wanted = documents(settings.get("documents"))
    reference = settings.get("reference")
    problems = report(rows, runs[0].parent / joined, joined, reference, runs, wanted)
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

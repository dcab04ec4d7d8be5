"""Tables and page of runs from disk, also while one goes on."""


def run(words: list[str]) -> int:
    """``agilepruner report NAME... [results=DIR] [reference=STRATEGY] [documents=N|all]``."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished
    from agilepruner.reporting import SETTINGS, documents, joined, report

    usage = "agilepruner report NAME... [results=DIR] [reference=STRATEGY] [documents=N|all]"
    names, settings = parsed(words, usage, SETTINGS)
    runs = directories(names, usage, settings.get("results", "results"))
    found, title = joined(runs), "+".join(names)
    wanted, reference = documents(settings.get("documents")), settings.get("reference")
    directory = runs[0].parent / title
    sources = found.sheets if len(runs) > 1 else []
    problems = report(found.rows, directory, title, reference, runs, wanted, sources)
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

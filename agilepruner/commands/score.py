"""Score journals again with the code of today: no model, seconds."""


def run(words: list[str]) -> int:
    """``agilepruner score NAME... [results=DIR] [reference=STRATEGY]``."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished
    from agilepruner.reporting import report, together
    from agilepruner.runner.run import rescore

    usage = "agilepruner score NAME... [results=DIR] [reference=STRATEGY]"
    names, settings = parsed(words, usage, ("results", "reference"))
    runs = directories(names, usage, settings.get("results", "results"))
    rows = together([row for directory in runs for row in rescore(directory)])
    joined = "+".join(names)
    problems = report(rows, runs[0].parent / joined, joined, settings.get("reference"))
    failed = [row for row in rows if row.status != "done"]
    if failed:
        problems.append(f"{len(failed)} of {len(rows)} cells failed: {failed[0].error}.")
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

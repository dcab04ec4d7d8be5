"""Score journals again with the code of today: no model, seconds."""


def run(words: list[str]) -> int:
    """``agilepruner score NAME... [results=DIR] [documents=N|all]``; then the runs' own reports."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished
    from agilepruner.reporting import documents, report, settings_of, together
    from agilepruner.runner.stored import rescore

    usage = "agilepruner score NAME... [results=DIR] [documents=N|all]"
    names, given = parsed(words, usage, ("results", "documents"))
    runs = directories(names, usage, given.get("results", "results"))
    settings = settings_of(runs, {})
    wanted = documents(given.get("documents"))
    rows = together([row for directory in runs for row in rescore(directory)])
    joined = "+".join(names)
    problems = report(rows, runs[0].parent / joined, joined, settings, runs, wanted)
    failed = [row for row in rows if row.status != "done"]
    if failed:
        problems.append(f"{len(failed)} of {len(rows)} cells failed: {failed[0].error}.")
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

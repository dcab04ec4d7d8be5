"""Score journals again with the code of today: no model, seconds."""


def run(words: list[str]) -> int:
    """``agilepruner score NAME... [results=DIR] [documents=N|all] [scorers=N]``, then a report."""
    from agilepruner.commands import directories, parsed
    from agilepruner.config import Processes
    from agilepruner.errors import NotFinished
    from agilepruner.ranges import conform
    from agilepruner.reporting import documents, report, settings_of, together
    from agilepruner.runner.stored import rescore

    usage = "agilepruner score NAME... [results=DIR] [documents=N|all] [scorers=N]"
    names, given = parsed(words, usage, ("results", "documents", "scorers"))
    said = given.get("scorers")
    count = conform(Processes, int(said) if said and said.isdecimal() else said, "scorers")
    runs = directories(names, usage, given.get("results", "results"))
    settings = settings_of(runs, {})
    wanted = documents(given.get("documents"))
    rows = together([row for directory in runs for row in rescore(directory, count)])
    joined = "+".join(names)
    problems = report(rows, runs[0].parent / joined, joined, settings, runs, wanted)
    failed = [row for row in rows if row.status != "done"]
    if failed:
        problems.append(f"{len(failed)} of {len(rows)} cells failed: {failed[0].error}.")
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

"""Score journals again with the code of today: no model, seconds."""


def run(words: list[str]) -> int:
    """``agilepruner score NAME... [results=DIR] [reference=STRATEGY] [documents=N|all]``."""
    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished
    from agilepruner.reporting import SETTINGS, documents, report, together
    from agilepruner.runner.stored import rescore

    usage = "agilepruner score NAME... [results=DIR] [reference=STRATEGY] [documents=N|all]"
    names, settings = parsed(words, usage, SETTINGS)
    runs = directories(names, usage, settings.get("results", "results"))
    rows = together([row for directory in runs for row in rescore(directory)])
    joined = "+".join(names)
    wanted = documents(settings.get("documents"))
    reference = settings.get("reference")
    problems = report(rows, runs[0].parent / joined, joined, reference, runs, wanted)
    failed = [row for row in rows if row.status != "done"]
    if failed:
        problems.append(f"{len(failed)} of {len(rows)} cells failed: {failed[0].error}.")
    if problems:
        raise NotFinished(" ".join(problems))
    return 0

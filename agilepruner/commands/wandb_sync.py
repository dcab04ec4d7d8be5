"""Push earlier or offline runs' cells and tables to Weights & Biases."""


def run(words: list[str]) -> int:
    """``agilepruner wandb-sync NAME... [project=] [group=] [mode=auto|online|offline]``."""
    from agilepruner.commands import directories, parsed
    from agilepruner.config import Logger
    from agilepruner.documents import OnDisk
    from agilepruner.errors import NotFinished
    from agilepruner.ranges import conform
    from agilepruner.report.wandb import Sink, log_results
    from agilepruner.reporting import joined, show

    usage = (
        "agilepruner wandb-sync NAME... [project=agilepruner] [group=NAME] "
        "[mode=auto|online|offline] [results=DIR]"
    )
    names, given = parsed(words, usage, ("project", "group", "mode", "results"))
    runs = directories(names, usage, given.get("results", "results"))
    found, title = joined(runs), "+".join(names)
    known = {"kind": "wandb", "project": "agilepruner", "group": title, "mode": "auto", **given}
    known.pop("results", None)
    logger = conform(Logger, known, "logger")
    sink = Sink(logger["project"], logger["group"], logger["mode"])
    where = {run.name: run for run in runs}
    homes = {cell: (given.get("group", name), where[name]) for cell, name in found.origin.items()}
    directory = runs[0].parent / title
    logged = log_results(found.rows, sink, directory, OnDisk(runs), homes)
    show(f"{logged.cells} cells and {logged.tables} tables were new to W&B ({logged.mode})")
    if logged.mode == "offline":
        show("Written to disk: `wandb login`, then the same command sends them.")
    if logged.failed:
        raise NotFinished(f"W&B: {logged.failed}")
    return 0

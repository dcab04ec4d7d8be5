"""Push an earlier or offline run's cells and table to Weights & Biases."""


def run(words: list[str]) -> int:
    """``agilepruner wandb-sync NAME [project=] [group=] [mode=auto|online|offline]``."""
    from agilepruner.commands import one_directory, parsed
    from agilepruner.documents import OnDisk
    from agilepruner.report.wandb import log_rows, log_tables
    from agilepruner.reporting import joined, show

    usage = (
        "agilepruner wandb-sync NAME [project=agilepruner] [group=NAME] "
        "[mode=auto|online|offline] [results=DIR]"
    )
    names, given = parsed(words, usage, ("project", "group", "mode", "results"))
    directory = one_directory(names, usage, given.get("results", "results"))
    rows = joined([directory]).rows
    where = given.get("project", "agilepruner"), given.get("group", names[0])
    mode = given.get("mode", "auto")
    cells = log_rows(rows, *where, mode, directory)
    tables = log_tables(rows, *where, mode, directory, OnDisk([directory]))
    show(f"{cells} cells and {tables} tables were new to W&B; files: {directory / 'wandb'}")
    return 0

"""Recompute the scores of a handed-in result from its journals; say what agrees."""


def run(words: list[str]) -> int:
    """``agilepruner check-submission PATH...``: 1 unless every cell agrees."""
    from pathlib import Path

    from agilepruner.commands import parsed
    from agilepruner.errors import NotFinished, UserError
    from agilepruner.report.sheets import render_text
    from agilepruner.reporting import show
    from agilepruner.submission import AGREES, check, sheet

    usage = "agilepruner check-submission PATH..., e.g. results/submissions/NAME"
    names, _ = parsed(words, usage, ())
    if not names:
        raise UserError(f"Usage: {usage}.")
    bad = total = 0
    for name in names:
        if not (Path(name) / "cells").is_dir():
            raise UserError(f"{name} is no submission: it has no folder cells/. Usage: {usage}.")
        found = check(Path(name))
        show(render_text(sheet(found, Path(name).name)))
        total += len(found)
        bad += sum(one.verdict != AGREES for one in found)
    if bad:
        raise NotFinished(f"{bad} of {total} cells do not agree, or could not be checked.")
    return 0

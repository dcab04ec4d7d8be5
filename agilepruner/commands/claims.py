"""What the paper says, and what is doubted of it, held against what runs measured."""


def run(words: list[str]) -> int:
    """``agilepruner claims NAME... [claim=NAME] [results=DIR]``; without names: all claims."""
    from functools import cache

    import pandas as pd

    from agilepruner.commands import directories, parsed
    from agilepruner.errors import NotFinished, unknown
    from agilepruner.report import claims_sheet
    from agilepruner.report.claims import Measured, claims, hold
    from agilepruner.report.frames import documents_frame
    from agilepruner.report.lines import build_tables
    from agilepruner.report.table import Report
    from agilepruner.reporting import joined, show, write

    usage = "agilepruner claims NAME... [claim=NAME] [results=DIR]"
    names, settings = parsed(words, usage, ("claim", "results"))
    chosen, wanted = claims(), settings.get("claim")
    if wanted is not None:
        chosen = tuple(claim for claim in chosen if claim.name == wanted)
        if not chosen:
            raise unknown("claim", wanted, [claim.name for claim in claims()])
    runs = directories(names, usage, settings.get("results", "results"))
    found = joined(runs)
    known = {row.id: row for row in found.rows}
    where = {run.name: run for run in runs}

    @cache
    def documents(cell: str) -> pd.DataFrame:
        return documents_frame([known[cell]], where[found.origin[cell]])

    def read(some: object) -> pd.DataFrame:
        frames = [documents(row.id) for row in some]  # type: ignore[attr-defined]
        frames = [frame for frame in frames if len(frame)]
        return pd.concat(frames, ignore_index=True) if frames else documents_frame([], runs[0])

    place = f"name={names[0]}"
    place += f" results={settings['results']}" if "results" in settings else ""
    judged = [
        hold(claim, measured)
        for measured in [Measured(table, read, place) for table in build_tables(found.rows)]
        for claim in chosen
    ]
    title = "+".join(names)
    text = claims_sheet.text(judged, title)
    show(text + "\n" + claims_sheet.details(judged) if wanted else text)
    if wanted is None:
        files: dict[str, str | bytes] = {
            "claims.md": claims_sheet.markdown(judged, title),
            "claims.csv": claims_sheet.claims_csv(judged),
        }
        problems = write(Report(text, files), runs[0].parent / title)
        if problems:
            raise NotFinished(" ".join(problems))
    return 0

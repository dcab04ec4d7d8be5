"""Write a run's answers as lmms-eval logs them, for its --baseline and its log viewer."""

from pathlib import Path
from typing import Any


def run(words: list[str]) -> int:
    """``agilepruner export-samples NAME [to=DIR]``: a folder per strategy and budget."""
    import logging

    from agilepruner.commands import one_directory, parsed
    from agilepruner.errors import NotFinished, UserError
    from agilepruner.reporting import finished_rows, show

    usage = "agilepruner export-samples NAME [to=DIR] [results=DIR]"
    names, settings = parsed(words, usage, ("to", "results"))
    directory = one_directory(names, usage, settings.get("results", "results"))
    rows = finished_rows(directory)
    to = Path(settings.get("to", directory / "lmms_eval"))
    lines: dict[str, list[Any]] = {}
    for row in rows:
        lines.setdefault(_line(row), []).append(row)
    problems = []
    for line, same in lines.items():
        try:
            show(f"{line}: {_export(same, directory, to / line)}")
        except Exception as error:  # of one line: the others are exported
            cause = str(error) if isinstance(error, UserError) else repr(error)
            logging.getLogger(__name__).error("%s: %s", line, cause)
            problems.append(line)
    if problems:
        raise NotFinished(f"{len(problems)} of {len(lines)} lines were not exported, see above.")
    return 0


def _line(row: Any) -> str:
    """A folder's name: model, strategy, budget, and what tells lines of a strategy apart."""
    from agilepruner.runner.identity import digest

    own = digest([row.parameters, row.identity.get("positions")])[:6]
    return f"{row.model}-{row.strategy}-{row.budget}-{own}"


def _export(rows: list[Any], directory: Path, folder: Path) -> str:
    """Write one line's samples and its ``_results.json``; what was written."""
    import json
    from time import localtime, strftime

    from agilepruner.documents import OnDisk
    from agilepruner.report.frames import entries_of
    from agilepruner.runner.rows import write_atomically
    from agilepruner.runner.stored import answered_at, folders
    from evals.samples import samples

    paths = {cell: path for path, cell in folders(directory)}
    newest = max(answered_at(paths[row.id]) for row in rows)
    stamp = strftime("%Y%m%d_%H%M%S", localtime(newest))
    reader = OnDisk([directory])
    results: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        config, source = reader.source(row)
        benchmark = config["benchmark"][row.benchmark]
        task = Path(benchmark["protocols"][row.protocol]["task"]).stem
        task = f"{row.suite}_{row.benchmark}" if row.synthetic else task
        answers = {doc: e.answer or "" for doc, e in entries_of(row, directory).items()}
        records = samples(benchmark, source, row.protocol, answers)
        text = "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in records)
        write_atomically(folder / f"{stamp}_samples_{task}.jsonl", text)
        known = {f"{name},none": value for name, value in row.metrics.items()}
        results[task] = {"alias": task, **known}
        counts[task] = {"original": len(answers), "effective": len(answers)}
    first = rows[0]
    said = f"model={first.model},strategy={first.strategy},budget={first.budget}"
    whole = {
        "results": results,
        "n-samples": counts,
        "config": {"model": "agilepruner", "model_args": said},
        "model_name": folder.name,
        "date": stamp,
        "total_evaluation_time_seconds": str(sum(sum(row.seconds.values()) for row in rows)),
    }
    write_atomically(folder / f"{stamp}_results.json", json.dumps(whole, indent=2))
    return f"{len(results)} tasks in {folder}"

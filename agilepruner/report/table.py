"""The files of a report: tables as Markdown and LaTeX, CSV files, Parquet and ``dashboard.html``.

The same rows give the same bytes, whatever their order; only the CSV's timing columns (seconds) and
the page's milliseconds differ between two runs of the same cells.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agilepruner.errors import unknown
from agilepruner.report import positions, published, variants
from agilepruner.report.dashboard import FOLDER, HOME, document_pages, page
from agilepruner.report.dashboard.documents import ALL, WANTED, Reader
from agilepruner.report.dashboard.findings import Finding
from agilepruner.report.flips import CHANGES, cell_numbers
from agilepruner.report.frames import cells_frame, parquet
from agilepruner.report.kinds import Kinds, kinds_sheet, scores_by_kind
from agilepruner.report.latex import latex
from agilepruner.report.lines import Line, Table, build_tables
from agilepruner.report.positions import positions_sheet
from agilepruner.report.settings import DEFAULT, FILE, Settings
from agilepruner.report.sheets import (
    Sheet,
    changes_sheet,
    comparison_sheet,
    cost_sheet,
    difference_sheet,
    flips_sheet,
    main_sheet,
    render_markdown,
    render_text,
)
from agilepruner.report.statistics import Analysis, analyse
from agilepruner.report.variants import variants_sheet
from agilepruner.runner.rows import BEST, Row, drop_temporaries, write_atomically

KEPT = ("min", "mean", "max", "layer_mean")
FLOPS = ("vision", "projector", "selection", "prefill", "decode", "total", "paper_macs")
COMPLEXITY = ("erank_input", "erank_kept", "entropy")
SECONDS = ("encode", "select", "generate", "score")
IDENTITY = ("model", "strategy", "family", "label")
CELL_COLUMNS = (
    *IDENTITY,
    *("parameters", "choice", "budget", "positions", "full"),
    *("benchmark", "protocol", "suite", "status"),
    *("metric", "value", "scale", "higher_is_better", "n", "relative_to_vanilla_percent"),
    *(
        "published_metric",
        "published",
        "published_as_printed",
        "published_suspect",
        "published_split",
        "measured_minus_published",
    ),
    *(f"kept_{key}" for key in KEPT),
    "phases",
    *("text_tokens", "new_tokens"),
    *(f"flops_{key}" if key != "paper_macs" else key for key in FLOPS),
    *COMPLEXITY,
    *(f"{name}{part}" for name in CHANGES for part in ("", "_low", "_high", "_n")),
    *("failures", "empty_answers", "error", "cell"),
    *(f"seconds_{key}" for key in SECONDS),
)
DIFFERENCE_COLUMNS = (
    *("model", "protocol", "suite", "budget", "benchmark", "strategy", "label"),
    *(
        "column",
        "reference",
        "reference_label",
        "seeds",
        "difference",
        "low",
        "high",
        "p_holm",
        "verdict",
    ),
    *("margin", "could_show", "units", "images"),
)
METRIC_COLUMNS = (
    *IDENTITY,
    *("parameters", "budget", "benchmark", "protocol", "suite", "metric", "value", "n", "cell"),
)


@dataclass(frozen=True)
class Report:
    """A report, made and not yet written.

    Attributes:
        text: for the terminal. files: name -> content.
        more: writes what is too much to hold, into the directory of the files.
    """

    text: str
    files: dict[str, str | bytes]
    more: Callable[[Path], None] | None = None

    def write(self, directory: Path) -> None:
        """Write every file, each whole or not at all.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        drop_temporaries(directory)
        for name, content in self.files.items():
            if isinstance(content, str):
                write_atomically(directory / name, content)
            else:
                _write_bytes(directory / name, content)
        if self.more is not None:
            self.more(directory)


def _write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_report(
    rows: Iterable[Row],
    name: str,
    kinds: Kinds | None = None,
    settings: Settings = DEFAULT,
    findings: Sequence[Finding] = (),
    again: Sequence[Sequence[Row]] = (),
    reader: Reader | None = None,
    documents: int | str = WANTED,
    sources: Sequence[Sheet] = (),
) -> Report:
    """Every file of the report, and the text for the terminal.

    Args:
        rows: finished and failed cells, in any order.
        name: title of the report.
        kinds: (benchmark, document index) -> kind of image, see ``kinds.kinds_of``.
        settings: how it judges, and the paper's table that it follows.
        findings: analyses and claims that the page shows.
        again: vanilla's cells answered once more with other batches, a list per repetition.
        reader: of documents, see ``dashboard.documents``; None: the page shows none.
        documents: on the page at most; ``all``: as many, and pages of all beside it.
        sources: sheets on where the rows are from.

    Raises:
        UserError: no row is of the strategy that is the reference.
    """
    known = list(rows)
    names, reference = {row.strategy for row in known} | {BEST}, settings.reference
    if known and reference is not None and reference not in names:
        raise unknown("reference", reference, names)
    tables = build_tables(known, again, settings.paper)
    compared = [analyse(table, reference, settings.margins) for table in tables]
    wanted = documents if isinstance(documents, int) else WANTED
    files: dict[str, str | bytes] = {
        "table.md": "\n".join(
            [markdown(tables, compared, name, kinds or {}), *map(render_markdown, sources)]
        ),
        "table.tex": latex(
            sheet
            for table, analysis in zip(tables, compared)
            for sheet in _of_paper(table, analysis, kinds or {})
        ),
        "cells.csv": cells_csv(tables),
        "cells.parquet": parquet(cells_frame(row for table in tables for row in table.rows)),
        "metrics.csv": metrics_csv(tables),
        "differences.csv": differences_csv(tables, compared),
        HOME: page(tables, compared, name, kinds or {}, findings, reader, wanted),
        FILE: settings.text(),
    }
    shown = [text(tables, compared, name), *map(render_text, sources)]
    found = Report("\n".join(shown), files)
    if documents != ALL or reader is None:
        return found
    known_reader = reader

    def all_documents(directory: Path) -> None:
        (directory / FOLDER).mkdir(exist_ok=True)
        there = []
        for said, content in document_pages(tables, compared, name, known_reader):
            write_atomically(directory / FOLDER / said["file"], content)
            there.append({**said, "file": f"{FOLDER}/{said['file']}"})
        for path in set((directory / FOLDER).glob("*.html")) - {
            directory / s["file"] for s in there
        }:
            path.unlink()  # of an earlier report: other documents, other names
        more = page(tables, compared, name, kinds or {}, findings, reader, wanted, there)
        write_atomically(directory / HOME, more)

    return replace(found, more=all_documents)


def write_report(rows: Iterable[Row], directory: Path, name: str, *more: Any) -> str:
    """Make and write a report (more: see ``make_report``); its text."""
    report = make_report(rows, name, *more)
    report.write(directory)
    return report.text


def text(tables: Sequence[Table], compared: Sequence[Analysis], name: str) -> str:
    """The report for the terminal: results, differences, published numbers."""
    if not tables:
        return f"{name}: no rows yet\n"
    parts = []
    for table, analysis in zip(tables, compared):
        sheets = [main_sheet(table, False, analysis), *_sheets(table, analysis)]
        parts += [render_text(sheet) for sheet in sheets if sheet]
    return "\n".join([f"{name}\n", *parts])


def _sheets(table: Table, analysis: Analysis) -> list[Sheet | None]:
    paired = [variants_sheet(table, analysis), positions_sheet(table, analysis)]
    return [difference_sheet(table, analysis), *paired, comparison_sheet(table)]


def _of_paper(table: Table, analysis: Analysis, kinds: Kinds) -> list[Sheet]:
    """The tables that fit a page of a paper."""
    sheets = [main_sheet(table, True, analysis), *_sheets(table, analysis)]
    sheets += [kinds_sheet(table, scores_by_kind(table, kinds)), flips_sheet(table)]
    sheets += [cost_sheet(table)]
    return [sheet for sheet in sheets if sheet]


def markdown(tables: Sequence[Table], compared: Sequence[Analysis], name: str, kinds: Kinds) -> str:
    """The report as Markdown: results, differences, published numbers, kinds of image, cost."""
    parts = [f"# {name}\n"]
    for table, analysis in zip(tables, compared):
        sheets = [*_of_paper(table, analysis, kinds), changes_sheet(table)]
        parts += [render_markdown(sheet) for sheet in sheets if sheet]
    return "\n".join(parts) if tables else f"# {name}\n\nNo rows yet.\n"


def _csv(columns: Sequence[str], records: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def cells_csv(tables: Sequence[Table]) -> str:
    """One line per cell: identity, headline metric, audit, answers changed against vanilla."""
    changed = cell_numbers(tables)
    return _csv(
        CELL_COLUMNS,
        [
            _cell_record(table, line, row) | changed.get(row.id, {})
            for table in tables
            for line in table.lines
            for rows in line.rows.values()
            for row in rows
        ],
    )


def _cell_record(table: Table, line: Line, row: Row) -> dict[str, Any]:
    done = row.status == "done"
    headline = table.first(row.benchmark)
    base = table.base(headline) if headline else None
    relative = 100 * row.value / base if done and row.value is not None and base else None
    return {
        **_identity(row),
        "choice": row.choice,
        "budget": row.budget,
        "positions": row.positions,
        "full": row.full,
        "benchmark": row.benchmark,
        "protocol": row.protocol,
        "suite": row.suite,
        "status": row.status,
        "metric": row.metric,
        "value": row.value,
        "scale": row.scale,
        "higher_is_better": row.higher_is_better,
        "n": row.n,
        "relative_to_vanilla_percent": relative,
        **_published(table, line, row),
        **{f"kept_{key}": row.kept.get(key) for key in KEPT},
        "phases": "; ".join(f"{name} {share:.4f}" for name, share in row.phases.items()),
        "text_tokens": row.text_tokens,
        "new_tokens": row.new_tokens,
        **{f"flops_{key}": row.flops.get(key) for key in FLOPS if key != "paper_macs"},
        "paper_macs": row.flops.get("paper_macs"),
        **{key: row.complexity.get(key) for key in COMPLEXITY},
        "failures": row.failures,
        "empty_answers": row.empty_answers,
        "error": row.error,
        "cell": row.id,
        **{f"seconds_{key}": row.seconds.get(key) for key in SECONDS},
    }


def _identity(row: Row) -> dict[str, Any]:
    parameters = json.dumps(row.parameters, sort_keys=True, ensure_ascii=False)
    return {key: getattr(row, key) for key in IDENTITY} | {"parameters": parameters}


def _published(table: Table, line: Line, row: Row) -> dict[str, Any]:
    """The (first) published number of a row's benchmark, where there is one."""
    for number in published.of_line(table, line, row.benchmark)[:1]:
        other = published.other_split(row)
        value = None if other else published.measured(row, number.metric)
        return {
            "published_metric": number.metric,
            "published": number.value,
            "published_as_printed": number.printed,
            "published_suspect": number.suspect,
            "published_split": other,
            "measured_minus_published": None if value is None else value - number.value,
        }
    return {}


def metrics_csv(tables: Sequence[Table]) -> str:
    """One line per cell and metric."""
    records = []
    for table in tables:
        for row in table.rows:
            for metric, value in sorted(row.metrics.items()):
                records.append(
                    _identity(row)
                    | {key: getattr(row, key) for key in ("budget", "benchmark", "protocol")}
                    | {"suite": row.suite, "metric": metric, "value": value, "n": row.n}
                    | {"cell": row.id}
                )
    return _csv(METRIC_COLUMNS, records)


def differences_csv(tables: Sequence[Table], compared: Sequence[Analysis]) -> str:
    """One line per strategy, budget and column: the difference to the reference, judged.

    Then the guided strategies', each to its own fixed one, and positions kept to them reset.
    """
    records = [
        {
            "model": d.table.model,
            "protocol": d.table.protocol,
            "suite": d.table.suite,
            "budget": d.group.budget,
            "benchmark": d.column.benchmark,
            "column": d.column.title,
            "strategy": d.line.strategy,
            "label": d.line.label,
            "reference": d.reference.strategy,
            "reference_label": d.reference.label,
            "seeds": d.line.seeds,
            "difference": d.difference,
            "low": d.low,
            "high": d.high,
            "p_holm": d.p,
            "verdict": d.verdict,
            "margin": d.margin,
            "could_show": d.smallest,
            "units": d.units,
            "images": d.images,
        }
        for table, analysis in zip(tables, compared)
        for d in [
            *analysis.differences,
            *variants.differences(table, analysis),
            *positions.differences(table, analysis),
        ]
    ]
    return _csv(DIFFERENCE_COLUMNS, records)

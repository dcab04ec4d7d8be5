"""Analyses and claims of a run, as they lie beside its page: nothing is computed anew.

``results/<name>/analyses/<analysis>/{table.md,figure.svg,data.csv}`` are written by ``agilepruner
analysis=...``, ``claims.md`` and ``claims.csv`` by ``agilepruner claims``. What is not there is not
shown.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLAIMS = "claims"


@dataclass(frozen=True)
class Finding:
    """One analysis, or the claims.

    Attributes:
        name: of its folder. title: its first heading. text: what stands above its first table.
        tables: (heading, cells of the head, rows) of each table.
        notes: list items below.
        figure: an SVG. csv: its data.
    """

    name: str
    title: str
    text: str
    tables: list[tuple[str, list[str], list[list[str]]]]
    notes: list[str] = field(default_factory=list)
    figure: bytes = b""
    csv: bytes = b""

    def plain(self) -> dict[str, Any]:
        """As the page reads it."""
        svg = base64.b64encode(self.figure).decode()
        return {
            "name": self.name,
            "title": self.title,
            "text": self.text,
            "tables": [
                {"title": title, "head": head, "rows": [_row(row) for row in rows]}
                for title, head, rows in self.tables
            ],
            "notes": self.notes,
            "figure": f"data:image/svg+xml;base64,{svg}" if svg else "",
            "csv": base64.b64encode(self.csv).decode(),
        }


def findings_in(directory: Path) -> list[Finding]:
    """The claims, then every analysis of a results directory, by name."""
    claims = _finding(CLAIMS, directory / "claims.md", None, directory / "claims.csv")
    found = [claims] if claims else []
    for folder in sorted((directory / "analyses").glob("*/")):
        files = [folder / name for name in ("table.md", "figure.svg", "data.csv")]
        one = _finding(folder.name, *files)
        found += [one] if one else []
    return found


def _finding(name: str, table: Path, figure: Path | None, data: Path) -> Finding | None:
    if not table.is_file():
        return None
    title, text, tables, notes = parsed(table.read_text(encoding="utf-8"))
    return Finding(
        name,
        title or name,
        text,
        tables,
        notes,
        figure.read_bytes() if figure and figure.is_file() else b"",
        data.read_bytes() if data.is_file() else b"",
    )


def parsed(
    markdown: str,
) -> tuple[str, str, list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """Title, text, tables and list items of Markdown as our reports write it."""
    title, heading, text = "", "", ""
    tables: list[tuple[str, list[str], list[list[str]]]] = []
    notes: list[str] = []
    rows: list[list[str]] | None = None
    for line in markdown.splitlines():
        if not line.startswith("|"):
            rows = None
        if line.startswith("#"):
            heading = line.lstrip("# ").strip()
            title, heading = (title, heading) if title else (heading, "")
        elif line.startswith("|"):
            cells = list(_cells(line))
            if rows is None:
                rows = []
                tables.append((heading, cells, rows))
                heading = ""
            elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                rows.append(cells)
        elif line.startswith("- "):
            notes.append(_unmarked(line[2:]))
        elif line.strip() and not tables:
            text = f"{text} {_unmarked(line.strip())}".strip()
        elif line.strip():
            notes.append(_unmarked(line.strip()))
    return _unmarked(title), text, tables, notes


def _cells(line: str) -> Iterator[str]:
    for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]:
        yield cell.strip().replace("\\|", "|")


def _row(cells: list[str]) -> dict[str, Any]:
    """A row of a table; a heading of a group is in italics, alone in its row."""
    group = bool(re.fullmatch(r"\*[^*].*\*", cells[0])) and not any(cells[1:])
    bold = [i for i, cell in enumerate(cells) if re.fullmatch(r"\*\*.+\*\*", cell)]
    return {"group": group, "bold": bold, "cells": [_unmarked(cell) for cell in cells]}


def _unmarked(text: str) -> str:
    """Without the marks of Markdown that our reports use."""
    return re.sub(r"(\*\*|__|`)(.+?)\1", r"\2", text).strip("*")

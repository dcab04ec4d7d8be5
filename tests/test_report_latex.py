"""LaTeX that a paper can take as it is, and Parquet that reads as the frame that made it."""

import io
import re

import pandas as pd
import pytest
from synthetic_rows import row, rows

from agilepruner.report.frames import cells_frame, parquet
from agilepruner.report.latex import escaped, latex, render_latex
from agilepruner.report.sheets import Sheet
from agilepruner.report.table import make_report

HOSTILE = r"a_b & 50 % {x} \input{/etc} $1 #2 ~ ^ <i> | τ ± − → 图 é `score NAME_1`"


def test_every_sign_is_text():
    assert escaped(HOSTILE) == (
        r"a\_b \& 50 \% \{x\} \textbackslash{}input\{/etc\} \$1 \#2 \textasciitilde{} "
        r"\textasciicircum{} $<$i$>$ \textbar{} $\tau$ $\pm$ $-$ $\rightarrow$ [U+56FE] é "
        r"\texttt{score NAME\_1}"
    )
    assert "\n" not in escaped("two\nlines")


def sound(text):
    """Rows have a cell per column, environments and braces close in order."""
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    plain = re.sub(r"\\[\\{}&%]", "", text)
    assert plain.count("{") == plain.count("}")
    for table in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.S):
        columns = {line.count(" & ") for line in table.splitlines() if line.endswith(r"\\")
                   and "multicolumn" not in line}  # fmt: skip
        assert len(columns) == 1


def test_a_sheet_keeps_its_cells_marks_and_notes():
    sheet = Sheet(HOSTILE, ["S", "x↑"], [(HOSTILE, [[HOSTILE, "1.0"], ["[b]", "−2"]])], [HOSTILE],
                  {(0, 0, 1)})  # fmt: skip
    text = render_latex(sheet, "t")
    sound(text)
    assert r"\textbf{1.0}" in text
    assert r"{}[b] & $-$2 \\" in text  # not an argument of the \\ before it
    assert text.count(escaped(HOSTILE)) == 4
    assert latex([sheet, sheet]).count(r"\label{") == 2 == len(
        set(re.findall(r"\\label\{.*?\}", latex([sheet, sheet])))
    )  # fmt: skip


def test_a_report_has_every_table_as_latex_and_its_cells_as_parquet():
    found = rows(("divprune", "agilepruner"), (64,), ("pope", "gqa", "chair"))
    report = make_report(found, "quick")
    text = report.files["table.tex"]
    sound(text)
    titles = re.findall(r"^## (.*)$", report.files["table.md"], re.M)
    missing = [title for title in titles if rf"\caption{{{escaped(title)}.}}" not in text]
    assert [title.rpartition(": ")[2] for title in missing] == ["changed answers per cell"]  # long
    frame = pd.read_parquet(io.BytesIO(report.files["cells.parquet"]))
    assert set(frame["cell"]) == {one.id for one in found}
    assert set(frame.columns) == set(cells_frame(found).columns)


@pytest.mark.parametrize("values", [(0.5, {"class": "x"}), ([1, 2], "text"), (None, 3)])
def test_parameters_of_any_kind_are_stored(values):
    found = [row("random", 64, "gqa", parameters={"odd": value}, id=str(i))
             for i, value in enumerate(values)]  # fmt: skip
    frame = pd.read_parquet(io.BytesIO(parquet(cells_frame(found))))
    assert len(frame) == 2
    assert list(frame["parameters"]) == list(cells_frame(found)["parameters"])
    assert pd.read_parquet(io.BytesIO(parquet(cells_frame([])))).empty

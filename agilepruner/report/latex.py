r"""Tables for a paper: LaTeX with booktabs and graphicx, ready to paste.

Everything that is text is escaped, the signs of our tables (−, ±, ×, ↑, ↓) become mathematics, and
what pdfLaTeX has no glyph for is written as its code point, so that the file always compiles.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from agilepruner.report.sheets import Sheet

PREAMBLE = r"""% Made by agilepruner. Needs \usepackage{booktabs,graphicx}.
% Tables span both columns (table*) and shrink where they are wider than the page."""

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "’": "'",
    "“": "``",
    "”": "''",
}
SPACE = re.compile(r"[ \t\r\n\f\v]+")
CODE = re.compile(r"`([^`]*)`")
KEPT = 0x17F  # accented Latin letters, which every TeX of today reads as they are


def escaped(text: str) -> str:
    """A text that LaTeX prints as it reads; `code` in backticks is set in typewriter type."""
    pieces = CODE.split(text)  # every other one is code
    return "".join(
        rf"\texttt{{{_plain(piece)}}}" if i % 2 else _plain(piece) for i, piece in enumerate(pieces)
    )


def _plain(text: str) -> str:
    return "".join(SPECIAL.get(sign) or _glyph(sign) for sign in SPACE.sub(" ", text))


def _glyph(sign: str) -> str:
    """A sign that is no LaTeX: itself, a Greek letter, or its code point."""
    if sign.isascii() or (ord(sign) <= KEPT and sign.isalpha()):
        return sign
    if (name := unicodedata.name(sign, "")).startswith("GREEK SMALL LETTER "):
        letter = name.removeprefix("GREEK SMALL LETTER ").lower()
        if letter.isalpha() and letter not in ("omicron", "final"):
            return rf"$\{'lambda' if letter == 'lamda' else letter}$"
    return f"[U+{ord(sign):04X}]"


def render_latex(sheet: Sheet, label: str) -> str:
    r"""A sheet as a floating table.

    Args:
        sheet: its title becomes the caption, its notes stand below in small print.
        label: for ``\ref``: letters, digits and hyphens.
    """
    columns = len(sheet.head)
    out = [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escaped(sheet.title)}.}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l*{{{columns - 1}}}{{r}}}}",
        r"\toprule",
        _row([escaped(title) for title in sheet.head]),
    ]
    for s, (heading, lines) in enumerate(sheet.sections):
        out.append(r"\midrule")
        if heading:
            out.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{escaped(heading)}}}}} \\")
        for i, line in enumerate(lines):
            texts = [escaped(text) for text in line]
            bold = [
                rf"\textbf{{{text}}}" if (s, i, c) in sheet.bold else text
                for c, text in enumerate(texts)
            ]
            out.append(_row(bold))
    out += [r"\bottomrule", r"\end{tabular}}"]
    if sheet.notes:
        out += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\scriptsize\raggedright"]
        out += [rf"{escaped(note)}\par" for note in sheet.notes]
        out.append(r"\end{minipage}")
    return "\n".join([*out, r"\end{table*}"]) + "\n"


def _row(texts: Sequence[str]) -> str:
    r"""A line of a table; a first cell in brackets must not be an argument of the ``\\`` above."""
    first = "{}" + texts[0] if texts[0].startswith("[") else texts[0]
    return " & ".join([first, *texts[1:]]) + r" \\"


def latex(sheets: Iterable[Sheet]) -> str:
    """A file of tables, each with a label of its title."""
    found: dict[str, int] = {}
    out = [PREAMBLE]
    for sheet in sheets:
        words = re.sub(r"[^a-z0-9]+", "-", sheet.title.lower()).strip("-")
        found[words] = found.get(words, 0) + 1
        label = words if found[words] == 1 else f"{words}-{found[words]}"
        out.append(render_latex(sheet, label))
    return "\n\n".join(out)

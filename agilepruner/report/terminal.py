"""A document and what each strategy made of it, for a terminal: maps of kept patches in blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from agilepruner.runner.journal import Entry
from agilepruner.runner.kept import Kept

# Two patches over each other are one character.
BLOCKS = {(False, False): "·", (True, False): "▀", (False, True): "▄", (True, True): "█"}
ASCII = {ord(block): mark for block, mark in zip("█▀▄·", '#"_.')}  # for terminals without blocks
LEGEND = (
    "A character is two patches, one over the other: █ both kept, ▀ the upper, ▄ the lower, · none."
)
GAP = "   "
LEAST = 22  # characters that a heading takes


@dataclass(frozen=True)
class Shown:
    """One line's answer to a document.

    Attributes:
        label: strategy and budget.
        entry: the answer as journaled.
        kept: the patches that it was given.
        score: of the unit, 0 to 1; None: this benchmark scores no units.
        phases: names of the strategy's phases.
    """

    label: str
    entry: Entry
    kept: Kept
    score: float | None
    phases: Sequence[str] = ()


def document_text(
    heading: str, asked: Mapping[str, Sequence[str]], lines: Sequence[Shown], width: int
) -> str:
    """A document for the terminal.

    Args:
        heading: which it is.
        asked: question -> references, one each; empty where the data set is not here.
        lines: the answers, vanilla first.
        width: of the terminal, in characters.
    """
    out = wrap(heading, width)
    for question, references in asked.items():
        out += wrap(" / ".join(question.split("\n")), width, subsequent_indent="  ")
        known = ", ".join(dict.fromkeys(references)) or "the task names none"
        out += wrap(f"  reference: {known}", width, subsequent_indent="    ")
    if not asked:
        out += wrap("The data set is not on this machine: no question.", width)
    facts = next((line.entry for line in lines if line.entry.complexity), None)
    if facts is not None and facts.complexity:
        said = {"erank_input": "erank", "entropy": "attention entropy"}
        measures = [f"{said[k]} {v:.2f}" for k, v in facts.complexity.items() if k in said]
        out += wrap(f"image: {', '.join(measures)}; {facts.offered} visual tokens", width)
    out.append("")
    blocks = [_block(line, width) for line in lines]
    while blocks:
        row, used = [blocks.pop(0)], 0
        used = _wide(row[0])
        while blocks and used + len(GAP) + _wide(blocks[0]) <= width:
            used += len(GAP) + _wide(blocks[0])
            row.append(blocks.pop(0))
        out += [text.rstrip() for text in _beside(row)]
        out.append("")
    return "\n".join([*out, *wrap(LEGEND, width)])


def kept_map(kept: Kept, grid: Sequence[int], tile: int = 0) -> list[str]:
    """The patches of a tile that were kept, two rows of them to a line.

    Of tokens inside the language model those are drawn that its last stage kept.

    Args:
        kept: what was kept.
        grid: rows and columns of the tile's patches.
        tile: which one.
    """
    rows, columns = grid
    first = tile * rows * columns
    there = np.zeros((rows + rows % 2) * columns, dtype=bool)
    for patch in kept.left:
        if 0 <= patch - first < rows * columns:
            there[patch - first] = True
    upper, lower = there.reshape(-1, 2, columns).transpose(1, 0, 2)
    lines = zip(upper.tolist(), lower.tolist())
    return ["".join(BLOCKS[pair] for pair in zip(*both)) for both in lines]


Block = tuple[list[str], list[str]]


def _block(line: Shown, width: int) -> Block:
    """Heading with answer, and map, of one line."""
    entry, columns = line.entry, max(LEAST, (line.entry.grid or (0, 0))[1])
    if entry.answer is None:
        return [line.label, *wrap(f"failed: {entry.error}", max(columns, 30))], []
    mark = "" if line.score is None else f" [{_verdict(line.score)}]"
    answer = wrap(f"{entry.answer or '(nothing)'}{mark}", min(width, max(columns, 30)))
    said = [line.label, *answer]
    if line.phases and line.kept.phases:
        counts = [line.kept.phases.count(i) for i in range(len(line.phases))]
        said += wrap(", ".join(f"{n} {c}" for n, c in zip(line.phases, counts)), columns)
    if line.kept.joined:
        said.append("(patches that tokens stand for)")
    if line.kept.stages:
        counts = [len(stage) for stage in line.kept.stages]
        said += wrap(f"stages keep {', '.join(map(str, counts))} (the last is drawn)", columns)
    if entry.tiles > 1:
        said.append(f"(overview of {entry.tiles} tiles)")
    if (entry.grid or (0, 0))[1] > width:
        return said, wrap(f"(its map takes {columns} characters a line)", width)
    return said, kept_map(line.kept, entry.grid or (0, 0), entry.overview)


def _verdict(score: float) -> str:
    if score >= 1:
        return "right"
    return "wrong" if score <= 0 else f"{score:.0%} right"


def _wide(block: Block) -> int:
    return max(len(text) for part in block for text in part)


def _beside(blocks: Sequence[Block]) -> list[str]:
    """Blocks next to each other, their maps on one height."""
    lines = []
    for part in (0, 1):
        for at in range(max(len(block[part]) for block in blocks)):
            texts = [(b[part][at] if at < len(b[part]) else "").ljust(_wide(b)) for b in blocks]
            lines.append(GAP.join(texts))
    return lines

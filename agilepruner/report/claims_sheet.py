"""Claims held against a run, for people (text, Markdown) and as ``claims.csv``."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import groupby
from textwrap import wrap

from agilepruner.report.analyses import SYNTHETIC
from agilepruner.report.claims import PAPER, WORDS, Finding, Judged
from agilepruner.report.sheets import NOTE_WIDTH, Sheet, render_markdown, render_text, signed

COLUMNS = (
    *("model", "suite", "protocol", "claim", "kind", "claim_verdict", "part", "budget"),
    *("strategy", "against", "benchmark", "says", "difference", "low", "high", "p_holm"),
    *("verdict", "margin", "could_show", "unit", "units", "images", "published", "command"),
)
SAYS = {1: "> 0", -1: "< 0", 0: "= 0"}
HOW = (
    "A claim says something of each of its parts: one part that disagrees, or shows no difference, "
    "decides; it agrees only where all do. Words at 5 %, corrected by Holm's method over the parts "
    "of a claim; no difference: within the margin; cannot tell: neither."
)


def text(found: Sequence[Judged], name: str) -> str:
    """Every claim with its word and how many parts say what."""
    out = [f"{name}: claims"]
    for table, own in groupby(found, key=lambda one: one.table):
        out += ["", table.name]
        for one in own:
            out += ["", f"  {one.claim.name} ({_who(one)}): {_verdict(one)}"]
            out += _indented(one.claim.says)
            if one.command:
                why = "For the rest" if one.findings else "To measure it"
                out += [f"      {why}: {one.command}"]
        out += ["", *wrap(SYNTHETIC, NOTE_WIDTH)] if table.synthetic else []
    return "\n".join([*out, "", *wrap(HOW, NOTE_WIDTH)]) + "\n"


def details(found: Iterable[Judged]) -> str:
    """The parts of claims, for the terminal."""
    return "\n".join(render_text(sheet(one)) for one in found)


def markdown(found: Sequence[Judged], name: str) -> str:
    """A table of all claims, then one of each claim's parts."""
    out = [f"# {name}: claims\n"]
    for table, group in groupby(found, key=lambda one: one.table):
        own = list(group)
        lines = [
            [
                f"`{one.claim.name}`: {one.claim.says}",
                _who(one),
                one.verdict,
                *(str(count) for count in _counts(one)),
            ]
            for one in own
        ]
        notes = [HOW, *([SYNTHETIC] if table.synthetic else [])]
        head = ["Claim", "whose", "verdict", *WORDS]
        out.append(render_markdown(Sheet(table.name, head, [("", lines)], notes)))
        out += [render_markdown(sheet(one)) for one in own]
    return "\n".join(out)


def sheet(one: Judged) -> Sheet:
    """The parts of a claim: measured, judged, and what the paper printed."""
    lines = []
    for budget, group in groupby(one.findings, key=lambda finding: finding.part.budget):
        lines.append((f"{budget} tokens", [_texts(finding) for finding in group]))
    head = ["Difference", "claimed", "measured", "95 % interval", "verdict", "could show"]
    head += ["scores", "images", "published"]
    notes = [one.claim.says, f"Source: {one.claim.source}."]
    if one.findings:
        margins = dict.fromkeys(
            f"±{finding.part.margin:g} {finding.part.unit}".strip() for finding in one.findings
        )
        notes.append(
            f"No difference: within {', '.join(margins)}. Intervals: 95 %, over images, not "
            "corrected. could show: the smallest true difference that this n shows 4 times in 5."
        )
    if any(finding.part.published is not None for finding in one.findings):
        notes.append(
            "published: the difference of the paper's numbers, for the same model where it has "
            "it, else LLaVA-1.5-7B's at the same budget."
        )
    if one.command:
        why = "For the rest" if one.findings else "Not measured. To measure it"
        notes.append(f"{why}: `{one.command}`")
    if one.table.synthetic and one.findings:
        notes.append(SYNTHETIC)
    return Sheet(f"{one.claim.name}: {_verdict(one)}", head, lines, notes)


def _texts(finding: Finding) -> list[str]:
    part = finding.part
    digits = 1 if part.unit == "points" else 2
    low, high = part.estimate.interval()
    return [
        part.what,
        SAYS[part.says],
        signed(part.estimate.point, digits),
        f"[{signed(low, digits)}, {signed(high, digits)}]",
        finding.verdict,
        f"{finding.smallest:.{digits}f}",
        str(part.units),
        str(part.images),
        "–" if part.published is None else signed(part.published, digits),
    ]


def _who(one: Judged) -> str:
    return "the paper's" if one.claim.kind == PAPER else "a doubt"


def _counts(one: Judged) -> list[int]:
    verdicts = [finding.verdict for finding in one.findings]
    return [verdicts.count(word) for word in WORDS]


def _verdict(one: Judged) -> str:
    """``cannot tell (agrees 2, cannot tell 6)``."""
    told = [f"{word} {count}" for word, count in zip(WORDS, _counts(one)) if count]
    return f"{one.verdict} ({', '.join(told)})" if told else one.verdict


def _indented(words: str) -> list[str]:
    return wrap(words, NOTE_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def claims_csv(found: Iterable[Judged]) -> str:
    """One line per part; one for a claim that was not measured."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in found:
        about = {
            "model": one.table.model,
            "suite": one.table.suite,
            "protocol": one.table.protocol,
            "claim": one.claim.name,
            "kind": one.claim.kind,
            "claim_verdict": one.verdict,
            "command": one.command,
        }
        writer.writerows([about | _record(finding) for finding in one.findings] or [about])
    return out.getvalue()


def _record(finding: Finding) -> dict[str, object]:
    part = finding.part
    low, high = part.estimate.interval()
    return {
        "part": part.what,
        "budget": part.budget,
        "strategy": part.strategy,
        "against": part.against,
        "benchmark": part.benchmark,
        "says": part.says,
        "difference": part.estimate.point,
        "low": low,
        "high": high,
        "p_holm": finding.p,
        "verdict": finding.verdict,
        "margin": part.margin,
        "could_show": finding.smallest,
        "unit": part.unit,
        "units": part.units,
        "images": part.images,
        "published": part.published,
    }

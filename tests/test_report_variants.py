"""Guided strategies beside their fixed ones."""

import csv
import io

import synthetic_rows as made

from agilepruner.report.lines import build_tables
from agilepruner.report.sheets import render_text
from agilepruner.report.statistics import analyse
from agilepruner.report.table import differences_csv
from agilepruner.report.variants import pairs, variants_sheet

BAT = {"share": 0.5, "matched": 0.25}
FIXED = {"class": "package.BAT", **BAT}


def row(strategy, parameters, kind, **changes):
    known = {"model": "llava_1_5_7b", "suite": "hub", "identity": {"strategy": {"class": kind}}}
    budget = 576 if strategy == "vanilla" else 128
    return made.row(
        *(strategy, budget, "pope"), parameters=parameters, label=strategy, **known, **changes
    )


def rows():
    found = [row("vanilla", {}, "package.Vanilla"), row("bat", BAT, "package.BAT")]
    for name, slope in (("bat_erank", 0.5), ("bat_inverse", -0.5)):
        found.append(row(name, {"slope": slope, "inner": FIXED}, "package.ErankShare"))
    return [*found, row("vispruner", {"share": 0.5}, "package.VisPruner")]


def test_a_variant_belongs_to_the_strategy_inside_it():
    (table,) = build_tables(rows())
    assert [(line.strategy, fixed.strategy) for _, line, fixed in pairs(table)] == [
        ("bat_erank", "bat"),
        ("bat_inverse", "bat"),
    ]
    other = [*rows()[:1], row("bat", {**BAT, "share": 0.25}, "package.BAT"), *rows()[2:]]
    assert not list(pairs(build_tables(other)[0]))  # another share is another fixed strategy


def test_measured_and_published_deltas_stand_side_by_side():
    (table,) = build_tables(rows(), paper="analysis_enhancement_left")
    analysis = analyse(table)
    text = render_text(variants_sheet(table, analysis))
    published = [line.split()[1] for line in text.splitlines() if line.split()[:1] == ["published"]]
    assert published == ["+1.5", "−0.3"]  # 86.8 and 85.0 minus 85.3
    records = list(csv.DictReader(io.StringIO(differences_csv([table], [analysis]))))
    own = [r for r in records if r["reference"] == "bat"]
    assert {r["strategy"] for r in own} == {"bat_erank", "bat_inverse"}
    assert {r["column"] for r in own} == {"POPE", "Average"}
    (plain,) = build_tables(made.rows())
    assert variants_sheet(plain, analyse(plain)) is None

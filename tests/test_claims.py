"""A claim's word is what its parts show, and no more; a claim is one file."""

import csv
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from plans import planned
from synthetic_rows import row, rows

from agilepruner.commands.claims import run
from agilepruner.report import claims_sheet
from agilepruner.report.claims import Claim, Measured, claims, hold, overall
from agilepruner.report.contrasts import correlation
from agilepruner.report.frames import documents_frame
from agilepruner.report.lines import build_tables
from agilepruner.runner.rows import write_row

DOC = Path(__file__).resolve().parents[1] / "docs" / "claims.md"
CLAIMS = {claim.name: claim for claim in claims()}


def measured(found):
    (table,) = build_tables(found)
    return Measured(table, partial(documents_frame, directory=Path("no journals here")))


def captions(strategy, budget, false, n=200):
    """CHAIR rows of n captions whose share ``false`` names one thing that is not there."""
    bad = [float((i * 7919) % n < false * n) for i in range(n)]
    parts = {"hallucinated": bad, "false_mentions": bad, "mentions": [4.0] * n}
    parts |= {
        "found": [2.0 + b for b in bad],
        "objects": [5.0] * n,
        "length": [20.0 + 5 * b for b in bad],
    }
    rate = 100 * sum(bad) / n
    metrics = {"coco_cap_chair_s": rate, "coco_cap_chair_i": rate / 4}
    metrics |= {
        "coco_cap_recall": 20 * sum(parts["found"]) / n,
        "chair_len": sum(parts["length"]) / n,
    }
    return row(
        strategy, budget, "chair", n=n, value=rate, metrics=metrics, parts=parts,
        scores=[1 - b for b in bad], clusters=[f"image-{i}" for i in range(n)],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("attention", "diversity", "n", "word"),
    [
        (0.1, 0.5, 200, "agrees"),
        (0.5, 0.1, 200, "disagrees"),
        (0.1, 0.1, 200, "no difference"),
        (0.1, 0.2, 40, "cannot tell"),
    ],
)
def test_the_word_is_what_the_parts_show(attention, diversity, n, word):
    found = [
        captions("vanilla", 576, 0.3, n),
        captions("fastervlm", 64, attention, n),
        captions("divprune", 64, diversity, n),
    ]
    judged = hold(CLAIMS["hallucination"], measured(found))
    assert judged.verdict == word
    assert {finding.part.benchmark for finding in judged.findings} == {"chair"}
    assert [finding.part.images for finding in judged.findings] == [n] * 4
    assert "strategy=[fastervlm,prumergeplus,divprune,fps]" in judged.command  # two are missing
    cs = judged.findings[0].part
    assert cs.estimate.point == pytest.approx(100 * (diversity - attention))
    assert cs.published == pytest.approx(12.0)  # 57.4 - 45.4


def test_no_difference_is_what_some_claims_say():
    equal = [captions(name, 64, 0.2) for name in ("fastervlm", "divprune")]
    judged = hold(CLAIMS["says_less"], measured([captions("vanilla", 576, 0.2), *equal]))
    assert judged.verdict == "agrees"
    other = [equal[0], captions("divprune", 64, 0.9)]
    assert hold(CLAIMS["says_less"], measured([captions("vanilla", 576, 0.2), *other])).verdict == (
        "disagrees"
    )


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "not measured"),
        (["agrees", "agrees"], "agrees"),
        (["agrees", "cannot tell"], "cannot tell"),
        (["agrees", "no difference", "cannot tell"], "no difference"),
        (["agrees", "no difference", "disagrees"], "disagrees"),
    ],
)
def test_a_claim_is_about_every_part(words, word):
    assert overall(words) == word


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_says_its_source_and_the_command_that_measures_it(name):
    claim = CLAIMS[name]
    assert claim.says.endswith(".")
    assert len(claim.source) > 10
    bare = hold(claim, measured([row("vanilla", 576, "gqa")]))
    assert bare.verdict == "not measured"
    command, *words = bare.command.split()
    assert command == "agilepruner"
    cells = planned(*words).cells
    assert {cell.strategy_name for cell in cells} >= set(claim.strategies)


def test_what_was_measured_whole_needs_no_command():
    judged = hold(CLAIMS["no_better_than_the_next"], measured(rows(("agilepruner", "divprune"))))
    assert len(judged.findings) == 3  # a part per budget
    assert "vispruner" in judged.command
    assert judged.findings[0].part.what == "AgilePruner − DivPrune, Average"


def test_the_command_writes_what_it_prints_and_says_it_is_the_demo(tmp_path, capsys):
    for one in rows(("fastervlm", "divprune", "agilepruner", "random"), (64,)):
        one = replace(one, synthetic=True)
        folder = tmp_path / "quick" / "cells" / f"{one.benchmark}-{one.strategy}-{one.id}"
        folder.mkdir(parents=True)
        write_row(folder / "row.json", one)
    assert run(["quick", f"results={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "synthetic scenes" in printed
    assert f"name=quick results={tmp_path}" in printed
    with open(tmp_path / "quick" / "claims.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert {record["claim"] for record in records} == set(CLAIMS)
    assert tuple(records[0]) == claims_sheet.COLUMNS
    empty = [record for record in records if record["claim_verdict"] == "not measured"]
    assert all(record["command"].startswith("agilepruner ") for record in empty)
    written = (tmp_path / "quick" / "claims.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in written for name in CLAIMS)


def test_a_correlation_has_the_error_of_its_images():
    generator = np.random.default_rng(3)
    x = generator.standard_normal(400)
    y = 0.6 * x + 0.8 * generator.standard_normal(400)
    found = correlation(x, y)
    assert found.point == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.error == pytest.approx((1 - 0.6**2) / 20, rel=0.25)  # large-sample theory


def test_the_example_is_one_file_and_is_found(monkeypatch):
    path, code = re.search(
        r"^`(\S+\.py)`\n\n```python\n(.*?)```", DOC.read_text(), re.M | re.S
    ).groups()
    assert Path(path).parent == Path("agilepruner/report/claims")
    module = ModuleType("agilepruner.report.claims.grid")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, path, "exec"), module.__dict__)
    (example,) = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Claim) and one.__module__ == module.__name__
    ]  # fmt: skip
    judged = hold(example(), measured(rows(("divprune", "uniform"))))
    assert len(judged.findings) == 3
    assert judged.command == ""

"""What the README tells people to type exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from plans import planned

from agilepruner.commands import NAMES as COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S)
    for line in block.splitlines()
]


RUNS = [x for x in LINES if x.startswith("agilepruner ") and x.split()[1] not in COMMANDS]


@pytest.mark.parametrize("line", RUNS)
def test_every_command_composes_a_valid_plan(line):
    overrides = [word for word in shlex.split(line)[1:] if not word.startswith("-")]
    if "-m" in line:
        overrides = [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in overrides]
    assert planned(*overrides).cells


@pytest.mark.parametrize("line", [x for x in LINES if x.startswith("make ")])
def test_every_make_target_exists(line):
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_link_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"

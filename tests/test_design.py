"""docs/design.md is of the code as it is."""

import re

from agilepruner.places import ROOT
from agilepruner.runner.identity import ANSWERED_BY

TEXT = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def test_what_it_names_is_there():
    folder = ROOT
    missing = []
    for line in TEXT.splitlines():
        if found := re.match(r"In `(\S+)/`:", line):
            folder = ROOT / found[1]
        if line.startswith("## "):
            folder = ROOT
        for name in re.findall(r"`([\w/]+(?:\.(?:py|md|toml)|/))`", line):
            if not (folder / name).exists() and not (ROOT / name).exists():
                missing.append(name)
    assert missing == []
    assert len(re.findall(r"`[\w/]+\.py`", TEXT)) > 20


def test_it_lists_the_libraries_of_an_identity():
    row = next(line for line in TEXT.splitlines() if line.startswith("| id |"))
    for library in ANSWERED_BY:
        assert library in row


def test_a_model_family_is_named_in_its_adapter_and_its_config_alone():
    """A new one is two files and its tests: nothing else in the code knows which there are."""
    configs = [path.read_text("utf-8") for path in (ROOT / "configs" / "model").glob("*.yaml")]
    families = {
        re.findall(r"_target_: agilepruner\.models\.(\w+)\.load", text)[0] for text in configs
    }
    assert len(families) > 5
    families -= {"llava"}  # the others are variants of it; its name is in those of papers and tasks
    code = [p for part in ("agilepruner", "evals", "scripts") for p in (ROOT / part).rglob("*.py")]
    named = [
        path
        for path in code
        if path.parent.name != "models" and re.search("|".join(families), path.read_text("utf-8"))
    ]
    assert named == []

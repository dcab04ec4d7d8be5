"""A handed-in result agrees with its journals, or says where it does not."""

import json
import shutil
from dataclasses import replace

import pytest
from plans import executed, planned

from agilepruner.commands.check_submission import run
from agilepruner.errors import NotFinished, UserError
from agilepruner.runner import run as running
from agilepruner.runner.journal import sealed
from agilepruner.runner.rows import read_row, write_row
from agilepruner.submission import check


@pytest.fixture(scope="module")
def answered(tmp_path_factory, demo):
    """Four cells of the demo, answered once."""
    where = tmp_path_factory.mktemp("handed-in")
    words = ["strategy=[fastervlm]", "benchmark=[pope,chair]", "limit=3", "name=someone"]
    plan = planned(*words, f"results={where}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "load_model", lambda _config: demo)
        assert [row.status for row in executed(plan)] == ["done"] * 4
    return plan.directory


@pytest.fixture
def submission(answered, tmp_path):
    """The worked example: a run's folder, copied."""
    return shutil.copytree(answered, tmp_path / "someone")


def cell(submission, what):
    (folder,) = (submission / "cells").glob(f"{what}-*")
    return folder, folder.name.rpartition("-")[2]


def verdicts(submission):
    return {one.cell.rsplit("-", 2)[0]: one for one in check(submission)}


def test_what_a_run_left_agrees_and_is_not_written_to(submission, capsys):
    before = {path: path.read_bytes() for path in submission.rglob("*") if path.is_file()}
    assert run([str(submission)]) == 0
    assert "agrees: 4" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in submission.rglob("*") if path.is_file()} == before


def test_a_prettier_row_differs_and_says_where(submission, capsys):
    folder, name = cell(submission, "pope-fastervlm")
    row = read_row(folder / "row.json", name)
    write_row(folder / "row.json", replace(row, value=99.9, scores=[1.0 - s for s in row.scores]))
    found = verdicts(submission)
    assert found["pope-fastervlm"].verdict == "differs"
    assert "value 99.9, recomputed" in found["pope-fastervlm"].why
    assert f"scores: {len(row.scores)} of {len(row.scores)}" in found["pope-fastervlm"].why
    assert {one.verdict for name, one in found.items() if name != "pope-fastervlm"} == {"agrees"}
    with pytest.raises(NotFinished, match="1 of 4 cells"):
        run([str(submission)])


def journal_of(submission, what):
    folder, name = cell(submission, what)
    (path,) = folder.glob("journal.*.jsonl")
    return path, name, [json.loads(line) for line in path.read_text().splitlines()]


def reseal(path, name, records):
    """What someone writes who knows how checksums are made."""
    for record in records:
        record.pop("crc")
    path.write_bytes(b"".join(sealed(record, name) for record in records))


def test_changed_answers_differ_and_changed_bytes_are_damage(submission):
    path, name, records = journal_of(submission, "pope-fastervlm")
    records[1]["answer"] = "no" if records[1]["answer"].lower().startswith("yes") else "yes"
    reseal(path, name, records)
    assert verdicts(submission)["pope-fastervlm"].verdict == "differs"
    path.write_text(path.read_text().replace('"answer":"', '"answer":"x', 1))
    found = verdicts(submission)["pope-fastervlm"]
    assert (found.verdict, "1 lines" in found.why) == ("damaged", True)
    path.unlink()
    assert verdicts(submission)["pope-fastervlm"].verdict == "damaged"


def test_a_journal_of_more_tokens_than_the_budget_is_found_out(submission):
    path, name, records = journal_of(submission, "pope-fastervlm")
    records[1]["visual"] = 576
    reseal(path, name, records)
    found = verdicts(submission)["pope-fastervlm"]
    assert found.verdict == "differs"
    assert "status done, recomputed failed" in found.why


@pytest.mark.parametrize("where", ["strategy", "benchmark"])
def test_a_journal_cannot_have_code_called(submission, where):
    path, name, records = journal_of(submission, "pope-fastervlm")
    if where == "strategy":
        records[0]["identity"]["strategy"] = {"class": "os.system", "command": "touch /tmp/never"}
    else:
        records[0]["config"]["benchmark"]["pope"]["protocols"]["lmms"]["process_results"] = (
            "os.system"
        )
    reseal(path, name, records)
    found = verdicts(submission)["pope-fastervlm"]
    assert (found.verdict, "not of this project: os.system" in found.why) == ("not checked", True)


def test_documents_that_are_not_here_are_named(submission, monkeypatch):
    from agilepruner.runner import stored

    def offline(*_):
        raise UserError("the hub cannot be reached.")

    monkeypatch.setattr(stored, "source_of", offline)
    found = verdicts(submission)["pope-fastervlm"]
    assert found.verdict == "not checked"
    assert "pope.parquet of suite embedded with hash" in found.why


def test_a_folder_without_cells_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no folder cells/"):
        run([str(tmp_path)])
    with pytest.raises(UserError, match="Usage"):
        run([])

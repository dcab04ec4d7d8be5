"""What surrounds a run goes wrong (streams, disks, kills, other writers), the run does not."""

import errno
import os
import re
import shutil
import subprocess
import sys

import commands
import plans
import pyarrow.parquet as pq
import pytest

from agilepruner.commands import NAMES as COMMANDS
from agilepruner.places import ROOT
from agilepruner.runner import run as running
from agilepruner.runner import stored
from agilepruner.runner.plan import identify
from agilepruner.runner.rows import write_atomically
from agilepruner.streams import Sturdy

TINY = ["benchmark=[pope]", "limit=2", "strategy=[fastervlm]", "budget=[16]"]


def tiny(cwd, *words, **settings):
    """The real command on two documents."""
    return commands.run(*TINY, *words, cwd=cwd, **settings)


@pytest.mark.parametrize(
    ("streams", "env"),
    [
        ({2: None}, {}),
        ({1: None}, {}),
        ({2: "/dev/full"}, {}),
        ({}, {"PYTHONIOENCODING": "ascii"}),
    ],
)
def test_no_stream_ends_a_run(tmp_path, streams, env):
    done = tiny(tmp_path, streams=streams, env=env)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results/sweep/table.md").is_file(), done.stderr
    assert done.returncode == 0, done.stderr
    again = tiny(tmp_path)  # what was written is whole: nothing is answered again
    assert "FasterVLM" in again.stdout
    assert "loading model" not in again.stderr


@pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/full", "2>&1 | head -n 1"])
def test_no_stream_ends_an_interpreter(tmp_path, streams):
    """The worst of them from a shell, with the interpreter's own start and end."""
    words = " ".join(f"'{word}'" for word in TINY)
    line = f"set -o pipefail; {sys.executable} -m agilepruner {words} {streams}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results/sweep/table.md").is_file(), done.stderr
    assert done.returncode == 0, done.stderr


def test_a_sturdy_stream_drops_what_it_cannot_write():
    class Full:
        def write(self, *_text):
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = write

    stream = Sturdy(Full())
    assert stream.write("abc") == 3
    stream.flush()


@pytest.mark.usefixtures("loaded_once")
def test_a_full_disk_ends_answering_and_the_rows_there_are_come_back(tmp_path, monkeypatch):
    run = identify(plans.planned(f"results={tmp_path}", *TINY, "benchmark=[pope,mme]"))
    append = running.Journal.append

    def full(self, entries):
        if "mme-" in str(self.directory):
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, entries)

    monkeypatch.setattr(running.Journal, "append", full)
    outcome = running.execute(run)
    assert "No space left on device: nothing more can be stored" in outcome.problem
    assert {row.benchmark for row in outcome.rows} == {"pope"}
    monkeypatch.undo()
    monkeypatch.setattr(running, "load_model", lambda _config: pytest.fail("not needed"))
    assert len(stored.rows_in(run.directory)) == 2


@pytest.mark.usefixtures("loaded_once")
def test_a_row_that_cannot_be_stored_is_shown_all_the_same(tmp_path, monkeypatch):
    def full(_path, _row):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(stored, "write_row", full)
    outcome = running.execute(identify(plans.planned(f"results={tmp_path}", *TINY)))
    assert outcome.rows[0].value is not None
    assert "Read-only file system" in outcome.problem


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _file: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(tmp_path / "row.json", "text")
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    first = tiny(tmp_path)
    assert first.returncode == 0, first.stderr
    (cell,) = (tmp_path / "results/sweep/cells").glob("*fastervlm*")
    for litter in (cell / "row.json.77.tmp", tmp_path / "results/sweep/table.md.77.tmp"):
        litter.write_text("half")
    (cell / "row.json").unlink()
    assert tiny(tmp_path).returncode == 0
    assert not list((tmp_path / "results").rglob("*.tmp"))


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "results").write_text("a file")
    done = tiny(tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "Traceback" not in done.stderr


# --- commands from disk ---


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    done = tiny(folder, "name=one")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """A directory with a finished run, the test's to spoil."""
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def command(cwd, *words):
    return commands.run(*words, cwd=cwd)


def test_score_and_report_need_no_model(finished):
    folder = finished / "results/one"
    table = (folder / "table.md").read_text()
    for path in folder.glob("cells/*/row.json"):
        path.unlink()
    scored = command(finished, "score", "one")
    assert scored.returncode == 0, scored.stderr
    assert "loading model" not in scored.stderr
    assert (folder / "table.md").read_text() == table
    for name in ("table.md", "cells.csv", "dashboard.html"):
        (folder / name).unlink()
    reported = command(finished, "report", "one")
    assert reported.returncode == 0, reported.stderr
    assert (folder / "table.md").read_text() == table
    assert reported.stdout == scored.stdout


def test_score_refuses_journals_whose_documents_changed(tmp_path):
    suite = tmp_path / "suite"
    suite.mkdir()
    documents = pq.read_table(ROOT / "evals/suite/data/pope.parquet")
    pq.write_table(documents, suite / "pope.parquet")
    local = ["suite=local", f"suite.directory={suite}"]
    assert tiny(tmp_path, "name=one", *local).returncode == 0
    pq.write_table(documents.slice(3), suite / "pope.parquet")
    done = command(tmp_path, "score", "one")
    assert done.returncode == 1
    assert "the documents changed since they were answered" in done.stdout + done.stderr


def test_a_report_shows_what_belongs_together_and_names_what_it_leaves_out(finished):
    """Another model under the same name, in the same directory: the newest rows are one table."""
    again = tiny(finished, "name=one", "model.max_new_tokens=5")
    assert again.returncode == 0, again.stderr
    done = command(finished, "report", "one")
    assert done.stdout == again.stdout
    assert re.search(r"^2 rows left out: new tokens \d+, the table's 5$", done.stderr, re.M)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "Usage: agilepruner report NAME"),
        (["score", "ones"], "Unknown run 'ones'. Did you mean 'one'?"),
        (["report", "one", "colour=red"], "Unknown setting 'colour'"),
        (["report", "one", "reference=divprun"], "Unknown reference 'divprun'"),
    ],
)
def test_a_command_that_means_nothing_is_one_sentence(finished, words, said):
    done = command(finished, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_is_named_in_the_help(tmp_path):
    done = command(tmp_path, "--help")
    for name in COMMANDS:
        assert name in done.stdout

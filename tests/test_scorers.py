"""Scoring in other processes: the rows of one process, whatever becomes of the others."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import plans
import pytest
from scorer_cases import odd

from agilepruner.runner import run as running
from agilepruner.runner import scorers, stored
from agilepruner.runner.plan import identify
from agilepruner.runner.scorers import Scorers

FEW = ["benchmark=[pope,mme]", "limit=2", "strategy=[fastervlm]", "budget=[16]"]


def gone(pid):
    """Whether a process has ended, within a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def until_written(path):
    until = time.monotonic() + 120
    while not path.is_file() or not path.read_text():
        assert time.monotonic() < until, f"{path} was not written"
        time.sleep(0.05)
    return path.read_text()


def test_what_a_process_did_not_finish_is_known(tmp_path, caplog):
    with Scorers(2) as processes:
        # Shared out in turn: a, error, b are one process's; c, end, d the other's.
        done = processes.each(odd, tmp_path, ["a", "c", "error", "end", "b", "d"])
    assert done == {0, 1, 4}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
    assert len({path.read_text() for path in tmp_path.iterdir()} - {str(os.getpid())}) == 2
    assert "ValueError: no such thing" in caplog.text
    assert f"ended with status {-signal.SIGKILL}" in caplog.text


def test_no_process_outlives_its_use(tmp_path):
    with Scorers(1) as processes:
        later = processes.later(processes.each, odd, tmp_path, ["long"])
        pid = int(until_written(tmp_path / "long"))
    assert later.result() == set()
    assert gone(pid)


# A shell without job control starts what it puts in the background deaf to interrupts.
PARENT = """
import pathlib, scorer_cases, signal, sys
from agilepruner.runner import scorers
signal.signal(signal.SIGINT, signal.default_int_handler)
scorers.PRELOADED = "agilepruner.runner.scorers"
with scorers.Scorers(1) as processes:
    processes.each(scorer_cases.odd, pathlib.Path(sys.argv[1]), ["long"])
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(tmp_path, kind):
    places = [str(Path(__file__).parent), *sys.path]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        stderr=subprocess.PIPE,
    )
    pid = int(until_written(tmp_path / "long"))
    parent.send_signal(kind)
    parent.communicate(timeout=60)
    assert gone(pid)


def dies_for_vanilla(shared, item):
    if item[0].strategy_name == "vanilla":
        os.kill(os.getpid(), signal.SIGKILL)
    stored.score_apart(shared, item)


def leave_names(folder, rows):
    (folder / "told.json").write_text(json.dumps(sorted({row.benchmark for row in rows})))


def as_scored(rows):
    """Rows as they are stored, without how long scoring took."""
    return [
        json.dumps({**asdict(row), "seconds": {**row.seconds, "score": 0}}, sort_keys=True)
        for row in rows
    ]


@pytest.mark.usefixtures("loaded_once")
def test_rows_are_those_of_one_process(tmp_path, monkeypatch):
    run = identify(plans.planned(f"results={tmp_path}", *FEW, "scorers=2"))
    outcome = running.execute(run, partial(leave_names, tmp_path))
    assert json.loads((tmp_path / "told.json").read_text()) == ["pope"]
    assert [row.status for row in outcome.rows] == ["done"] * 4
    broken = next(run.directory.glob("cells/pope-fastervlm*/journal.*.jsonl"))
    broken.write_bytes(b"".join(broken.read_bytes().splitlines(keepends=True)[:-1]))  # one is lost

    def again(scorers):
        for row in run.directory.glob("cells/*/row.json"):
            row.unlink()
        return as_scored(stored.rescore(run.directory, scorers))

    alone = again(0)
    assert again(2) == alone
    assert sum("1 documents have no answer" in row for row in alone) == 1

    monkeypatch.setattr(running, "score_apart", dies_for_vanilla)
    for row in run.directory.glob("cells/*/row.json"):
        row.unlink()
    repeated = as_scored(running.execute(run).rows)  # the lost document is answered again
    assert sorted(repeated) == sorted(again(0))


def test_few_answers_start_no_process(monkeypatch):
    monkeypatch.setattr(scorers, "cores", lambda: 16)
    assert scorers.automatic(scorers.WORTH - 1) == 0
    assert scorers.automatic(scorers.WORTH) == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert scorers.automatic(scorers.WORTH) == 1
    monkeypatch.setattr(scorers, "cores", lambda: 256)
    assert scorers.automatic(scorers.WORTH) == scorers.MOST

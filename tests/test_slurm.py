"""A sweep on a cluster: launcher=slurm against a SLURM of one node, and submitit without one.

`make test-slurm` starts a SLURM where its daemons are installed and runs this file.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plans import executed, planned

from agilepruner.runner.rows import read_row
from agilepruner.runner.stored import folders

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra 'slurm'")

ROOT = Path(__file__).parents[1]
COMMON = ["budget=[64]", "benchmark=[pope]", "workers=1", "name=t"]
SMALL = ["hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]
SMALL += ["hydra.launcher.mem_gb=1"]

slurm = pytest.mark.skipif(
    shutil.which("sbatch") is None or "SLURM_CONF" not in os.environ,
    reason="needs SLURM (sbatch, and SLURM_CONF of a running one): make test-slurm",
)


def sweep(results, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "agilepruner", "-m", *COMMON, f"results={results}", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def outcome(directory):
    rows = [read_row(folder / "row.json", cell) for folder, cell in folders(directory)]
    return {row.id: (row.status, row.metrics, row.scores) for row in rows if row is not None}


@pytest.fixture
def alone(loaded_once, tmp_path):
    """What one process finds."""

    def find(*words):
        results = tmp_path / "alone"
        executed(planned(*COMMON, f"results={results}", *words))
        return outcome(results / "t")

    return find


def test_a_sweep_in_processes_of_its_own_fills_one_table(alone, tmp_path):
    words = ["hydra/launcher=submitit_local", "limit=2", "strategy=fastervlm,divprune"]
    out = finished(sweep(tmp_path, *words))
    assert outcome(tmp_path / "t") == alone("limit=2", "strategy=[fastervlm,divprune]")
    assert out.count("FasterVLM") == out.count("DivPrune") > 0  # one table, of both


def test_what_is_wrong_in_a_job_is_said_by_the_command(tmp_path):
    words = ["hydra/launcher=submitit_local", "limit=1", "strategy=fastervlm", "budget=[5000]"]
    process = sweep(tmp_path, *words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "agilepruner: budget=5000 is more than the 576 visual tokens" in err
    assert "Traceback" not in err


@slurm
def test_an_array_of_jobs_fills_one_table(alone, tmp_path):
    out = finished(sweep(tmp_path, "launcher=slurm", *SMALL, "limit=2", "strategy=fastervlm,fps"))
    assert outcome(tmp_path / "t") == alone("limit=2", "strategy=[fastervlm,fps]")
    assert "FPSPruner" in out
    assert list((tmp_path / "t" / ".submitit").glob("*_1"))  # the second task of one array


@slurm
def test_a_job_that_is_preempted_continues(alone, tmp_path):
    words = ["limit=40", "images_per_window=1", "batch_size=1", "vanilla=false"]
    process = sweep(tmp_path, "launcher=slurm", *SMALL, *words, "strategy=fastervlm")
    journal = answered(tmp_path / "t", wanted=3)
    before = journal.read_bytes()
    job = next(p.name for p in (tmp_path / "t" / ".submitit").iterdir() if p.name.isdigit())
    subprocess.run(["scontrol", "requeue", job], check=True)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
    finished(process)
    assert journal.read_bytes().startswith(before.rpartition(b"\n")[0])
    assert outcome(tmp_path / "t") == alone(*words, "strategy=[fastervlm]")


def answered(directory, wanted):
    """The journal of the only cell, once it holds some answers."""
    for _ in range(600):
        for path in directory.glob("cells/*/journal.*.jsonl"):
            if path.read_bytes().count(b"\n") > wanted:
                return path
        time.sleep(0.2)
    raise AssertionError("nothing was answered")

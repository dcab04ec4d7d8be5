"""The latency script runs end to end on a tiny model, and counts what it says it counts."""

import csv
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_latency.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_cache_bytes_are_those_of_the_kept_tokens(script, tmp_path, capsys):
    out = tmp_path / "lines.csv"
    arguments = ["--model", "tiny", "--device", "cpu", "--dtype", "float32", "--repeats", "1"]
    arguments += ["--budgets", "576", "32", "--batch", "2", "--out", str(out)]
    script["main"](arguments)
    with open(out, newline="", encoding="utf-8") as file:
        whole, pruned = csv.DictReader(file)
    for line, budget in ((whole, 576), (pruned, 32)):
        # layers x (keys and values) x batch x tokens x width x bytes
        assert int(line["cache_bytes"]) == 2 * 2 * 2 * (budget + 60) * 64 * 4
        assert float(line["prefill_s"]) > 0
    assert float(whole["flops_ratio"]) == 1
    assert float(pruned["flops_ratio"]) < 0.2
    assert "random weights, float32, sdpa" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(script, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here"):
        script["main"](["--model", "llava_1_5_7b"])

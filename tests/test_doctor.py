"""What can be known without weights or a GPU: dry runs of the paper's tables, and the doctor."""

import importlib.metadata

import pytest
from architectures import PUBLISHED
from plans import loaded, planned

from agilepruner import doctor, torchvision
from agilepruner.dry_run import describe
from agilepruner.errors import UserError
from agilepruner.flops import Architecture
from agilepruner.models.shapes import config_of
from agilepruner.runner.plan import documents_in
from agilepruner.throughput import HARNESS, Work

# Billions of parameters; TFLOPs of vision and of the unpruned prefill with 60 text tokens
# (torch's counter on the real shapes gives the same, tests/test_flops.py).
TABLES = {
    "llava_1_5_7b": ("7.063", "0.382", "8.450"),
    "llava_1_5_13b": ("13.351", "0.382", "16.471"),
    "llava_next_7b": ("7.063", "1.910", "42.611"),
    "qwen2_5_vl_7b": ("8.292", None, None),
    "llava_onevision_7b": ("8.031", None, None),
    "qwen3_vl_8b": ("8.767", None, None),
    "internvl3_8b": ("7.944", None, None),
    "smolvlm2_2b": ("2.2", None, None),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_dry_run_lists_every_cell_with_its_costs(table):
    parameters, vision, prefill = TABLES[table]
    run = planned(f"table={table}")
    lines = describe(run).splitlines()
    assert f": {parameters}" in lines[1]
    cells = [line.split() for line in lines if line.startswith(tuple(run.config["benchmark"]))]
    assert len(cells) == len(run.cells)
    vanilla = next(cell for cell in cells if cell[1] == "vanilla")
    if vision:
        assert vanilla[5] == vision
        assert vanilla[8] == prefill
    assert vanilla[11] == "100.0"
    pruned = [float(cell[10]) for cell in cells if cell[1] == "divprune"]
    assert all(0 < total < float(vanilla[10]) for total in pruned)
    text = "\n".join(lines)
    assert f"model {run.config['model']['load']['path']}" in text
    for benchmark in run.config["benchmark"].values():
        hub = benchmark["protocols"][run.config["protocol"]].get("hub", benchmark["hub"])
        assert hub["path"] in text


def test_model_configs_say_what_their_checkpoints_are():
    """Layers and tokens in configs/model are those of the real shapes."""
    for table in TABLES:
        model = planned(f"table={table}").config["model"]
        arch = Architecture.from_config(config_of(model))
        assert arch == PUBLISHED[table]
        assert model["decoder_layers"] == arch.layers
        tokens = arch.tokens * model.get("tiles", 1)
        between = {"llava_onevision_7b": 81, "smolvlm2_2b": 39}  # newlines; text markers
        if table != "qwen3_vl_8b":  # lmms-eval's pixel limits
            assert model["visual_tokens"] == tokens + between.get(table, 0)


def test_an_unknown_checkpoint_says_what_to_do():
    run = planned("table=llava_1_5_7b", "model.load.path=nobody/nothing")
    with pytest.raises(UserError, match=r"config\.json"):
        describe(run)


def test_a_dry_run_says_hours_at_a_given_or_measured_speed(tmp_path):
    words = ["table=llava_1_5_7b", f"results={tmp_path}"]
    text = describe(planned(*words))
    assert "Hours: not known" in text
    text = describe(planned(*words, "throughput=100"))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line[:1] == " "}
    pflops, hours = (float(lines["all"][i].replace(",", "")) for i in (-2, -1))
    answers = int(lines["all"][-3].replace(",", ""))
    assert hours == pytest.approx((pflops * 10 + answers * HARNESS) / 3600, rel=0.01)
    assert "at 100 TFLOP/s, as given" in text


def test_a_limit_of_units_is_counted_in_documents():
    """MME's pairs and MMBench's rotations: exactly where the data is here, else on average."""
    names = ["mme", "mmbench_en", "pope"]
    run = planned("limit=7", f"benchmark=[{','.join(names)}]")
    suite, settings = run.config["suite"], run.config["benchmark"]
    found = [len(loaded(n, settings[n], suite, "lmms", 7).documents) for n in names]
    assert [documents_in(run, name) for name in names] == found
    assert found[0] == 14
    away = planned("table=llava_1_5_7b", "limit=7")
    assert [documents_in(away, name) for name in names] == [14, round(7 * 4377 / 1164), 7]


def test_work_encodes_an_image_once_for_all_cells():
    part = {"vision": 3.0, "total": 10.0}
    assert Work.of([(part, 5), (part, 5)]) == Work(2 * 5 * 7.0 + 5 * 3.0, 10)


def test_the_doctor_finds_a_wrong_version_and_says_the_command(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        return "4.57.0" if name == "transformers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (finding,) = [f for f in doctor.packages() if f.subject == "transformers"]
    assert finding.level == "fail"
    assert "pip install 'transformers" in finding.fix


def test_the_doctor_knows_the_torchvision_trap(monkeypatch):
    broken = "broken: RuntimeError: operator torchvision::nms does not exist"
    monkeypatch.setattr(torchvision, "state", lambda: broken)
    (finding,) = doctor.torchvision_build()
    assert (finding.level, "pip uninstall torchvision" in finding.fix) == ("fail", True)


def test_a_check_that_breaks_is_a_finding(monkeypatch, capsys):
    def broken():
        raise OSError("no such device")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (doctor.python, broken))
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert "fail  broken: OSError: no such device" in shown
    assert "1 to fix" in shown


def test_every_finding_that_is_not_ok_has_a_fix():
    findings = list(doctor.examine())
    assert {f.level for f in findings} <= {"ok", "warn", "fail"}
    assert all(f.fix for f in findings if f.level != "ok")
    assert {"torch", "transformers", "torchvision", "hub", "disk"} <= {f.subject for f in findings}

"""W&B: what was logged offline is read back from its files."""

import io
import json
import re
import sys
from collections import defaultdict
from dataclasses import replace

import pytest
import synthetic_rows as made
from loopback_wandb import Standin
from PIL import Image
from plans import executed, planned

from agilepruner.commands import wandb_sync
from agilepruner.errors import NotFinished, UserError
from agilepruner.report import wandb_push, wandb_send
from agilepruner.report.dashboard.documents import Look, Picture, Said
from agilepruner.report.lines import build_tables
from agilepruner.report.wandb import (
    MOST_FLIPS,
    Sink,
    _seen,
    _tags,
    flips_of,
    log_results,
    overlay,
)
from agilepruner.runner.journal import Entry

OFFLINE = Sink("agilepruner", "sweep", "offline")


def records(directory):
    """Run id -> records of its newest offline files."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    runs = {}
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        store, found = DataStore(), []
        store.open_for_scan(str(path))
        while data := store.scan_data():
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
        (run,) = [one.run for one in found if one.run.run_id]
        assert run.run_group == "sweep"
        runs[run.run_id] = found
    return runs


def read_back(directory):
    """Run id -> (config, history) of every offline run in a directory."""
    runs = {}
    for name, found in records(directory).items():
        config, history = {}, defaultdict(list)
        for record in found:
            for update in record.run.config.update:
                config[update.key] = json.loads(update.value_json)
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                history[key].append(json.loads(item.value_json))
        runs[name] = config, dict(history)
    return runs


def log_offline(rows, directory, reader=None):
    return log_results(rows, OFFLINE, directory, reader)


def test_cells_are_logged_once_with_identity_and_numbers(tmp_path):
    vanilla, pope = made.row("vanilla", 576, "pope"), made.row("divprune", 64, "pope")
    chair, failed = made.row("divprune", 64, "chair"), made.failed("random", 64, "pope", "boom")
    rows = [vanilla, pope, chair, failed]
    logged = log_offline(rows, tmp_path)
    assert (logged.cells, logged.tables, logged.failed) == (3, 1, "")
    runs = read_back(tmp_path)
    assert {vanilla.id, pope.id, chair.id} < set(runs)

    config, history = runs[pope.id]
    assert (config["strategy"], config["budget"], config["benchmark"]) == ("divprune", 64, "pope")
    assert history["accuracy"] == [pope.value]
    assert history["relative_to_vanilla_percent"] == [100 * pope.value / vanilla.value]
    assert history["flops/total"] == [pope.flops["total"]]
    assert history["kept/mean"] == [64]

    _, history = runs[chair.id]
    assert history["hallucination/chair_s"] == [chair.metrics["coco_cap_chair_s"]]
    assert history["hallucination/recall"] == [chair.metrics["coco_cap_recall"]]
    assert "accuracy" not in history

    again = log_offline(rows, tmp_path)
    assert (again.cells, again.tables) == (0, 0)
    changed = replace(chair, metrics={**chair.metrics, "coco_cap_recall": 1.0})
    again = log_offline([vanilla, pope, changed], tmp_path)
    assert (again.cells, again.tables) == (1, 1)  # its curves have changed
    (tmp_path / "dashboard.html").write_text("<p>a newer page</p>")
    again = log_offline([vanilla, pope, changed], tmp_path)
    assert (again.cells, again.tables) == (0, 1)


@pytest.fixture
def server(monkeypatch, tmp_path_factory):
    """A W&B server; nobody has to wait for it in vain."""

    def start(**failing):
        standin = Standin(**failing)
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):  # a home may be read-only
            monkeypatch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        monkeypatch.setenv("WANDB_BASE_URL", standin.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        return standin

    return start


def test_what_was_logged_offline_goes_to_a_server_once(tmp_path, server):
    rows = [made.row("vanilla", 576, "pope"), made.row("divprune", 64, "pope")]
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    assert log_offline(rows, tmp_path).cells == 2
    with server() as standin:
        logged = log_results(rows, Sink("ours", "sweep"), tmp_path)
        assert (logged.mode, logged.cells, logged.tables) == ("online", 2, 1), logged.failed
        ids = {row.id for row in rows}
        assert ids < set(standin.runs)
        for row in rows:
            assert standin.runs[row.id]["groupName"] == "sweep"
            (line,) = standin.history[row.id]
            assert json.loads(line)["accuracy"] == row.value
        (table,) = set(standin.runs) - ids
        assert f"report-{table}" in standin.artifacts
        asked = len(standin.asked)
        again = log_results(rows, Sink("ours", "sweep"), tmp_path)
        assert (again.cells, again.tables, len(standin.asked)) == (0, 0, asked)


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ({"graphql": 401}, "CommError: .*401"),
        ({"stream": 404}, "404.*file_stream"),  # wandb's finish() says nothing of it
        ({"put": 500}, "no answer within 6 s"),  # wandb would try for days
    ],
)
def test_a_server_that_fails_is_a_warning_and_nothing_counts_as_sent(
    failing, said, tmp_path, server, monkeypatch, caplog
):
    if said.startswith("no answer"):  # else a busy machine would be taken for a silent server
        monkeypatch.setattr(wandb_send, "PATIENCE", 6)
    row = made.row("divprune", 64, "pope")
    with server(**failing):
        logged = log_results([row], Sink("ours", "sweep"), tmp_path)
    assert logged.cells == 0
    assert any(record.levelname == "WARNING" for record in caplog.records)
    assert re.search(said, caplog.text)
    assert not list(tmp_path.glob("wandb/logged/*.json"))


class Broken:
    """A W&B whose given part fails, with an error that is none of its own."""

    def __init__(self, part, error):
        self.part, self.error, self.exits = part, error, []

    def _do(self, part):
        if part == self.part:
            raise self.error

    def init(self, **_):
        self._do("init")
        return self

    def log(self, scalars):
        self._do("log")

    def finish(self, exit_code=0):
        self.exits.append(exit_code)
        self._do("finish")

    dir = "nowhere/files"
    Settings = staticmethod(lambda **_: None)


@pytest.mark.parametrize(("part", "exits"), [("init", []), ("log", [1]), ("finish", [0])])
def test_a_run_that_fails_is_ended_as_failed(part, exits):
    broken = Broken(part, SystemExit(3))
    run = {
        "group": "g",
        "id": "i",
        "directory": "d",
        "start": {},
        "numbers": {},
        "tables": {},
        "curves": {},
    }
    with pytest.raises(SystemExit):
        wandb_push.push(broken, {**run, "page": None, "files": []}, "p", "offline")
    assert broken.exits == exits


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise TypeError('wrong protobuf')", "TypeError: wrong protobuf"),
        ("raise SystemExit('not today')", "SystemExit: not today"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
        ("import os, sys\nprint('segfault', file=sys.stderr)\nos._exit(139)", "ended: segfault"),
        ("import time\ntime.sleep(600)", "no answer within 2 s"),
    ],
)
def test_whatever_wandb_does_is_a_warning(source, said, tmp_path, monkeypatch, caplog):
    (tmp_path / "wandb.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    if said.startswith("no answer"):
        monkeypatch.setattr(wandb_send, "PATIENCE", 2)
    logged = log_offline([made.row("divprune", 64, "pope")], tmp_path / "results")
    assert said in logged.failed
    assert said in caplog.text


def test_auto_is_online_only_where_somebody_is_logged_in():
    def found(mode="online", key=None, asked="auto"):
        settings = {"mode": mode, "base_url": "https://there", "entity": "us"}
        made = type("wandb", (), {"api": type("Api", (), {"api_key": key})})
        made.setup = lambda: type("Setup", (), {"settings": type("Settings", (), settings)})
        return wandb_push.destination(made, asked)

    assert found() == ("offline", "us")
    assert found(key="a key") == ("online", "https://there/us")
    assert found(mode="offline", key="a key") == ("offline", "us")
    assert found(mode="disabled", key="a key")[0] == "disabled"
    assert found(mode="offline", key="a key", asked="online")[0] == "online"


def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "wandb").write_text("a file in its place")
    assert log_offline([made.row("divprune", 64, "pope")], tmp_path).cells == 0
    assert "W&B: " in caplog.text


def test_tags_are_what_wandb_takes():
    """64 characters, told apart by a hash that is the same in every process."""
    assert _tags("m" * 64, "s" * 65, "", "m" * 64) == ["m" * 64, "s" * 55 + "-375a1f00"]
    assert _tags("s" * 65) != _tags("s" * 66)


def test_without_wandb_the_fix_is_named(monkeypatch):
    with pytest.raises(UserError, match=r"mode 'on'.*Choose one of: auto, online, offline"):
        Sink("p", "g", "on")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        Sink("p", "g")


def test_a_table_is_a_run_with_averages_flips_and_the_reports_files(tmp_path):
    rows = made.rows(("divprune",), (64, 32), ("pope", "chair"))
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    (tmp_path / "dashboard.html").write_text("<p>page</p>")
    table = build_tables(rows)[0]
    assert log_offline(rows, tmp_path, Shelf()).tables == 1
    ((name, (config, history)),) = (
        one for one in read_back(tmp_path).items() if one[0].startswith("table-")
    )
    assert config["model"] == table.model
    for line in table.lines:
        value = table.average(line).value
        assert history[f"average/{line.strategy}@{line.budget}"] == [pytest.approx(value)]
    (flips,) = history["flips/nrows"]
    assert flips == len(flips_of(table)) <= MOST_FLIPS
    assert history["page/_type"] == ["html-file"]
    points = [len(line.rows) for line in table.lines if line is not table.vanilla]
    for title in ("percent_of_vanilla_by_budget", "hallucination_against_recall"):
        assert history[f"curves/{title}_table/nrows"] == [len(points)]

    artifacts = {
        record.artifact.name: {
            one.path: one.local_path for one in record.artifact.manifest.contents
        }
        for record in records(tmp_path)[name]
        if record.artifact.name
    }
    assert set(artifacts[f"report-{name}"]) == {"cells.csv"}
    files = artifacts[f"run-{name}-flips"]
    assert all(path.startswith(str(tmp_path / "wandb")) for path in files.values())
    with open(files["flips.table.json"], encoding="utf-8") as file:
        said = json.load(file)
    first = dict(zip(said["columns"], said["data"][0]))
    plain, kept = (Image.open(files[first[key]["path"]]) for key in ("image", "kept"))
    # Of 2 x 2 patches the upper left one was kept.
    assert [plain.getpixel(at)[0] > 250 for at in ((3, 3), (12, 12))] == [True, True]
    assert [kept.getpixel(at)[0] > 250 for at in ((3, 3), (12, 12))] == [True, False]


def test_an_overlay_darkens_what_was_not_kept():
    # The grid covers the square in the middle; its upper left patch was kept.
    entry = Entry(0, "yes", grid=[2, 2], kept={"bits": "gA=="}, view=[0.25, 0, 0.75, 1])
    image = overlay(Image.new("RGB", (20, 10), "white"), entry)
    assert image.getpixel((6, 2)) == (255, 255, 255)
    assert {image.getpixel(at) for at in ((12, 2), (6, 7), (2, 2), (18, 2))} == {(63, 63, 63)}


def test_an_overlay_of_pruning_inside_the_model_is_of_its_last_stage():
    entry = Entry(0, "yes", grid=[2, 2], kept={"stages": ["4A==", "gA=="]})
    image = overlay(Image.new("RGB", (16, 16), "white"), entry)
    assert [image.getpixel(at)[0] for at in ((3, 3), (12, 3), (3, 12))] == [255, 63, 63]


class Shelf:
    """Documents and answers, counting how often a data set is opened."""

    opened = 0

    def __init__(self):
        out = io.BytesIO()
        Image.new("RGB", (16, 16), "white").save(out, "WEBP")
        self.picture = Picture(out.getvalue(), (16, 16))

    def looks(self, row, documents):
        self.opened += 1
        for document in documents:
            yield document, Look([(document, f"Question {document}?", ["yes"])], self.picture)

    def said(self, row, documents):
        kept = {"grid": [2, 2], "kept": {"bits": "gA=="}}
        return {d: Said(Entry(d, f"{row.strategy} says {d}", **kept), None) for d in documents}


def test_flips_say_both_answers_and_open_each_data_set_once():
    shelf = Shelf()
    table = build_tables(made.rows())[0]
    flips = flips_of(table)
    seen = _seen(table, flips, shelf)
    assert shelf.opened == len({flip.row.benchmark for flip in flips})
    for flip, (question, references, answer, plain, *_) in zip(flips, seen, strict=True):
        assert question == f"Question {flip.document}?"
        assert references == "yes"
        assert answer == f"{flip.row.strategy} says {flip.document}"
        assert plain == f"vanilla says {flip.document}"


def test_what_was_won_is_among_the_flips_beside_what_was_lost():
    """Vanilla has half of POPE wrong, and the strategy the other half."""
    plain = made.row("vanilla", 576, "pope")
    half = [float(i % 2) for i in range(len(plain.scores))]
    pruned = made.row("divprune", 64, "pope", scores=[1 - score for score in half])
    flips = flips_of(build_tables([replace(plain, scores=half), pruned])[0])
    assert [flip.right for flip in flips[:4]] == [True, False, True, False]


def test_averages_of_lines_that_differ_in_a_parameter_stand_beside_each_other(tmp_path):
    two = [
        made.row("agilepruner", 64, "pope", id=f"cell{i}", parameters={"tau_max": tau})
        for i, tau in enumerate((0.1, 0.25))
    ]
    table = build_tables([made.row("vanilla", 576, "pope"), *two])[0]
    assert log_offline(table.rows, tmp_path).tables == 1
    (history,) = (h for name, (_, h) in read_back(tmp_path).items() if name.startswith("table"))
    names = [name for name in history if name.startswith("average/")]
    assert len(names) == len(
        [line for line in table.lines if table.average(line).value is not None]
    )


def test_several_runs_are_synced_to_one_table_and_their_own_groups(
    tmp_path, loaded_once, monkeypatch, capsys
):
    for name, strategy in (("one", "divprune"), ("two", "uniform")):
        executed(
            planned(
                f"strategy=[{strategy}]", "benchmark=[pope]", "budget=[16]", "limit=1",
                f"results={tmp_path}", f"name={name}", f"vanilla={str(name == 'one').lower()}",
            )
        )  # fmt: skip
    asked = []

    def send(runs, project, mode):
        asked.append((runs, project, mode))
        return wandb_send.Sent("offline", [run.id for run in runs][:1], failed="the wire is cut")

    monkeypatch.setattr("agilepruner.report.wandb.send", send)
    with pytest.raises(NotFinished, match="the wire is cut"):
        wandb_sync.run(["one", "two", f"results={tmp_path}", "project=ours"])
    assert "1 cells and 0 tables were new" in capsys.readouterr().out
    ((runs, project, mode),) = asked
    assert (project, mode) == ("ours", "auto")
    groups = {run.start["name"]: (run.group, run.directory) for run in runs}
    assert groups["uniform@16 pope"] == ("two", str(tmp_path / "two"))
    assert groups["vanilla@576 pope"] == ("one", str(tmp_path / "one"))
    assert groups["demo embedded lmms"] == ("one+two", str(tmp_path / "one+two"))
    with pytest.raises(UserError, match="project"):
        wandb_sync.run(["one", f"results={tmp_path}", "project=a/b"])

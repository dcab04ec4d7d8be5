"""W&B: what was logged offline is read back from its files."""

import io
import json
import logging
import sys
from collections import defaultdict
from dataclasses import replace

import pytest
import synthetic_rows as made
import wandb
from PIL import Image

from agilepruner.errors import UserError
from agilepruner.report.dashboard.documents import Look, Said
from agilepruner.report.lines import build_tables
from agilepruner.report.wandb import (
    MOST_FLIPS,
    _seen,
    _tags,
    check,
    flips_of,
    log_rows,
    log_tables,
    overlay,
)
from agilepruner.runner.journal import Entry


def read_back(directory):
    """Run id -> (config, history) of every offline run in a directory."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    runs = {}
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        store, name = DataStore(), ""
        config, history = {}, defaultdict(list)
        store.open_for_scan(str(path))
        while data := store.scan_data():
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.run.run_id:
                name = record.run.run_id
                assert record.run.run_group == "sweep"
            for update in record.run.config.update:
                config[update.key] = json.loads(update.value_json)
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                history[key].append(json.loads(item.value_json))
        runs[name] = config, dict(history)
    return runs


def read_tags(directory):
    """The tags of the only run."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (path,) = directory.glob("wandb/offline-run-*/*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.run.tags:
            return list(record.run.tags)
    return []


def log_offline(rows, directory):
    return log_rows(rows, "agilepruner", "sweep", "offline", directory)


def test_cells_are_logged_once_with_identity_and_numbers(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    vanilla, pope = made.row("vanilla", 576, "pope"), made.row("divprune", 64, "pope")
    chair, failed = made.row("divprune", 64, "chair"), made.failed("random", 64, "pope", "boom")
    rows = [vanilla, pope, chair, failed]
    assert log_offline(rows, tmp_path) == 3
    runs = read_back(tmp_path)
    assert set(runs) == {vanilla.id, pope.id, chair.id}

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

    assert log_offline(rows, tmp_path) == 0
    again = made.row("divprune", 64, "pope", value=1.0)
    changed = type(again)(**{**again.__dict__, "id": pope.id})
    assert log_offline([vanilla, changed, chair], tmp_path) == 1


def test_auto_is_offline_when_nobody_is_logged_in(tmp_path, monkeypatch):
    started = []

    class Run:
        def log(self, scalars):
            pass

        def finish(self):
            pass

    def init(**settings):
        started.append(settings)
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(type(wandb.api), "api_key", None)
    log_rows([made.row("divprune", 64, "pope")], "p", "g", "auto", tmp_path)
    monkeypatch.setattr(type(wandb.api), "api_key", "a key")
    log_rows([made.row("divprune", 32, "pope")], "p", "g", "auto", tmp_path)
    assert [settings["mode"] for settings in started] == ["offline", "online"]


class Broken:
    """A W&B whose given part fails, with an error that is none of its own."""

    def __init__(self, part):
        self.part, self.exits = part, []

    def _do(self, part):
        if part == self.part:
            raise RuntimeError(f"{part} failed")

    def init(self, **_):
        self._do("init")
        return self

    def log(self, scalars):
        self._do("log")

    def finish(self, exit_code=0):
        self.exits.append(exit_code)
        self._do("finish")

    @property
    def api(self):
        self._do("api")
        return type("Api", (), {"api_key": "a key"})

    Settings = staticmethod(lambda **_: None)


@pytest.mark.parametrize("part", ["init", "log", "finish", "api"])
def test_any_failure_of_wandb_is_a_warning_and_logged_later(part, tmp_path, monkeypatch, caplog):
    rows = [made.row("divprune", 64, "pope"), made.row("divprune", 32, "pope")]
    broken = Broken(part)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", broken)
        assert log_rows(rows, "agilepruner", "sweep", "auto", tmp_path) == 0
    assert f"RuntimeError: {part} failed" in caplog.text
    assert broken.exits == {"init": [], "log": [1], "finish": [0], "api": []}[part]
    assert log_offline(rows, tmp_path) == 2
    assert set(read_back(tmp_path)) == {row.id for row in rows}


def test_an_import_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "wandb.py").write_text("raise TypeError('wrong protobuf')")
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.syspath_prepend(tmp_path)
    assert log_offline([made.row("divprune", 64, "pope")], tmp_path / "results") == 0
    assert "TypeError: wrong protobuf" in caplog.text


def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "wandb").write_text("a file in its place")
    assert log_offline([made.row("divprune", 64, "pope")], tmp_path) == 0
    assert "W&B: " in caplog.text


def test_tags_are_what_wandb_takes(tmp_path):
    """64 characters, told apart by a hash that is the same in every process."""
    row = made.row("divprune", 64, "pope")
    names = {"model": "m" * 64, "suite": "s" * 65, "protocol": "", "family": "m" * 64}
    long = type(row)(**{**row.__dict__, **names})
    assert log_offline([long], tmp_path) == 1
    assert read_tags(tmp_path) == ["m" * 64, "s" * 55 + "-375a1f00"]
    assert _tags("s" * 65) != _tags("s" * 66)


def test_without_wandb_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        log_offline([made.row("divprune", 64, "pope")], tmp_path)
    with pytest.raises(UserError, match="mode 'on'"):
        log_rows([], "p", "g", "on", tmp_path)
    with pytest.raises(UserError, match="Choose one of: auto, online, offline"):
        check("on")
    assert not any(tmp_path.iterdir())


def test_a_table_is_a_run_with_averages_flips_and_the_reports_files(tmp_path):
    rows = made.rows()
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    (tmp_path / "dashboard.html").write_text("<p>page</p>")
    assert log_tables(rows, "agilepruner", "sweep", "offline", tmp_path) >= 1
    assert log_tables(rows, "agilepruner", "sweep", "offline", tmp_path) == 0  # nothing is new
    runs = read_back(tmp_path)
    name, (config, history) = next(iter(runs.items()))
    assert name.startswith("table-")
    table = build_tables(rows)[0]
    assert config["model"] == table.model
    for line in table.lines:
        value = table.average(line).value
        if value is not None:
            assert history[f"average/{line.strategy}@{line.budget}"] == [pytest.approx(value)]
    (flips,) = history["flips/nrows"]
    assert flips == len(flips_of(table)) <= MOST_FLIPS
    assert history["page/_type"] == ["html-file"]


def test_a_failure_while_a_table_is_logged_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", Broken("init"))
    assert log_tables(made.rows(), "agilepruner", "sweep", "auto", tmp_path) == 0
    assert "RuntimeError: init failed" in caplog.text


def test_an_overlay_darkens_what_was_not_kept():
    out = io.BytesIO()
    Image.new("RGB", (20, 10), "white").save(out, "PNG")
    # The grid covers the square in the middle; its upper left patch was kept.
    entry = Entry(0, "yes", grid=[2, 2], kept={"bits": "gA=="}, view=[0.25, 0, 0.75, 1])
    image = overlay(out.getvalue(), entry)
    assert image.getpixel((6, 2)) == (255, 255, 255)
    assert {image.getpixel(at) for at in ((12, 2), (6, 7), (2, 2), (18, 2))} == {(63, 63, 63)}


class Shelf:
    """Documents and answers, counting how often a data set is opened."""

    opened = 0

    def looks(self, row, documents):
        self.opened += 1
        for document in documents:
            yield document, Look([(document, f"Question {document}?", ["yes"])], None)

    def said(self, row, documents):
        return {d: Said(Entry(d, f"{row.strategy} says {d}"), None) for d in documents}


def test_flips_say_both_answers_and_open_each_data_set_once():
    shelf = Shelf()
    table = build_tables(made.rows())[0]
    flips = flips_of(table)
    seen = _seen(wandb, table, flips, shelf)
    assert shelf.opened == len({flip.row.benchmark for flip in flips})
    for flip, (question, references, answer, plain, _) in zip(flips, seen, strict=True):
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
    assert log_tables(table.rows, "agilepruner", "sweep", "offline", tmp_path) == 1
    ((_, history),) = read_back(tmp_path).values()
    names = [name for name in history if name.startswith("average/")]
    assert len(names) == len(
        [line for line in table.lines if table.average(line).value is not None]
    )

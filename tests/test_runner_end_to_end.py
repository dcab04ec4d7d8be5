"""Runs on the embedded model and suite: what a user does, and what may go wrong on the way."""

import base64
import json
import shutil
import threading
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import plans
import pytest
import torch
from commands import Command

from agilepruner.models.base import stack
from agilepruner.reporting import together
from agilepruner.runner import identity, stored
from agilepruner.runner import run as running
from agilepruner.runner.answer import Answering
from agilepruner.runner.claims import Claims
from agilepruner.runner.journal import Journal
from agilepruner.runner.plan import identify
from agilepruner.runner.rows import read_row
from agilepruner.strategies.attention.fastervlm import FasterVLM

GRID = ["strategy=[fastervlm,random]", "budget=[64,16]", "benchmark=[pope,mme]", "limit=4"]
GRID += ["strategy.random.seed=0"]


def planned(directory, *overrides):
    return plans.planned(f"results={directory}", *overrides)


def journals(directory):
    """Answers per cell folder, wherever the results lie."""
    found = {}
    for path in sorted(directory.glob("*/cells/*/journal.*.jsonl")):
        lines = path.read_text().split("\n")[:-1]
        entries = [json.loads(line) for line in lines]
        answers = {e["doc"]: e.get("answer") for e in entries if "doc" in e}
        found.setdefault(path.parent.name, {}).update(answers)
    return found


@pytest.fixture(scope="module")
def grid(tmp_path_factory, demo):
    """A finished run: directory, rows, images per pass of the tower, who prepared them."""
    directory, encoded = tmp_path_factory.mktemp("grid"), []
    prepared, prepare = [], type(demo).prepare

    def noted(self, image):
        prepared.append(threading.current_thread().name)
        return prepare(self, image)

    hook = demo.model.model.vision_tower.register_forward_hook(
        lambda _module, _inputs, output: encoded.append(output.last_hidden_state.shape[0])
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running, "load_model", lambda _config: demo)
            patch.setattr(type(demo), "prepare", noted)
            rows = plans.executed(planned(directory, *GRID))
    finally:
        hook.remove()
    return directory, rows, encoded, prepared


@pytest.fixture
def finished(grid, tmp_path):
    """The directory of that run, the test's to go on with."""
    shutil.copytree(grid[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_every_image_is_encoded_once_for_all_strategies_and_budgets(grid):
    _, rows, encoded, prepared = grid
    assert [row.status for row in rows] == ["done"] * 10
    images = {cluster for row in rows for cluster in row.clusters}
    assert len(prepared) == len(images)
    assert all(name.startswith("prepare") for name in prepared)  # no thread that answers
    assert sum(encoded) == len(images) < sum(row.n for row in rows if row.strategy == "vanilla")


def test_rows_carry_their_audit(grid):
    rows = grid[1]
    for row in rows:
        assert row.kept == {
            "min": row.budget,
            "mean": row.budget,
            "max": row.budget,
            "layer_mean": row.budget,
        }
        assert row.flops["total"] > row.flops["prefill"] > 0
        assert row.complexity["erank_kept"] <= row.complexity["erank_input"] * 1.01
        assert row.environment["dtype"] == "float32"
        assert len(row.scores) == len(row.clusters) == len(row.documents)
    vanilla, pruned = rows[0], next(r for r in rows if r.budget == 16)
    assert pruned.flops["prefill"] < vanilla.flops["prefill"] / 4


def test_a_finished_run_can_be_looked_at(grid, monkeypatch, caplog):
    """Pictures and questions of the data set; answers, FLOPs and attention of the run."""
    from agilepruner.documents import OnDisk

    directory, rows, *_ = grid
    where = next(directory.glob("**/cells")).parent
    reader = OnDisk([where])
    row = next(row for row in rows if row.benchmark == "mme" and row.strategy == "fastervlm")
    looks = dict(reader.looks(row, row.documents))
    assert list(looks) == row.documents
    first = looks[row.documents[0]]
    assert [len(references) for *_, references in first.asked] == [1, 1]  # a pair: yes and no
    assert first.picture.data[8:12] == b"WEBP"
    asked = [document for look in looks.values() for document, *_ in look.asked]
    said = reader.said(row, asked)
    entries = Journal(next(where.glob(f"cells/*-{row.id}")), row.id).refresh()
    assert {d: one.entry for d, one in said.items()} == entries
    total = sum(one.flops for one in said.values()) / len(said)
    assert total == pytest.approx(row.flops["total"])
    rows_, columns = entries[asked[0]].grid
    for image in row.clusters:
        levels = base64.b64decode(reader.attention(row, image))
        assert len(levels) == rows_ * columns
        assert max(levels) == 255
    assert reader.attention(row, "no such image") == ""
    elsewhere = OnDisk([where.parent])  # rows without their journals
    assert dict(elsewhere.looks(row, row.documents)) == elsewhere.said(row, asked) == {}
    monkeypatch.setattr("evals.looks.opened", lambda *_: 1 / 0)  # a broken data set costs no page
    assert dict(OnDisk([where]).looks(row, row.documents)) == {}
    assert "shown without pictures: ZeroDivisionError" in caplog.text


@pytest.mark.usefixtures("loaded_once")
def test_full_budget_equals_plain_generate(tmp_path, demo):
    """Answers of vanilla, and logits of a full-budget selection: difference 0.0."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    run = planned(tmp_path, "strategy=vanilla", "benchmark=pope", "limit=4", "batch_size=1")
    plans.executed(run)
    answers = next(iter(journals(tmp_path).values()))
    settings = run.config["benchmark"]["pope"]
    benchmark = plans.loaded("pope", settings, run.config["suite"], "lmms", 4)
    model, tokenizer = demo.model, demo.tokenizer
    for document in benchmark.documents:
        image, _ = benchmark.image(document)
        pixels = demo.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        text = demo.prompt.replace("{question}", document.question)
        text = text.replace("<image>", "<image>" * 576)
        plain = {**tokenizer(text, return_tensors="pt"), "pixel_values": pixels}
        plain.pop("token_type_ids", None)
        settings = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        expected = model.generate(**plain, max_new_tokens=8, **settings)
        new = expected.sequences[0, plain["input_ids"].shape[1] :]
        assert answers[document.index] == tokenizer.decode(new, skip_special_tokens=True).strip()

        tokens = demo.encode([image], frozenset({"attention"}))[0]
        visual = demo.embed(tokens, FasterVLM()(tokens, 576))
        del plain["pixel_values"]
        features = BaseModelOutputWithPooling(pooler_output=[visual.embeds])
        ours = model.generate(
            **plain, mm_encoder_outputs={"image": features}, max_new_tokens=8, **settings
        )
        pairs = zip(expected.logits, ours.logits, strict=True)
        assert max(float((a - b).abs().max()) for a, b in pairs) == 0.0


@pytest.mark.usefixtures("loaded_once")
def test_pruning_changes_what_the_model_sees(demo):
    """The demo model is sensitive to its visual tokens, or the other tests pass vacuously."""
    images = [torch.rand(336, 336, 3).mul(255).byte().numpy() for _ in range(2)]
    from PIL import Image

    tokens = stack(demo.encode([Image.fromarray(i) for i in images], frozenset({"attention"})))
    visual = demo.embed(tokens[0], FasterVLM()(tokens[0], 16))
    other = demo.embed(tokens[1], FasterVLM()(tokens[1], 16))
    assert (visual.embeds - other.embeds).abs().max() > 0.1


@pytest.mark.usefixtures("loaded_once")
def test_done_cells_are_not_done_again(grid, finished, monkeypatch):
    monkeypatch.setattr(
        Answering, "answer", lambda *_: pytest.fail("a finished cell was run again")
    )
    assert plans.executed(planned(finished, *GRID)) == grid[1]


@pytest.mark.usefixtures("loaded_once")
def test_an_extended_sweep_does_only_what_is_new(finished):
    before = journals(finished)
    plans.executed(planned(finished, *GRID, "strategy=[fastervlm,random,uniform]"))
    after = journals(finished)
    assert {name: after[name] for name in before} == before
    assert {name.split("-")[1] for name in set(after) - set(before)} == {"uniform"}


@dataclass(frozen=True)
class Broken(FasterVLM):
    """Selects well, until an image comes whose seed is odd."""

    label: ClassVar = "Broken"
    needs: ClassVar = frozenset({"attention", "seeds"})

    def select(self, tokens, budget):
        if any(seed % 2 for seed in tokens.seeds):
            raise ZeroDivisionError("an odd image")
        return super().select(tokens, budget)


@pytest.mark.usefixtures("loaded_once")
def test_a_failing_strategy_fails_its_cell_and_no_other(tmp_path):
    broken = f"+strategy.broken._target_={__name__}.Broken"
    run = planned(tmp_path, *GRID, broken)
    rows = {(r.strategy, r.benchmark): r for r in plans.executed(run) if r.budget in (16, 576)}
    failed = rows["broken", "pope"]
    assert failed.status == "failed"
    assert "ZeroDivisionError: an odd image" in failed.error
    assert failed.value is None
    assert failed.metrics == {}
    assert rows["fastervlm", "pope"].status == rows["vanilla", "mme"].status == "done"


@pytest.mark.usefixtures("loaded_once")
def test_a_batch_that_fails_is_halved_until_the_culprit_is_alone(tmp_path, monkeypatch, demo):
    generate = type(demo).generate

    def fragile(self, prompts, *others):
        if len(prompts) > 2:
            raise MemoryError("too large")
        return generate(self, prompts, *others)

    monkeypatch.setattr(type(demo), "generate", fragile)
    rows = plans.executed(planned(tmp_path, *GRID, "limit=2"))
    assert {row.status for row in rows} == {"done"}


@pytest.mark.usefixtures("loaded_once")
def test_a_share_that_another_process_holds_is_left_to_it_and_taken_over_when_it_is_gone(tmp_path):
    """Two shares of images: this process answers one, and the other when its holder has ended."""
    more = [*GRID, "benchmark=[mme]", "limit=6", "images_per_window=3"]
    alone = plans.executed(planned(tmp_path / "alone", *more))
    run = identify(planned(tmp_path / "shared", *more))
    name = next((tmp_path / "alone/sweep/locks").glob("share-mme-*-0-of-2.lock")).stem
    with Claims(run.directory) as other:
        assert other.take(name)
        thread = threading.Thread(target=running.execute, args=(run,))
        thread.start()
        deadline = time.monotonic() + 120
        while len(set(map(len, journals(tmp_path / "shared").values()))) != 1 or not journals(
            tmp_path / "shared"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        assert {len(answers) for answers in journals(tmp_path / "shared").values()} == {6}
        other.give_back(name)  # as its end would
    thread.join(120)
    assert not thread.is_alive()
    rows = [running.row_of(run, cell) for cell in run.cells]
    assert [row.value for row in rows] == [row.value for row in alone]
    assert journals(tmp_path / "shared") == journals(tmp_path / "alone")


def test_two_processes_share_one_run_and_nothing_is_answered_twice(tmp_path):
    """The same command twice at once, one of them told that there are four ranks."""
    expected, _ = start(tmp_path / "alone", "one").communicate()
    more = ["images_per_window=2"]
    both = [
        start(tmp_path / "both", "one", *more, env={"RANK": rank, "WORLD_SIZE": "4"})
        for rank in ("0", "3")
    ]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert printed[0][0] == expected
    assert printed[1][0] == ""  # one prints
    lines = [
        (path.parent.name, json.loads(line)["doc"])
        for path in (tmp_path / "both").glob("*/cells/*/journal.*.jsonl")
        for line in path.read_text().splitlines()
        if '"doc"' in line
    ]
    assert len(lines) == len(set(lines))


def start(directory, name, *more, env=None):
    return Command(f"results={directory}", f"name={name}", *GRID, *more, env=env)


def test_killed_anywhere_it_continues_and_the_table_is_the_same(tmp_path, chance):
    """SIGKILL at random moments of the real command; --seed repeats the moments."""
    whole = start(tmp_path, "whole")
    expected, errors = whole.communicate()
    assert whole.returncode == 0, errors
    total = sum(map(len, journals(tmp_path).values()))
    for _ in range(3):
        process = start(tmp_path / "killed", "whole")
        enough = chance.randrange(total)
        while process.poll() is None:
            time.sleep(0.01)
            if sum(map(len, _whole_lines(tmp_path / "killed"))) >= enough:
                time.sleep(chance.random() * 0.3)
                process.kill()
                break
        process.wait()
    last = start(tmp_path / "killed", "whole")
    text, errors = last.communicate()
    assert last.returncode == 0, errors
    assert text == expected
    assert journals(tmp_path / "killed") == journals(tmp_path)
    for one in (tmp_path / "whole/cells").glob("*/row.json"):
        cell = one.parent.name.rpartition("-")[2]
        other = tmp_path / "killed" / one.relative_to(tmp_path)
        assert read_row(one, cell).metrics == read_row(other, cell).metrics
        assert read_row(one, cell).scores == read_row(other, cell).scores
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def _whole_lines(directory):
    return [p.read_bytes().split(b"\n")[:-1] for p in directory.glob("*/cells/*/journal.*.jsonl")]


@pytest.mark.usefixtures("loaded_once")
def test_pruning_inside_the_language_model_runs_in_the_same_grid(tmp_path):
    run = planned(
        tmp_path, "strategy=[fastv,fastervlm]", "budget=[160,64]", "benchmark=[pope]", "limit=4"
    )
    rows = {(row.strategy, row.budget): row for row in plans.executed(run)}
    assert set(rows) == {
        ("vanilla", 576),
        ("fastv", 160),  # 64 is below what the first full layer takes: left out, and said so
        ("fastervlm", 160),
        ("fastervlm", 64),
    }
    fastv = rows["fastv", 160]
    assert fastv.status == "done"
    assert fastv.kept["max"] == 576  # all enter, fewer leave the first layers
    assert 150 < fastv.kept["layer_mean"] <= 160
    assert fastv.flops["prefill"] < rows["vanilla", 576].flops["prefill"] / 2


@pytest.mark.usefixtures("loaded_once")
def test_an_image_that_cannot_be_read_fails_the_cells_that_show_it(tmp_path, monkeypatch):
    from evals.tasks import Benchmark

    read = Benchmark.image
    broken = []

    def image(self, document):
        if self.name == "pope" and not broken:
            broken.append(document.index)
            raise OSError("truncated file")
        return read(self, document)

    monkeypatch.setattr(Benchmark, "image", image)
    rows = plans.executed(planned(tmp_path, *GRID))
    for row in rows:
        if row.benchmark == "pope":
            assert row.status == "failed"
            assert "image cannot be read: OSError: truncated file" in row.error
        else:
            assert row.status == "done"
    again = plans.executed(planned(tmp_path, *GRID))  # the file is whole again
    assert {row.status for row in again} == {"done"}


@pytest.mark.usefixtures("loaded_once")
def test_a_changed_metric_replays_journals_without_a_model(finished, monkeypatch):
    before = journals(finished)
    monkeypatch.setattr(running, "load_model", lambda _c: pytest.fail("the model was loaded"))
    changed = "benchmark.pope.protocols.lmms.headline.metric=pope_accuracy"
    rows = plans.executed(planned(finished, *GRID, changed))
    assert journals(finished) == before
    for row in rows:
        if row.benchmark == "pope":
            assert row.metric == "pope_accuracy"
            assert row.value == pytest.approx(100 * row.metrics["pope_accuracy"])
            assert row.kept["mean"] == row.budget


def test_a_benchmark_that_cannot_be_had_is_in_the_report_until_it_can(finished):
    """Its cells have no documents in their identity, and rows that say why."""
    run = identify(planned(finished, *GRID[:-1], "strategy=[fastervlm,uniform]"))
    cells = [replace(c, identity={**c.identity, "documents": None}) for c in run.cells]
    cells = [replace(c, key=identity.digest(c.identity)) for c in cells if c.benchmark == "mme"]
    outcome = running.execute(replace(run, cells=cells, failed={"mme": "not on the hub"}))
    assert {row.error for row in outcome.rows} == {"not on the hub"}
    rows = [r for r in together(stored.rows_in(run.directory)) if r.benchmark == "mme"]
    status = {(row.strategy, row.budget): row.status for row in rows}
    assert status["fastervlm", 64] == "done"  # it was answered when it could be had
    assert status["uniform", 64] == "failed"


def answers_in(folder):
    """Document -> answer, of the journals in one cell's folder."""
    lines = [x for p in folder.glob("journal.*.jsonl") for x in p.read_text().splitlines()]
    return {e["doc"]: e["answer"] for e in map(json.loads, lines) if "doc" in e}


@pytest.mark.usefixtures("loaded_once")
def test_runs_share_finished_cells_and_the_noise_floor_stands_apart(tmp_path, monkeypatch):
    few = ["benchmark=[pope]", "limit=3", "budget=[16]", "strategy=fastervlm"]
    first = identify(planned(tmp_path, *few, "name=first", "noise=1"))
    rows = running.execute(first).rows
    again = running.once_more(first)
    (repeated,) = running.execute(again).rows
    (vanilla,) = [row for row in rows if row.strategy == "vanilla"]
    assert (repeated.id, repeated.environment["batch_size"]) == (vanilla.id, 1)
    assert vanilla.environment["batch_size"] == 32
    assert stored.repetitions(tmp_path / "first") == [[repeated]]
    assert {row.id for row in stored.rows_in(tmp_path / "first")} == {row.id for row in rows}

    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("a model was loaded"))
    second = identify(planned(tmp_path, *few, "name=second", "reuse=true"))
    assert running.execute(second).rows == rows  # and none is the noise floor's
    for cell in second.cells:
        assert answers_in(second.folder(cell)) == answers_in(first.folder(cell)) != {}

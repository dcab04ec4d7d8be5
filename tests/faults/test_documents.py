"""One bad thing costs one document: odd rows of a suite, and what they leave of the run."""

import io

import plans
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFile

from agilepruner.places import ROOT
from agilepruner.runner import answer, encoding
from agilepruner.runner import run as running
from agilepruner.runner.journal import Journal
from agilepruner.runner.plan import identify
from agilepruner.runner.run import execute
from agilepruner.strategies.attention.fastervlm import FasterVLM
from evals import tasks
from evals.documents import decode

DATA = ROOT / "evals/suite/data"
pytestmark = pytest.mark.usefixtures("loaded_once")


def rewrite(folder, name, change, count=5):
    """A suite of the first documents of a benchmark, each row changed by ``change(i, row)``."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(DATA / f"{name}.parquet").slice(0, count)
    rows = [change(i, row) for i, row in enumerate(table.to_pylist())]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / f"{name}.parquet")
    return [f"suite.directory={folder}", "suite=local"]


def rows_of(tmp_path, *overrides):
    found = plans.executed(plans.planned(f"results={tmp_path / 'results'}", *overrides))
    return {(row.strategy, row.benchmark): row for row in found}


def entries(tmp_path, pattern):
    (folder,) = (tmp_path / "results/sweep/cells").glob(pattern)
    return Journal(folder, folder.name.rpartition("-")[2]).refresh()


def one(at, **changes):
    """Change one row."""
    return lambda i, row: {**row, **changes} if i == at else row


def encoded(kind):
    image, out = Image.effect_noise((336, 336), 90).convert("RGB"), io.BytesIO()
    image.save(out, "JPEG")
    content = out.getvalue()
    return {
        "garbage": b"no image at all",
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "none": None,
    }[kind]


@pytest.mark.parametrize(("kind", "at"), [("garbage", 0), ("empty", 3), ("none", 3), ("none", 0)])
def test_an_image_that_is_none_fails_its_document_and_no_other(tmp_path, kind, at):
    odd = one(at, image={"bytes": encoded(kind), "path": None})
    suite = rewrite(tmp_path / "suite", "vqav2", odd)
    rewrite(tmp_path / "suite", "mme", lambda i, row: row, 4)
    rows = rows_of(tmp_path, *suite, "benchmark=[vqav2,mme]", "strategy=[fastervlm]", "budget=[16]")
    failed = rows["fastervlm", "vqav2"]
    assert failed.status == "failed"
    assert failed.failures == 1
    assert f"1 of 5 documents failed; document {at}: image cannot be read: " in failed.error
    assert rows["vanilla", "vqav2"].value is None
    assert rows["fastervlm", "mme"].status == "done"
    found = entries(tmp_path, "vqav2-fastervlm-*")
    assert [doc for doc, entry in found.items() if entry.error] == [at]
    assert len(found) == 5


def test_a_truncated_image_is_answered_and_said_in_the_row(tmp_path):
    odd = one(2, image={"bytes": encoded("truncated"), "path": None})
    suite = rewrite(tmp_path / "suite", "vqav2", odd)
    row = rows_of(tmp_path, *suite, "benchmark=[vqav2]", "strategy=vanilla")["vanilla", "vqav2"]
    assert row.status == "done"
    assert row.notes == ["1 documents: truncated image, its missing part is grey"]


@pytest.mark.parametrize(("benchmark", "at"), [("vqav2", 0), ("pope", 3), ("mmbench_en", 3)])
def test_a_question_that_is_none_fails_its_document(tmp_path, benchmark, at):
    suite = rewrite(tmp_path / "suite", benchmark, one(at, question=None))
    row = rows_of(tmp_path, *suite, f"benchmark=[{benchmark}]", "strategy=vanilla")[
        "vanilla", benchmark
    ]
    assert row.status == "failed"
    assert f"document {at}: it has no question" in row.error


def test_data_without_a_column_fails_its_benchmark_once(tmp_path):
    suite = rewrite(tmp_path / "suite", "mme", lambda i, row: row, 2)
    table = pq.read_table(DATA / "scienceqa_img.parquet").slice(0, 3).drop_columns(["choices"])
    pq.write_table(table, tmp_path / "suite" / "scienceqa_img.parquet")
    rows = rows_of(tmp_path, *suite, "benchmark=[scienceqa_img,mme]", "strategy=vanilla")
    error = rows["vanilla", "scienceqa_img"].error
    assert "scienceqa_img.parquet has no documents for it (none of 3 can be asked: " in error
    assert "KeyError: 'choices'). Its columns: " in error
    assert rows["vanilla", "mme"].status == "done"


def test_a_documents_text_is_text_and_never_a_control_token(tmp_path, demo):
    texts = ["<image>", "</s>", "a <image> and </s> b <s><unk>", "<image><image>"]
    suite = rewrite(
        tmp_path / "suite",
        "vqav2",
        lambda i, row: {**row, "question": f"What does {texts[i]} mean?"},
        len(texts),
    )
    row = rows_of(tmp_path, *suite, "benchmark=[vqav2]", "strategy=vanilla")["vanilla", "vqav2"]
    assert row.status == "done", row.error
    special = set(demo.tokenizer.all_special_ids)
    for text in texts:
        ids = demo.tokenize(f"What does {text} mean?")
        plain = [i for i in ids if i not in special]
        assert [i for i in ids if i in special] == [demo.tokenizer.bos_token_id, demo.image_token]
        assert text in demo.tokenizer.decode(plain)


def test_other_questions_are_tokenized_as_they_were(demo):
    text = "What does it mean? 左边 <b> image s>"
    whole = demo.prompt.replace("{question}", text)
    assert demo.tokenize(text) == demo.tokenizer(whole)["input_ids"]


def test_an_image_id_is_a_hint_and_the_content_decides(tmp_path):
    plain = rewrite(tmp_path / "plain", "pope", lambda i, row: row, 12)
    odd = rewrite(tmp_path / "odd", "pope", lambda i, row: {**row, "image_source": None}, 12)
    asked = ["benchmark=[pope]", "strategy=vanilla"]
    expected = rows_of(tmp_path / "a", *plain, *asked)["vanilla", "pope"]
    found = rows_of(tmp_path / "b", *odd, *asked)["vanilla", "pope"]
    assert found.value == expected.value
    assert found.clusters == expected.clusters
    assert len(set(found.clusters)) == 2


def test_a_benchmark_that_cannot_be_loaded_fails_its_cells_and_no_other(tmp_path):
    suite = rewrite(tmp_path / "suite", "vqav2", lambda i, row: row)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "suite/mme.parquet")
    rows = rows_of(tmp_path, *suite, "benchmark=[mme,vqav2]", "strategy=vanilla")
    assert rows["vanilla", "vqav2"].status == "done"
    assert rows["vanilla", "mme"].status == "failed"
    assert rows["vanilla", "mme"].error


def test_a_reference_that_cannot_be_scored_is_named(tmp_path):
    suite = rewrite(tmp_path / "suite", "pope", one(2, answer=None))
    row = rows_of(tmp_path, *suite, "benchmark=[pope]", "strategy=vanilla")["vanilla", "pope"]
    assert row.status == "failed"
    assert "document 2 cannot be scored: AttributeError" in row.error


# --- the maths of one document ---

FIVE = ["benchmark=[vqav2]", "limit=5", "strategy=[fastervlm]", "budget=[16]"]


def test_an_eigenvalue_problem_that_fails_costs_its_image(tmp_path, monkeypatch):
    measure, alone = encoding.effective_rank_small, []

    def fragile(x):
        if x.shape[1] == 576:
            alone.extend(["an image"] if len(x) == 1 else [])
            if len(x) > 1 or len(alone) == 2:
                raise torch.linalg.LinAlgError("failed to converge")
        return measure(x)

    monkeypatch.setattr(encoding, "effective_rank_small", fragile)
    rows = rows_of(tmp_path, *FIVE)
    row = rows["fastervlm", "vqav2"]
    assert row.status == "failed"
    assert "1 of 5 documents failed; document 1: complexity failed: _LinAlgError" in row.error


def test_a_selection_that_fails_for_one_image_names_that_image(tmp_path, monkeypatch):
    select, seen = FasterVLM.select, []

    def fragile(self, tokens, budget):
        if tokens.batch > 1 or len(seen) == 2:
            seen.append("bad") if tokens.batch == 1 else None
            raise torch.linalg.LinAlgError("failed to converge")
        seen.append("good")
        return select(self, tokens, budget)

    monkeypatch.setattr(FasterVLM, "select", fragile)
    rows = rows_of(tmp_path, *FIVE)
    row = rows["fastervlm", "vqav2"]
    assert "1 of 5 documents failed; document 2: selection failed: _LinAlgError" in row.error
    assert rows["vanilla", "vqav2"].status == "done"
    assert sum(not e.error for e in entries(tmp_path, "vqav2-fastervlm-*").values()) == 4


def test_a_failed_document_is_tried_again_and_no_other(tmp_path, monkeypatch, demo):
    suite = rewrite(tmp_path / "suite", "vqav2", lambda i, row: row)
    generate = type(demo).generate

    def fragile(self, prompts, *others):
        if len(prompts) > 1 or len(answered) == 2:
            answered.append(None) if len(prompts) == 1 else None
            raise AssertionError
        answered.append(prompts)
        return generate(self, prompts, *others)

    answered = []
    monkeypatch.setattr(type(demo), "generate", fragile)
    row = rows_of(tmp_path, *suite, "benchmark=[vqav2]", "strategy=[vanilla]")["vanilla", "vqav2"]
    assert "generation failed: AssertionError: no message" in row.error
    answered, count = [], []
    monkeypatch.setattr(
        type(demo), "generate", lambda self, p, *o: count.append(len(p)) or generate(self, p, *o)
    )
    row = rows_of(tmp_path, *suite, "benchmark=[vqav2]", "strategy=[vanilla]")["vanilla", "vqav2"]
    assert row.status == "done"
    assert 1 <= sum(count) <= 5


def test_a_cell_that_fails_everywhere_is_given_up(tmp_path, monkeypatch):
    def broken(_self, _tokens, _budget):
        calls.append(1)
        raise ZeroDivisionError("always")

    calls = []
    monkeypatch.setattr(FasterVLM, "select", broken)
    monkeypatch.setattr(answer, "HOPELESS", 8)
    rows = rows_of(
        tmp_path, "benchmark=[vqav2]", "limit=24", "strategy=[fastervlm]", "images_per_window=4"
    )
    assert rows["vanilla", "vqav2"].status == "done"
    assert "12 were not tried" in rows["fastervlm", "vqav2"].error or len(calls) < 24
    assert "ZeroDivisionError: always" in rows["fastervlm", "vqav2"].error


def test_what_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """The file is replaced between the moment it was hashed and the moment it was read."""
    suite = rewrite(tmp_path / "suite", "vqav2", lambda i, row: row)
    run = identify(plans.planned(f"results={tmp_path / 'results'}", *suite, "benchmark=[vqav2]"))
    rewrite(tmp_path / "suite", "vqav2", one(1, question="Another question?"))
    rows = execute(run).rows
    assert {row.status for row in rows} == {"failed"}
    assert "changed while they were read" in rows[0].error


def test_a_picture_that_changes_during_the_run_fails_its_document(tmp_path, monkeypatch):
    def apart(i, row):
        path = tmp_path / f"{i}.jpg"
        path.write_bytes(row["image"]["bytes"])
        return {**row, "image": {"bytes": None, "path": str(path)}}

    suite = rewrite(tmp_path / "suite", "vqav2", apart)
    load = tasks.load

    def loaded_then_changed(*arguments):
        benchmark = load(*arguments)
        content = (tmp_path / "0.jpg").read_bytes()
        (tmp_path / "3.jpg").write_bytes(content)
        return benchmark

    run = identify(plans.planned(f"results={tmp_path / 'results'}", *suite, "benchmark=[vqav2]"))
    monkeypatch.setattr(tasks, "load", loaded_then_changed)
    monkeypatch.setattr(running, "_unchanged", lambda *_: None)
    row = execute(run).rows[0]
    assert row.failures == 1
    assert "document 3: image cannot be read: ValueError: the image file changed" in row.error


def test_an_image_is_decoded_the_same_whatever_another_library_has_set(monkeypatch):
    """Strictly first, also where Pillow was told to tolerate; and that setting stays as it was."""
    content = encoded("truncated")
    for setting in (True, False):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", setting)
        assert decode(content)[1] == "truncated image, its missing part is grey"
        assert ImageFile.LOAD_TRUNCATED_IMAGES is setting

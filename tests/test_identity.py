"""A number is bound to every byte that made it, and to nothing else: mutants of each input."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import plans
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from agilepruner.errors import UserError
from agilepruner.runner import identity
from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.plan import identify
from agilepruner.runner.rows import read_row
from agilepruner.runner.stored import rows_in

ROOT = Path(__file__).parents[1]

# What a cell of CDPruner-like, decoder and merging strategies is answered by: file -> a mutation.
ANSWERING = {
    "evals/prompts.py": ('    return doc["question"] +', '    return "!" + doc["question"] +'),
    "evals/documents.py": ("_IMAGES = True", "_IMAGES = False"),
    "evals/tasks.py": ("question = task.doc_to_text(record)", "question = str(record)"),
    "agilepruner/models/decoder.py": (".sort().values", ".sort().values.flip(0)"),
    "agilepruner/models/llava.py": ("self.model.device, self.model.dtype", "self.model.device"),
    "agilepruner/models/tower.py": ("hidden[:, int(self.cls) :]", "hidden[:, :-1]"),
    "agilepruner/models/hugging_face.py": ("do_sample=False", "do_sample=True"),
    "agilepruner/models/base.py": ("torch.cat(values)", "torch.cat(values[::-1])"),
    "agilepruner/models/text.py": ("max(1, len(token) // 2)", "max(2, len(token) // 2)"),
    "agilepruner/models/taps.py": ("** -0.5", "** -0.6"),
    "agilepruner/runner/answer.py": ("DEFAULT_NEW_TOKENS = 128", "DEFAULT_NEW_TOKENS = 12"),
    "agilepruner/strategies/base.py": ("descending=True", "descending=False"),
    "agilepruner/strategies/adaptive/agilepruner.py": ("< reach", "<= reach"),
    "agilepruner/complexity.py": ("torch.exp(", "torch.exp2("),
    "agilepruner/linalg.py": ("STRIPS = 6", "STRIPS = 5"),
}
SCORING = {
    "evals/metrics.py": ('"no", "not"', '"no"'),
    "evals/scoring.py": ("/ len(values)", "/ (len(values) + 1)"),
    "evals/submissions.py": ("allow_nan=False", "allow_nan=True"),
    "agilepruner/flops.py": ("return 2.0 * (macs + arch", "return 3.0 * (macs + arch"),
    "agilepruner/runner/score.py": ("/ n for part", "/ (n + 1) for part"),
}
MODULES = [
    "agilepruner.strategies.adaptive.agilepruner",
    "agilepruner.models.llava",
    "agilepruner.runner.answer",
    "evals.tasks",
    "evals.prompts",
]
SCORERS = ["agilepruner.runner.score", "evals.scoring", "evals.metrics", "evals.submissions"]


@pytest.fixture
def tree(tmp_path):
    """A copy of the project's code."""
    copy_code(tmp_path)
    return tmp_path


def copy_code(folder):
    for package in ("agilepruner", "evals"):
        for path in (ROOT / package).rglob("*.py"):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A copy for all tests that leave it as it was, and its digests."""
    folder = tmp_path_factory.mktemp("tree")
    copy_code(folder)
    return folder, {tuple(m): digest_of(m, folder) for m in (MODULES, SCORERS)}


def digest_of(modules, tree):
    for remembered in (identity._source, identity._imports, identity._tree, identity._meaning_of):
        remembered.cache_clear()
    return identity.code_digest(modules, tree)


@pytest.mark.parametrize(
    ("modules", "file", "change"),
    [(MODULES, file, change) for file, change in ANSWERING.items()]
    + [(SCORERS, file, change) for file, change in SCORING.items()],
    ids=[f for f in ANSWERING] + list(SCORING),
)
def test_a_change_of_code_is_another_identity(untouched, modules, file, change):
    (tree, before), (old, new) = untouched, change
    path = tree / file
    source = path.read_text()
    assert old in source, f"{file} no longer holds {old!r}: choose another mutation"
    path.write_text(source.replace(old, new, 1))
    try:
        assert digest_of(modules, tree) != before[tuple(modules)]
    finally:
        path.write_text(source)


def test_comments_and_texts_that_nothing_reads_are_no_other_identity(tree):
    before = [digest_of(modules, tree) for modules in (MODULES, SCORERS)]
    for file in (*ANSWERING, *SCORING):
        with open(tree / file, "a", encoding="utf-8") as source:
            source.write('\n# a comment\n"""A text that nothing reads."""\n')
    assert [digest_of(modules, tree) for modules in (MODULES, SCORERS)] == before


def test_what_is_not_between_document_and_answer_is_in_no_answers_identity(tree):
    files = identity.closure(MODULES, tree)
    apart = {"agilepruner.cli", "agilepruner.flops", "agilepruner.runner.score", "evals.scoring"}
    apart |= {"agilepruner.config", "agilepruner.runner.plan", "agilepruner.runner.run"}
    assert not apart & set(files)
    assert not any(name.startswith("agilepruner.report") for name in files)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("X = 1\n", '"""Doc."""\nX  =  1  # a comment\n', True),
        (
            "def f(a, b):\n    return a\n",
            "def f(a: int, b) -> int:\n    'Doc.'\n    return a\n",
            True,
        ),
        ("__version__ = '1'\nX = 1\n", "__version__ = '2'\nX = 1\n", True),
        ("X = 1\n", "X = 2\n", False),
        ("X = 1\n", "X = 1.0\n", False),
        ("X = 'a'\n", "X = b'a'\n", False),
        (
            "class A:\n    x: int = 1\n",
            "class A:\n    x: float = 1\n",
            False,
        ),  # a dataclass reads it
        ("def f(a): return a\n", "def f(b): return b\n", False),
        ("x = a + b\n", "x = a - b\n", False),
        ("x = [a, b]\n", "x = [b, a]\n", False),
        ("f(a)(b)\n", "f(a, b)\n", False),
    ],
)
def test_meaning(one, other, same):
    assert (identity.meaning(one) == identity.meaning(other)) is same


def test_meaning_is_spelled_alike_by_every_python():
    """Frozen: fields that newer versions add to their nodes, empty or None, do not count."""
    source = "def f(x, *, y=1):\n    '''Doc.'''\n    return [f'{x!r:>{y}}' for _ in ()]\n"
    assert identity.meaning(source) == "bd7b6d226d5b8369"
    node = ast.parse(source).body[0]
    node._fields = (*node._fields, "type_params", "something_new")
    node.type_params, node.something_new = [], None
    assert "".join(identity._spell(node)) == "".join(identity._spell(ast.parse(source).body[0]))


def test_a_users_own_module_and_what_it_imports_are_followed(tmp_path, monkeypatch):
    (tmp_path / "my_helper.py").write_text("X = 1\n")
    (tmp_path / "my_metric.py").write_text("def score(doc, results):\n    import my_helper\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert identity.modules_named({"process_results": "my_metric.score", "n": 3, "m": "mean"}) == [
        "my_metric"
    ]
    assert set(identity.closure(["my_metric"])) == {"my_metric", "my_helper"}
    assert set(identity.closure(["torch.nn", "json", "numpy"])) == set()


# --- files ---


def test_the_whole_of_a_file_counts_also_when_its_digest_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "CACHED_FROM", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights.bin"
    path.write_bytes(b"0" * 100)
    before = identity.file_digest(path)
    assert list((tmp_path / "cache").rglob("*.sha256"))
    monkeypatch.setattr(identity, "_hash", lambda _path: pytest.fail("hashed again"))
    assert identity.file_digest(path) == before
    monkeypatch.undo()
    monkeypatch.setattr(identity, "CACHED_FROM", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stat = path.stat()
    with open(path, "r+b") as file:  # same size, and its time set back
        file.seek(50)
        file.write(b"1")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity.file_digest(path) != before


@pytest.fixture
def checkpoint(tmp_path):
    """The demo model's directory, copied."""
    return Path(shutil.copytree(ROOT / "evals/demo_model", tmp_path / "model"))


def ids(directory, *overrides):
    run = identify(plans.planned(f"results={directory}", "benchmark=[pope]", *overrides))
    return [cell.id for cell in run.cells], [cell.scoring for cell in run.cells]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"]
)
def test_every_file_of_a_checkpoint_counts(tmp_path, checkpoint, name):
    before, _ = ids(tmp_path, f"model.load.path={checkpoint}")
    same, _ = ids(tmp_path)
    assert before == same  # where it lies does not
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    after, _ = ids(tmp_path, f"model.load.path={checkpoint}")
    assert not set(after) & set(before)
    path.unlink()
    (checkpoint / "README.md").write_text("other words")
    if name == "generation_config.json":
        assert not set(ids(tmp_path, f"model.load.path={checkpoint}")[0]) & set(before)


def test_pickled_weights_count_where_they_are_what_is_loaded(tmp_path, checkpoint):
    (checkpoint / "pytorch_model.bin").write_bytes(b"one")
    with_safetensors = identity.checkpoint_digest(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"two")
    assert identity.checkpoint_digest(checkpoint) == with_safetensors
    (checkpoint / "model.safetensors").unlink()
    two = identity.checkpoint_digest(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"one")
    assert identity.checkpoint_digest(checkpoint) != two


def test_an_empty_directory_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        identity.checkpoint_digest(tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "strategy.agilepruner.tau_max=0.3",
        "budget=[32]",
        "limit=3",
        "model.load.prompt='USER: <image> {question} ASSISTANT:'",
        "model.max_new_tokens=5",
        "model.load.dtype=bfloat16",
        "benchmark.pope.protocols.lmms.task=pope/pope_full.yaml",
    ],
)
def test_a_setting_that_changes_answers_is_another_identity(tmp_path, override):
    before, after = ids(tmp_path)[0], ids(tmp_path, override)[0]
    assert before[-1] != after[-1]


@pytest.mark.parametrize(
    "override",
    ["batch_size=4", "workers=1", "images_per_window=3", "name=other", "model.load.device=cpu"],
)
def test_a_setting_that_changes_no_answer_is_none(tmp_path, override):
    assert ids(tmp_path) == ids(tmp_path, override)


def test_what_scores_is_another_digest_and_the_same_identity(tmp_path, monkeypatch):
    answers, scoring = ids(tmp_path)
    changed = "benchmark.pope.protocols.lmms.headline.metric=pope_accuracy"
    assert ids(tmp_path, changed)[0] == answers
    assert ids(tmp_path, changed)[1] != scoring
    assert ids(tmp_path, "suite.synthetic=false")[1] != scoring
    from evals import chair

    words = ids(tmp_path, "benchmark=[chair]")[1]
    monkeypatch.setattr(chair, "language_source", lambda: "nltk 3.9")
    assert ids(tmp_path, "benchmark=[chair]")[1] != words


def test_library_versions_count(tmp_path, monkeypatch):
    before, scoring = ids(tmp_path)
    real = identity.importlib.metadata.version
    monkeypatch.setattr(
        identity.importlib.metadata,
        "version",
        lambda name: "9.9" if name == "transformers" else real(name),
    )
    assert not set(ids(tmp_path)[0]) & set(before)
    assert ids(tmp_path)[1] == scoring


# --- documents ---


@pytest.fixture
def pictures(tmp_path):
    """A suite whose parquet names image files instead of holding their bytes."""
    table = pq.read_table(ROOT / "evals/suite/data/pope.parquet").slice(0, 4).to_pylist()
    folder = tmp_path / "suite"
    folder.mkdir()
    for i, row in enumerate(table):
        (folder / f"{i}.jpg").write_bytes(row["image"]["bytes"])
        row["image"] = {"bytes": None, "path": f"{i}.jpg"}
    data = Dataset.from_list([{k: v for k, v in row.items() if k != "image"} for row in table])
    data = data.add_column("image", [row["image"]["path"] for row in table])
    data = data.cast_column("image", ImageFeature())
    with pq.ParquetWriter(folder / "pope.parquet", data.features.arrow_schema) as writer:
        writer.write_table(data.data.table.cast(data.features.arrow_schema))
    return folder


def test_pictures_that_a_parquet_names_count_by_their_content(tmp_path, pictures):
    suite = ["suite=local", f"suite.directory={pictures}"]
    before, _ = ids(tmp_path, *suite)
    Image.new("RGB", (336, 336), (9, 9, 9)).save(pictures / "2.jpg")
    assert not set(ids(tmp_path, *suite)[0]) & set(before)


def test_the_documents_file_counts_whole(tmp_path):
    folder = Path(shutil.copytree(ROOT / "evals/suite/data", tmp_path / "suite"))
    suite = ["suite=local", f"suite.directory={folder}"]
    before, _ = ids(tmp_path, *suite)
    assert before == ids(tmp_path)[0]
    data = Dataset.from_parquet(str(folder / "pope.parquet"), cache_dir=str(tmp_path / "cache"))
    data.select(range(101)).to_parquet(folder / "pope.parquet")
    assert not set(ids(tmp_path, *suite)[0]) & set(before)


# --- what was copied where it does not belong ---


@pytest.mark.usefixtures("loaded_once")
def test_a_journal_or_row_of_another_cell_is_not_believed(tmp_path):
    grid = ["strategy=[fastervlm,random]", "benchmark=[pope]", "limit=3", "budget=[16]"]
    grid.append("strategy.random.seed=0")
    rows = plans.executed(plans.planned(f"results={tmp_path}", *grid))
    cells = tmp_path / "sweep/cells"
    (source,) = cells.glob("pope-random-*")
    (target,) = cells.glob("pope-fastervlm-*")
    own = (target / "row.json").read_text()
    for name in ("row.json", "journal.0.jsonl"):
        shutil.copy(source / name, target / name)
    cell = target.name.rpartition("-")[2]
    assert read_row(target / "row.json", cell) is None
    assert Journal(target, cell).refresh() == {}
    assert len(rows_in(tmp_path / "sweep")) == len(rows) - 1
    again = plans.executed(plans.planned(f"results={tmp_path}", *grid))
    assert [row.value for row in again] == [row.value for row in rows]
    assert json.loads((target / "row.json").read_text())["id"] == json.loads(own)["id"]


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t[: len(t) // 2],
        lambda _: "",
        lambda t: t.replace('"n": 3', '"n": 4'),
        lambda _: "3",
    ],
)
def test_a_damaged_row_comes_back_from_its_journal_without_a_model(tmp_path, monkeypatch, damage):
    from agilepruner.runner import run as running

    grid = ["strategy=[fastervlm]", "benchmark=[pope]", "limit=3", "budget=[16]"]
    rows = plans.executed(plans.planned(f"results={tmp_path}", *grid))
    path = next((tmp_path / "sweep/cells").glob("pope-fastervlm-*")) / "row.json"
    path.write_text(damage(path.read_text()))
    monkeypatch.setattr(running, "load_model", lambda _config: pytest.fail("a model was loaded"))
    again = plans.executed(plans.planned(f"results={tmp_path}", *grid))
    assert [row.value for row in again] == [row.value for row in rows]


def test_an_edited_file_gives_another_identity_to_the_real_command(tree, tmp_path):
    """End to end, in a copy of the tree: the id that a run would have."""
    for folder in ("configs", "evals/demo_model", "evals/suite/data"):
        (tree / folder).parent.mkdir(parents=True, exist_ok=True)
        (tree / folder).symlink_to(ROOT / folder)
    code = (
        "from hydra import compose, initialize_config_dir\n"
        "from agilepruner.cli import CONFIGS\n"
        "from agilepruner.runner.plan import identify, plan\n"
        "with initialize_config_dir(version_base='1.3', config_dir=str(CONFIGS)):\n"
        "    config = compose('config', overrides=['benchmark=[pope]'])\n"
        "print(identify(plan(config)).cells[-1].id)\n"
    )

    def identified():
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    paths = [
        tree / "agilepruner" / file
        for file in ("models/decoder.py", "strategies/adaptive/agilepruner.py", "linalg.py")
    ]
    seen = [identified()]
    for path in paths:
        path.write_text(path.read_text() + "\n# a comment\n")
    assert identified() == seen[0]
    for path in paths:
        path.write_text(path.read_text() + "\nX = 1\n")
        changed = identified()
        assert changed not in seen
        seen.append(changed)


def test_an_entry_is_an_answer_or_an_error():
    for wrong in (
        {"doc": 1},
        {"doc": 1, "answer": "a", "error": "b"},
        {"doc": True, "answer": "a"},
    ):
        with pytest.raises(TypeError):
            Entry(**wrong)


def test_a_library_of_another_environment_is_no_users_code(tmp_path, monkeypatch):
    """Found over PYTHONPATH or a .pth file, say; its version tells it, not its sources."""
    place = tmp_path / "lib" / "python3" / "site-packages" / "elsewhere_installed"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("import torch\n")
    own = tmp_path / "own_code.py"
    own.write_text("import elsewhere_installed\n")
    monkeypatch.syspath_prepend(place.parent)
    monkeypatch.syspath_prepend(tmp_path)
    assert identity.closure(["own_code"]) == {"own_code": own}

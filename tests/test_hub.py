"""The first real run: the 7B table from a hub, anonymously, on one process or several.

The hub is ours (``loopback_hub``), with the real names and splits; a tiny model and rows of the
embedded suite stand for what they hold. Runs are processes of their own, since this one is offline.
"""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models as tiny
import yaml
from huggingface_hub import errors
from loopback_hub import Hub
from plans import composed, planned

from agilepruner import hub as asking
from agilepruner.errors import UserError
from agilepruner.models import hugging_face
from agilepruner.ranks import device
from agilepruner.runner import plan
from agilepruner.runner.rows import read_row
from agilepruner.runner.stored import folders
from evals import sources

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "evals" / "suite" / "data"
MODEL = "llava-hf/llava-1.5-7b-hf"
LAYERS = 12
FAMILIES = {
    "llava_onevision_7b": "onevision",
    "qwen3_vl_8b": "qwen3",
    "internvl3_8b": "internvl",
    "smolvlm2_2b": "smolvlm",
}
# Benchmark -> the split that is scored, and those that the data set has besides.
SPLITS = {
    "vqav2": ("validation", "testdev", "test"),
    "gqa": ("testdev",),
    "vizwiz": ("val", "test"),
    "scienceqa_img": ("test", "train", "validation"),
    "textvqa": ("validation", "train", "test"),
    "pope": ("test",),
    "mme": ("test",),
    "mmbench_en": ("dev", "test"),
    "mmbench_cn": ("dev", "test"),
    "chair": ("test",),
    "refcoco": ("val", "test", "testA", "testB"),
}
BENCHMARKS = f"benchmark=[{','.join(SPLITS)}]"
ROWS = 8
CHEAP = [
    *("model.load.dtype=float32", "model.load.device=cpu", f"model.decoder_layers={LAYERS}"),
    *("model.max_new_tokens=2", "workers=1", "budget=[128]"),
]


def parquet(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def data_set(configs):
    """A repository of ``{config: {split: content}}``, with the card that names its files."""
    files, card = {}, []
    for config, splits in configs.items():
        paths = {split: f"{config}/{split}-00000-of-00001.parquet" for split in splits}
        files |= {paths[split]: content for split, content in splits.items()}
        listed = [{"split": split, "path": path} for split, path in paths.items()]
        card.append({"config_name": config, "data_files": listed})
    return files | {"README.md": f"---\n{yaml.safe_dump({'configs': card})}---\n".encode()}


def documents(name):
    """The splits of a benchmark: rows of the embedded suite, and files that nobody may read."""
    file = SUITE / f"{'gqa' if name == 'refcoco' else name}.parquet"
    table = pq.read_table(file).slice(0, ROWS)
    if name == "refcoco":
        boxes = pa.array([[10.0, 20.0, 30.0, 40.0]] * ROWS, pa.list_(pa.float32()))
        expressions = pa.array([["the left one", "it"]] * ROWS)
        table = table.drop_columns(["answer"]).append_column("bbox", boxes)
        table = table.append_column("answer", expressions)
        table = table.append_column("question_id", pa.array([f"{i}" for i in range(ROWS)]))
    scored, *others = SPLITS[name]
    return table, {scored: parquet(table)} | dict.fromkeys(others, b"another split")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with the 7B checkpoint, the ten data sets of its table, and RefCOCO."""
    hub = Hub()
    folder = tmp_path_factory.mktemp("model")
    tiny.build("llava", layers=LAYERS).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    hub.put("models", MODEL, {path.name: path.read_bytes() for path in folder.iterdir()})
    for name, kind in FAMILIES.items():
        folder = tmp_path_factory.mktemp(kind)
        for part in (tiny.build(kind), tiny.tokenizer(), tiny.processor(kind)):
            part.save_pretrained(folder)
        path = composed(f"model={name}").model.load.path
        hub.put("models", path, {file.name: file.read_bytes() for file in folder.iterdir()})
    repositories = {}
    settings = composed("table=llava_1_5_7b", BENCHMARKS).benchmark
    for name in SPLITS:
        chosen = settings[name].protocols.paper.get("hub", settings[name].hub)
        table, splits = documents(name)
        configs = repositories.setdefault(chosen.path, {})
        if name == "gqa":  # its images are a table of their own
            images = table.select(["imageId", "image"]).rename_columns(["id", "image"])
            splits = {"testdev": parquet(table.drop_columns(["image"]))}
            configs[chosen.images] = {"testdev": parquet(images)}
        configs[chosen.name or "default"] = splits
    for path, configs in repositories.items():
        hub.put("datasets", path, data_set(configs))
    with hub.served():
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The hub's cache, shared by the tests: what is there is not fetched again."""
    return tmp_path_factory.mktemp("home")


def start(hub, home, words, **variables):
    """A command as a user runs it: online, with no token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    ours = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words],
        env=kept | ours | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | variables,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def table(*overrides, name, results):
    """The command of the 7B table, or of a part of it."""
    where = [f"name={name}", f"results={results}"]
    return ["-m", "agilepruner", "table=llava_1_5_7b", BENCHMARKS, *CHEAP, *where, *overrides]


def finished(*processes):
    """What they said; they must have gone well."""
    said = [process.communicate(timeout=300) for process in processes]
    for process, (out, err) in zip(processes, said):
        assert process.returncode == 0, f"{out}\n{err}"
    return said


def rows(directory):
    found = [read_row(folder / "row.json", cell) for folder, cell in folders(directory)]
    return {row.id: row for row in found if row is not None}


def outcome(directory):
    """What must not depend on who answered what."""
    return {
        row.id: (row.status, row.metrics, row.scores, row.kept, row.flops, row.complexity)
        for row in rows(directory).values()
    }


@pytest.fixture(scope="module")
def alone(hub, home, tmp_path_factory):
    """The table of one process: fetched where there is a network, answered where there is none."""
    results = tmp_path_factory.mktemp("alone")
    fetch, *words = table("limit=1", "strategy.random.seed=0", name="t", results=results)[1:]
    no_proxy = {"https_proxy": "http://127.0.0.1:9"}  # NLTK's data are not ours to serve
    [(said, _)] = finished(start(hub, home, ["-m", fetch, "fetch", *words], **no_proxy))
    assert said.count(" documents\n") == len(SPLITS)
    away = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    [(out, err)] = finished(start(hub, home, ["-m", fetch, *words], **away))
    return results / "t", out, err


def test_the_table_of_its_benchmarks_is_filled_without_a_login(hub, alone):
    directory, out, err = alone
    found = rows(directory)
    wanted = composed("table=llava_1_5_7b")
    assert {row.strategy for row in found.values()} == set(wanted.strategy)
    assert {row.benchmark for row in found.values()} == set(SPLITS)
    assert len(found) == len(SPLITS) * len(wanted.strategy)
    assert {row.status for row in found.values()} == {"done"}
    assert "AgilePruner" in out
    assert "HTTP" not in err  # no line per request
    assert hub.requests
    assert not any(with_token for _, with_token in hub.requests)


def test_no_split_is_fetched_but_the_scored_one(hub, alone):
    fetched = {p.rpartition("/")[2] for p, _ in hub.requests if p.endswith(".parquet")}
    assert fetched == {f"{scored}-00000-of-00001.parquet" for scored, *_ in SPLITS.values()}
    for name, (scored, *others) in SPLITS.items():
        repo = composed("table=llava_1_5_7b", BENCHMARKS).benchmark[name].hub.path
        asked = [path for path, _ in hub.requests if f"{repo}/resolve" in path]
        assert not [p for p in asked for other in others if f"/{other}-" in p and other != scored]


def test_rows_and_journals_carry_the_commits(hub, alone):
    directory, _, _ = alone
    for row in rows(directory).values():
        assert row.environment["revision"] == hub.find("models", MODEL).sha
        for repo, commit, *files in row.identity["documents"]["hub"]:
            assert commit == hub.find("datasets", repo).sha
            assert files
    for folder, _ in folders(directory):
        header = json.loads(next(folder.glob("journal.*")).read_text().splitlines()[0])
        assert header["environment"]["revision"] == hub.find("models", MODEL).sha


def test_two_ranks_of_torchrun_give_the_table_of_one(hub, home, alone, tmp_path):
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*launched, *table("limit=1", "strategy.random.seed=0", name="t", results=tmp_path)]
    [(out, err)] = finished(start(hub, home, words))
    assert outcome(tmp_path / "t") == outcome(alone[0])
    assert (tmp_path / "t" / "table.md").read_bytes() == (alone[0] / "table.md").read_bytes()
    assert out == alone[1]  # one rank prints
    writers = {path.name for path in (tmp_path / "t").glob("cells/*/journal.*.jsonl")}
    assert len(writers) == 2, err  # and both answered


LOADED = """
import json, sys
import tiny_models as tiny
from omegaconf import OmegaConf
from plans import composed
from agilepruner.runner.run import load_model
from agilepruner.strategies.base import keep_all
for name, kind in json.loads(sys.argv[1]).items():
    words = ["protocol=paper", "model.load.dtype=float32", "model.load.device=cpu"]
    config = composed(f"model={name}", *words, *tiny.SMALL[kind]).model
    adapter = load_model(OmegaConf.to_container(config, resolve=True))
    (tokens,) = adapter.encode(tiny.images()[:1], adapter.provides)
    visual = adapter.embed(tokens, keep_all(tokens))
    (answer,) = adapter.generate([adapter.tokenize("w3")], [visual], 2)
    provides = sorted(adapter.provides) == sorted(config.provides)
    print(json.dumps([name, provides, adapter.offered(tokens) == answer.visual[0]]))
"""


def test_every_family_is_loaded_from_the_hub_by_its_own_name(hub, home):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    words = ["-c", LOADED, json.dumps(FAMILIES)]
    [(out, _)] = finished(start(hub, home, words, PYTHONPATH=path))
    assert [json.loads(line) for line in out.splitlines()] == [[n, True, True] for n in FAMILIES]


IDENTIFY = """
import json, sys
from plans import planned
from agilepruner.runner.plan import identify
for words in json.loads(sys.argv[1]):
    run = identify(planned("table=llava_1_5_7b", "strategy=vanilla", *words))
    print(json.dumps([run.failed, {cell.benchmark: cell.id for cell in run.cells}]))
"""


def identified(hub, home, *plans):
    """Per list of overrides: the failed benchmarks and the ids of vanilla's cells."""
    words = ["-c", IDENTIFY, json.dumps(plans)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    [(out, err)] = finished(start(hub, home, words, PYTHONPATH=path))
    return [json.loads(line) for line in out.splitlines()], err


def test_another_commit_is_another_id_and_can_be_pinned(hub, home, alone, tmp_path_factory):
    directory, _, _ = alone
    before = {r.benchmark: r.id for r in rows(directory).values() if r.strategy == "vanilla"}
    del before["refcoco"]  # it is not in the table
    common = ["limit=1", *CHEAP]
    repo = "lmms-lab-encoder/POPE"
    old = hub.find("datasets", repo)
    hub.put("datasets", repo, old.files | {"README.md": old.files["README.md"] + b"\nNew.\n"})
    pinned = [*common, f"benchmark.pope.hub.revision={old.sha}"]
    absent = [*pinned, "benchmark.chair.hub.path=nobody/nothing"]
    whole = [w for w in common if w != "limit=1"]
    sized = ["benchmark=[pope,gqa]", f"benchmark.gqa.hub.size={ROWS}"]
    found, _ = identified(hub, home, common, pinned, absent, [*whole, *sized])
    (_, moved), (_, again), (lacking, rest), (small, _) = found
    assert {name for name in before if moved[name] != before[name]} == {"pope"}
    assert again == before
    # What one benchmark lacks is said, and the others go on.
    assert set(lacking) == {"chair"}
    assert "nobody/nothing is not on http" in lacking["chair"]
    assert {name for name in before if rest[name] != before[name]} == {"chair"}
    # All of another number of documents would not be the benchmark; a limit claims nothing.
    assert set(small) == {"pope"}
    assert f"{ROWS} documents where 9,000 are expected" in small["pope"]


def answer(part):
    """A hub that has one repository at one commit."""
    return SimpleNamespace(repo_info=lambda *_a, **_k: SimpleNamespace(sha=part.commit))


def test_a_hub_that_is_away_gives_its_last_answer_and_a_refusal_does_not(
    monkeypatch, tmp_path, caplog
):
    from huggingface_hub import constants

    def gone(error):
        def repo_info(*_a, **_k):
            raise error

        asking._answers.clear()
        return SimpleNamespace(repo_info=repo_info)

    part = asking.Part("a/b", "model", "0" * 40, {"config.json": 2})
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(asking, "_answers", {})

    def asked(api):
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
        return asking.ask("model", "a/b", None, lambda *_: part.files)

    with pytest.raises(UserError, match="a/b cannot be loaded"):
        asked(gone(ConnectionError("no route")))
    assert asked(answer(part)) == part
    assert asked(gone(ConnectionError("no route"))) == part
    assert "cannot be reached, using commit 00000000" in caplog.text
    response = SimpleNamespace(headers={}, request=None, status_code=401)
    refused = errors.RepositoryNotFoundError("no", response=response)
    with pytest.raises(UserError, match="a/b is not on"):
        asked(gone(refused))


def test_a_file_that_is_not_whole_is_fetched_again(monkeypatch, tmp_path):
    part = asking.Part("a/b", "model", "0" * 40, {"config.json": 2})
    snapshot = tmp_path / "models--a--b" / "snapshots" / part.commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{")
    monkeypatch.setattr(asking, "cache", lambda: tmp_path)

    def fetch(_repo, **_settings):
        assert not (snapshot / "config.json").exists()  # the client takes what is there
        (snapshot / "config.json").write_text("{}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert part.missing == {"config.json": 2}
    with pytest.raises(UserError, match="1 of 1 files are missing"):
        part.download(fetch=False)
    assert part.download() == (snapshot / "config.json",)


def test_a_file_that_is_no_parquet_says_so_and_where_it_lies(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    source = sources.Source((tmp_path / "broken.parquet",), (), ("", ""), {})
    with pytest.raises(UserError, match=r"broken.parquet is no readable parquet .* Delete it"):
        sources.check_size(source, {"size": 1, "path": "a/b"}, limit=None)


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "was refused"), (403, "was refused"), (429, "try again"), (503, "try again")],
)
def test_what_a_hub_answers_is_said_with_what_to_do(status, said):
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    behind = OSError("the file cannot be located")
    behind.__cause__ = errors.HfHubHTTPError("no", response=response)
    for error in (behind, behind.__cause__):
        sentence = str(asking.unreachable("dataset", "a/b", error))
        assert said in sentence
        assert str(status) in sentence
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "make room" in str(asking.unreachable("dataset", "a/b", full))


def test_a_full_disk_is_said_before_anything_is_fetched(monkeypatch, tmp_path):
    part = asking.Part("a/b", "model", "0" * 40, {"model.safetensors": 10 << 30})
    monkeypatch.setattr(plan, "ask", lambda _run: plan.Needed({"path": part}, {}, {}))
    monkeypatch.setattr(asking, "free_bytes", lambda: 10 << 30)
    monkeypatch.setattr(asking.Part, "download", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(
        UserError, match=r"10 GiB are to be downloaded to .*, where 10 GiB are free"
    ):
        plan.identify(planned("model.load.path=a/b"))


@pytest.mark.parametrize(
    ("wanted", "gpus", "rank", "taken"),
    [
        ("auto", 8, "3", "cuda:3"),
        ("cuda", 8, "3", "cuda:3"),
        ("auto", 8, None, "cuda"),
        ("auto", 1, "3", "cuda"),  # a launcher that shows each process its own GPU only
        ("cuda:5", 8, "3", "cuda:5"),
        ("auto", 0, "3", "cpu"),
        ("cpu", 8, "3", "cpu"),
    ],
)
def test_each_rank_takes_its_own_device(monkeypatch, wanted, gpus, rank, taken):
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert device(wanted, gpus) == taken


def test_a_rank_loads_straight_onto_its_device(monkeypatch, tmp_path):
    import torch
    import transformers

    seen = {}

    class Loaded:
        def named_parameters(self):
            return []

        def eval(self):
            return self

        def to(self, where):
            seen["to"] = where
            return self

    def from_pretrained(_path, **settings):
        seen.update(settings)
        return Loaded(), {}

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda where: seen.update(current=where))
    monkeypatch.setattr(
        transformers.LlavaForConditionalGeneration, "from_pretrained", from_pretrained
    )
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_a, **_k: None)
    monkeypatch.setattr(hugging_face, "image_processor_for", lambda *_a: None)
    hugging_face.load_checkpoint("LlavaForConditionalGeneration", str(tmp_path), device="auto")
    assert seen["device_map"] == {"": "cuda:1"}
    assert seen["to"] == seen["current"] == "cuda:1"

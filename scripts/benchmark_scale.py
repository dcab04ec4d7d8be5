"""What the harness itself costs at the paper's scale, with a model that costs nothing.

    python scripts/benchmark_scale.py [--documents 214354] [--to results/scale.md]

A synthetic VQAv2 (its columns, its number of questions per image; small pictures) is loaded,
answered for 25 cells; batches are counted on the embedded suite; every benchmark is scored at its
own size, with the suite's documents repeated; the demo model's
generation is held against its FLOPs at the speed of this machine's own matrix product, measured in
the same run. Times belong to the machine and its load; what else ran counts in them.
"""

import argparse
import io
import os
import platform
import random
import resource
import tempfile
import time
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features, Value
from datasets import Image as ImageFeature
from hydra import compose, initialize_config_dir
from PIL import Image
from tabulate import tabulate

from agilepruner.cli import CONFIGS
from agilepruner.flops import Architecture, document_flops
from agilepruner.memory import keep_freed_memory
from agilepruner.models.base import Adapter, Generation, Visual
from agilepruner.runner.answer import Answering, Settings
from agilepruner.runner.cells import Cell
from agilepruner.runner.journal import Entry, Journal
from agilepruner.runner.plan import Run, identify, plan
from agilepruner.runner.rows import read_row
from agilepruner.runner.run import load_model
from agilepruner.runner.score import header
from agilepruner.runner.scorers import Scorers, cores
from agilepruner.runner.stored import Asked, score_apart
from agilepruner.strategies.attention.fastervlm import FasterVLM
from agilepruner.strategies.base import VisualTokens
from evals import tasks
from evals.sources import Source

QUESTIONS_PER_IMAGE = 5.3  # VQAv2 validation: 214,354 questions of 40,504 images
ROW_GROUP = 512
QUESTION = (
    "what is the color of man woman dog cat where how many are there on table street in front "
    "behind this does he wear what kind sport playing made which side train time day"
)
WORDS = QUESTION.split()
MENTIONED = (
    "a the of and is on in with near person dog cat train bus table chair cup apples two three "
    "white large small standing sitting next to"
)
CAPTION = MENTIONED.split()
REPLIES = ["yes", "no", "red", "blue", "2", "3", "left", "tennis", "on the table", "brown", "dog"]


class Free(Adapter):
    """A model that costs nothing: fixed tokens in, "yes" out; prompts by the demo's tokenizer."""

    provides = frozenset({"features", "projected", "attention", "seeds"})
    full = 576
    environment: dict[str, Any] = {"device": "none"}  # noqa: RUF012

    def __init__(self, tokenizer: Adapter) -> None:
        self.tokenizer = tokenizer
        projected = torch.randn(1, 576, 16, generator=torch.Generator().manual_seed(0))
        attention = torch.rand(1, 4, 576, generator=torch.Generator().manual_seed(1))
        self.tokens = VisualTokens(
            (24, 24), features=projected, projected=projected, attention=attention, seeds=(1,)
        )
        self.sizes: list[int] = []
        self.pads = self.real = 0

    def encode(
        self, images: Any, needs: frozenset[str], prepared: Any = None
    ) -> list[VisualTokens]:
        return [self.tokens for _ in images]

    def embed(self, tokens: VisualTokens, selection: Any) -> Visual:
        indices = selection.indices[0]
        return Visual(tokens.projected[0, indices], indices, tokens.count)

    def tokenize(self, question: str) -> list[int]:
        return self.tokenizer.tokenize(question)

    def generate(
        self, prompts: Any, visuals: Any, max_new_tokens: int, pruning: Any = None
    ) -> list[Generation]:
        lengths = [len(ids) - 1 + len(visual) for ids, visual in zip(prompts, visuals)]
        self.sizes.append(len(prompts))
        self.real += sum(lengths)
        self.pads += len(lengths) * max(lengths) - sum(lengths)
        return [Generation("yes", 2, (100,) * 32, (len(visual),) * 32) for visual in visuals]


def build(folder: Path, documents: int) -> Path:
    """A VQAv2 of real columns: ten answers a question, small JPEG pictures."""
    rng = random.Random(0)
    pixels = np.random.default_rng(0)
    path = folder / "vqav2.parquet"
    features = Features(
        {
            "question_type": Value("string"),
            "multiple_choice_answer": Value("string"),
            "answers": [
                {
                    "answer": Value("string"),
                    "answer_confidence": Value("string"),
                    "answer_id": Value("int64"),
                }
            ],
            "image_id": Value("int64"),
            "answer_type": Value("string"),
            "question_id": Value("int64"),
            "question": Value("string"),
            "image": ImageFeature(),
        }
    )
    schema = features.arrow_schema
    with pq.ParquetWriter(path, schema) as writer:
        image, picture = -1, b""
        for start in range(0, documents, ROW_GROUP):
            rows = []
            for index in range(start, min(start + ROW_GROUP, documents)):
                if int(index / QUESTIONS_PER_IMAGE) != image:
                    image = int(index / QUESTIONS_PER_IMAGE)
                    picture = _jpeg(pixels)
                rows.append(_row(rng, index, image, picture))
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return path


def _jpeg(pixels: np.random.Generator) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


def _row(rng: random.Random, index: int, image: int, picture: bytes) -> dict[str, Any]:
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 12))]
    likely = rng.choice(REPLIES)
    given = [likely if rng.random() < 0.7 else rng.choice(REPLIES) for _ in range(10)]
    return {
        "question_type": "what is",
        "multiple_choice_answer": likely,
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
            for number, answer in enumerate(given)
        ],
        "image_id": image,
        "answer_type": "other",
        "question_id": index,
        "question": " ".join(words).capitalize() + "?",
        "image": {"bytes": picture, "path": None},
    }


def cells_of(benchmark: str) -> list[Cell]:
    """Twenty-five cells: eight strategies at three budgets, and one at all tokens."""
    cheap = [
        Cell(f"s{number}", FasterVLM(), budget, benchmark, "reset", key=f"{number:x}{budget:015d}")
        for number in range(8)
        for budget in (128, 64, 32)
    ]
    return [Cell("vanilla", FasterVLM(), 576, benchmark, "reset", key="f" * 16), *cheap]


def answered(adapter: Any, benchmark: Any, cells: list[Cell], folder: Path) -> Answering:
    """Everything answered, as a run does it."""
    journals = {c.id: Journal(folder / c.folder, c.id, keep=False) for c in cells}
    answering = Answering(
        adapter, benchmark, cells, journals, Settings(), lambda cell: {"cell": cell.id}
    )
    for share in answering.shares():
        if answering.wanted(share):
            answering.refresh()
            answering.answer(share)
    answering.close()
    return answering


def memory() -> float:
    """Most memory that this process has had, GiB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=4000, help="of the synthetic VQAv2")
    parser.add_argument("--answered", type=int, default=4000, help="of them, for 25 cells each")
    parser.add_argument("--to", type=Path, help="write the tables to this Markdown file as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    before = os.getloadavg()[0]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        run = identify(plan(compose("config", ["table=main", "name=scale"])))
    demo = load_model(run.config["model"])
    parts = [
        at_scale(run, demo, args.documents, args.answered),
        batches(run, demo),
        scoring_speed(run, demo, args.documents),
        demo_speed(run, demo),
    ]
    text = (
        "# The harness at the paper's scale\n\n"
        f"`python scripts/benchmark_scale.py --documents {args.documents} --answered "
        f"{args.answered}` on {platform.machine()} with {cores()} cores, torch "
        f"{torch.__version__}; load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
        ".\n\n" + "\n\n".join(parts) + "\n"
    )
    print(text)
    if args.to:
        args.to.write_text(text, encoding="utf-8")


def at_scale(run: Run, demo: Any, documents: int, count: int) -> str:
    """Load and answer a synthetic VQAv2."""
    settings, free = run.config["benchmark"]["vqav2"], Free(demo)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder, empty = Path(name), memory()
        source = Source((build(folder, documents),), (), ("", ""), {})
        started = time.perf_counter()
        tasks.load("vqav2", settings, source, "paper", 3)
        lines.append(["load, limit=3", f"{time.perf_counter() - started:.2f} s"])
        started = time.perf_counter()
        benchmark = tasks.load("vqav2", settings, source, "paper")
        lines.append([f"load, all {documents:,}", f"{time.perf_counter() - started:.1f} s"])
        benchmark = tasks.load("vqav2", settings, source, "paper", count)
        cells = cells_of("vqav2")
        started, spent = time.perf_counter(), time.process_time()
        with patch("agilepruner.complexity.effective_rank_of_gram", _no_rank):
            answering = answered(free, benchmark, cells, folder / "out")
        answers = len(cells) * len(benchmark.documents)
        wall = (time.perf_counter() - started) / answers * 1e3
        processor = (time.process_time() - spent) / answers * 1e3
        lines.append([f"harness, {answers:,} answers", f"{wall:.3f} ms an answer (wall)"])
        lines.append(["", f"{processor:.3f} ms an answer (processor)"])
        for part, seconds in sorted(answering.seconds.items()):
            lines.append([f"- {part}", f"{seconds / answers * 1e3:.3f} ms"])
        lines.append(["most memory", f"{memory():.2f} GiB ({empty:.2f} with the model alone)"])
    heads = ["VQAv2 of real columns, 25 cells, a free model", ""]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def _no_rank(products: torch.Tensor) -> torch.Tensor:
    """In place of eigenvalues, which are the model's size and no harness."""
    return products.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def batches(run: Run, demo: Any) -> str:
    """Sequences per generation call at 25 cells, on the embedded suite's questions."""
    lines = []
    loaded = {
        name: tasks.load(name, settings, run.sources[name], "lmms")
        for name, settings in run.config["benchmark"].items()
    }
    labels = {name: settings["label"] for name, settings in run.config["benchmark"].items()}
    loaded["ocr"], labels["ocr"] = with_words(loaded["textvqa"]), "TextVQA, 0 to 150 OCR words"
    for name, benchmark in loaded.items():
        free = Free(demo)
        with (
            tempfile.TemporaryDirectory() as folder,
            patch("agilepruner.complexity.effective_rank_of_gram", _no_rank),
        ):
            answered(free, benchmark, cells_of(name), Path(folder))
        mean = sum(free.sizes) / len(free.sizes)
        share = free.pads / (free.pads + free.real)
        lines.append([labels[name], len(benchmark.documents), f"{mean:.1f}", f"{share:.1%}"])
    heads = ["benchmark", "documents", "sequences per call (of 32)", "pads"]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def with_words(benchmark: Any) -> Any:
    """A benchmark whose questions end in OCR words, mostly few and sometimes very many."""
    rng = random.Random(0)
    documents = []
    for document in benchmark.documents:
        words = [rng.choice(WORDS) for _ in range(min(150, int(rng.lognormvariate(2.5, 1.2))))]
        question = f"{document.question}\nReference OCR token: {', '.join(words)}"
        documents.append(replace(document, question=question))
    return replace(benchmark, documents=documents)


def scoring_speed(run: Run, demo: Any, most: int) -> str:
    """Milliseconds a document from journal to stored row, at the benchmarks' own sizes."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        table = plan(compose("config", ["table=llava_1_5_7b"]))
    cells = Counter(cell.benchmark for cell in table.cells)
    lines, answers, whole = [], 0, 0.0
    for name, settings in run.config["benchmark"].items():
        size, own = settings["hub"]["size"], ""
        with tempfile.TemporaryDirectory() as place:
            asked = repeated(run, name, min(size, most), Path(place))
            like = [c for c in run.cells if c.benchmark == name and c.strategy_name == "fastervlm"]
            items = [(cell, Path(place) / cell.folder) for cell in like[:2]]
            times = []
            for cell, folder in items:
                write_journal(run, demo, cell, asked, folder)
                spent = time.process_time()
                score_apart((run.config, asked), (cell, folder))
                times.append((time.process_time() - spent) / len(asked.documents) * 1e3)
                row = read_row(folder / "row.json", cell.id)
                assert row is not None
                assert row.status == "done", row.error
            if name == "vqav2":
                own = f"{own_memory(run, asked, items):.2f} GiB"
        minutes = times[1] * size * cells[name] / 60e3
        answers, whole = answers + size * cells[name], whole + minutes
        counts = f"{size:,}", f"{len(asked.documents):,}"
        speeds = (f"{each:.3f}" for each in times)
        lines.append([settings["label"], *counts, *speeds, cells[name], f"{minutes:.2f}", own])
    heads = ["scoring", "documents", "scored here", "first cell, ms a document", "second cell"]
    heads += ["cells of the 7B table", "minutes of one core", "memory of a process"]
    return (
        tabulate(lines, heads, tablefmt="github", disable_numparse=True)
        + f"\n\nAll {answers:,} answers of these columns, extrapolated from the second cell's "
        f"processor time: {whole:.1f} minutes on one core, {whole / 16:.1f} on 16."
    )


def repeated(run: Run, name: str, count: int, folder: Path) -> Asked:
    """The embedded suite's documents of a benchmark over and over, under names of their own."""
    table = pq.read_table(run.sources[name].files[0])
    rows = table.drop_columns(["image"]).to_pylist()
    documents: list[dict[str, Any]] = []
    while len(documents) < count:
        turn = len(documents) // len(rows)
        for row in rows:
            own = dict(row, image={"bytes": b"%d" % len(documents), "path": None})
            if name == "mme":
                own["question_id"] = f"{turn}-{row['question_id']}"
            if name.startswith("mmbench"):
                own["index"] = row["index"] + 1000 * turn
            documents.append(own)
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(documents, schema=table.schema), path, row_group_size=512)
    settings, source = run.config["benchmark"][name], Source((path,), (), ("", ""), {})
    protocol = run.config["protocol"]
    loaded = tasks.load(name, settings, source, protocol, None)
    return Asked(name, settings, source, protocol, loaded.documents)


def write_journal(run: Run, demo: Any, cell: Cell, asked: Asked, folder: Path) -> None:
    """Made-up answers of the kind that the benchmark has, some of them right."""
    rng = random.Random(0)
    journal = Journal(folder, cell.id, keep=False)
    journal.begin(header(run.config, cell, demo))
    kept = {"bits": b64encode(bytes(rng.randrange(256) for _ in range(72))).decode()}
    for start in range(0, len(asked.documents), ROW_GROUP):
        journal.append(
            Entry(
                document.index,
                _reply(rng, asked, document.index),
                text_tokens=rng.randint(15, 30),
                new_tokens=rng.randint(2, 4),
                visual=cell.budget,
                offered=576,
                grid=[24, 24],
                kept=kept,
                complexity={"erank_input": 90 * rng.random(), "entropy": 4.72, "erank_kept": 20.5},
                seconds={"encode": 0.001234, "select": 0.000123, "generate": 0.012345},
            )
            for document in asked.documents[start : start + ROW_GROUP]
        )
    journal.close()


def _reply(rng: random.Random, asked: Asked, index: int) -> str:
    if asked.name == "chair":
        return " ".join(rng.choice(CAPTION) for _ in range(90)) + "."
    record = asked.benchmark.record(index)
    if "answers" in record:  # ten people's
        given = rng.choice(record["answers"])
        given = given["answer"] if isinstance(given, dict) else given
        return rng.choice([given, given, rng.choice(REPLIES), f"{rng.choice(REPLIES)} {index}"])
    if "A" in record or "choices" in record:
        return rng.choice("ABCD")
    return rng.choice(["yes", "no", *REPLIES[-3:]])


def own_memory(run: Run, asked: Asked, items: list[tuple[Cell, Path]]) -> float:
    """Most memory that a process which scores shares with no other, GiB."""
    with Scorers(len(items)) as scorers:
        done = scorers.each(_scored_and_said, (run.config, asked), items)
    assert done == set(range(len(items)))
    return max(int((folder / "used").read_text()) for _, folder in items) / 2**20


def _scored_and_said(shared: Any, item: Any) -> None:
    score_apart(shared, item)
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    shared_with = sum(int(line.split()[1]) for line in rollup if line.startswith("Shared"))
    (item[1] / "used").write_text(f"{memory() * 2**20 - shared_with:.0f}")  # KiB


def demo_speed(run: Run, demo: Any) -> str:
    """Generation of the demo model against its FLOPs, and the problems it sends to LAPACK."""
    name = "vqav2"
    settings = run.config["benchmark"][name]
    benchmark = tasks.load(name, settings, run.sources[name], "lmms", 64)
    cells = [cell for cell in run.cells if cell.benchmark == name]
    problems: Counter[int] = Counter()
    real = torch.linalg.eigvalsh

    def counted(products: torch.Tensor) -> torch.Tensor:
        problems[products.shape[-1]] += len(products)
        return real(products)

    with tempfile.TemporaryDirectory() as folder, patch("torch.linalg.eigvalsh", counted):
        journals = {c.id: Journal(Path(folder) / c.folder, c.id) for c in cells}
        answering = Answering(
            demo,
            benchmark,
            cells,
            journals,
            Settings(most_new_tokens=run.config["model"]["max_new_tokens"]),
            lambda cell: header(run.config, cell, demo),
        )
        before = _matmul_speed()
        with patch.object(demo, "generate", _timed(demo.generate, spent := [])):
            for share in answering.shares():
                answering.answer(share)
        speed, seconds = max(before, _matmul_speed()), sum(spent)
        answering.close()
        architecture = Architecture.of(demo.model)
        flops = 0.0
        for journal in journals.values():
            for entry in journal.entries.values():
                visual = (
                    entry.visual
                    if isinstance(entry.visual, list)
                    else [entry.visual] * (architecture.layers)
                )
                cost = document_flops(architecture, visual, entry.text_tokens, entry.new_tokens)
                flops += cost["prefill"] + cost["decode"]
    images = len({document.image_key for document in benchmark.documents})
    full = problems[demo.full]
    lines = [
        ["generation FLOPs", f"{flops / 1e9:.1f} G"],
        ["this machine's float32 product, one thread", f"{speed / 1e9:.1f} GFLOP/s"],
        ["generation, processor time", f"{seconds:.1f} s"],
        ["generation over its FLOPs", f"{seconds * speed / flops:.2f} x"],
        ["eigenvalue problems of all tokens, per image", f"{full / images:.2f}"],
        ["smaller ones, per image", f"{(problems.total() - full) / images:.2f}"],
    ]
    heads = [f"the demo on {len(benchmark.documents)} documents of VQAv2, {len(cells)} cells", ""]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def _timed(function: Any, spent: list[float]) -> Any:
    """A function whose processor time is noted: what else the machine does does not count."""

    def call(*arguments: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments)
        finally:
            spent.append(time.process_time() - started)

    return call


def _matmul_speed() -> float:
    """FLOP/s of a float32 product of the size that the demo's layers have, the best of some."""
    a, b = torch.randn(1024, 512), torch.randn(512, 512)
    best = float("inf")
    for _ in range(30):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 1024 * 512 * 512 / best


if __name__ == "__main__":
    main()

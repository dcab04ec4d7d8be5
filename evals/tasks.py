"""lmms-eval tasks over any suite, and their documents.

The task code (prompts, answer parsing, aggregation) is lmms-eval's own, taken from the YAML files
it ships; a benchmark config says which file, which metric is the headline, and what to override.
Documents come from ``evals.documents``; one that cannot be rendered fails alone.
"""

import copy
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image

from agilepruner.errors import UserError
from evals.documents import Split
from evals.lmms import contained, import_lmms_eval, quiet
from evals.sources import Source


@dataclass(frozen=True)
class Document:
    """One question about one image.

    Attributes:
        index: position in the task's split: the document's identity in a journal.
        question: the prompt text that lmms-eval's task renders.
        image_key: equal for documents that show the same image: a hash of its bytes.
        error: why it cannot be asked; empty for all but odd documents.
    """

    index: int
    question: str
    image_key: str
    error: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A loaded benchmark: its lmms-eval task and the documents to answer.

    Attributes:
        name: config name. config: the benchmark config. protocol: the protocol's part of it.
        task: lmms-eval's task. split: its documents.
        documents: in split order, after the limit.
        max_new_tokens: the task's limit, None where it sets none.
        stop: an answer ends before the first of these strings.
    """

    name: str
    config: Mapping[str, Any]
    protocol: Mapping[str, Any]
    task: Any
    split: Split
    documents: list[Document]
    max_new_tokens: int | None
    stop: tuple[str, ...]

    def image(self, document: Document) -> tuple[Image.Image, str]:
        """The document's image through the task's own ``doc_to_visual``, and a note when damaged.

        Raises:
            Exception: whatever is wrong with it.
        """
        digest = "" if document.image_key == unseen(document.index) else document.image_key
        record, note = self.split.document(document.index, digest)
        visuals = self.task.doc_to_visual(record)
        if len(visuals) != 1:
            raise ValueError(f"document {document.index} shows {len(visuals)} images, expected 1")
        return visuals[0], note

    def record(self, index: int) -> dict[str, Any]:
        """The document's columns without its image, fresh (scorers change them in place)."""
        return self.split.record(index)


@cache
def _task_class() -> type:
    """lmms-eval's task over columns that are already there: nothing is loaded, no document read."""
    configurable, _ = import_lmms_eval()
    from lmms_eval.api.task import TaskConfig

    class ColumnsTask(configurable):  # type: ignore[misc, valid-type]
        def __init__(self, config: dict[str, Any], columns: Any) -> None:
            self._config = TaskConfig(**config)
            self.model_name = None
            self._prepare_model_specific_config()
            self._prepare_metric_and_aggregation()
            self.OUTPUT_TYPE = self.config.output_type
            self.features = list(columns.features)
            self._training_docs = self._fewshot_docs = None
            self.multiple_input = 0
            self.multiple_target = self._targets(columns)

        def _targets(self, columns: Any) -> int:
            """References per document; lmms-eval asks the first document, and fails with it."""
            for index in range(len(columns)):
                try:
                    target = self.doc_to_target(columns[index])
                except Exception:
                    continue
                return len(target) if isinstance(target, list) else 0
            return 0

    return ColumnsTask


def resolve(path: str) -> Callable[..., Any]:
    """A function given as ``package.module.name``."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def task_config(benchmark: Mapping[str, Any], protocol: str) -> tuple[dict, Mapping[str, Any]]:
    """The lmms-eval config of a benchmark under a protocol, and the protocol's part.

    Raises:
        UserError: the benchmark has no such protocol.
    """
    if protocol not in benchmark["protocols"]:
        raise UserError(
            f"Benchmark '{benchmark['label']}' has no protocol '{protocol}'. "
            f"Known: {', '.join(benchmark['protocols'])}."
        )
    chosen = benchmark["protocols"][protocol]
    _, load_yaml_config = import_lmms_eval()
    import lmms_eval

    path = Path(lmms_eval.__file__).parent / "tasks" / chosen["task"]
    with contained(), quiet():
        config = load_yaml_config(str(path), mode="full")
    config.update(copy.deepcopy(dict(chosen.get("overrides", {}))))
    for function in ("process_results", "doc_to_text"):
        if function in chosen:
            found, given = resolve(chosen[function]), chosen.get(f"{function}_arguments")
            config[function] = partial(found, **given) if given else found
    metrics = [m for m in config["metric_list"] if m["metric"] != "submission"]
    replaced = chosen.get("aggregations", {})
    known = {metric["metric"]: metric for metric in metrics}
    for name, aggregation in replaced.items():
        entry = known.setdefault(name, {"metric": name, "higher_is_better": True})
        entry["aggregation"] = aggregation if "." not in aggregation else resolve(aggregation)
    config["metric_list"] = list(known.values())
    if not benchmark.get("fan_out"):
        config["process_docs"] = None  # GQA's joins images for the whole split: documents.Split
    return config, chosen


def split_name(benchmark: Mapping[str, Any], protocol: str) -> str:
    """The split that the task scores."""
    config, _ = task_config(benchmark, protocol)
    return config.get("test_split") or config["validation_split"]


def load(
    name: str,
    benchmark: Mapping[str, Any],
    source: Source,
    protocol: str,
    limit: int | None = None,
) -> Benchmark:
    """Build the task over a source's documents.

    Args:
        name: config name of the benchmark.
        benchmark: the benchmark config.
        source: its files.
        protocol: ``lmms`` or ``paper``.
        limit: keep so many units (documents that are scored together: MME's pairs, MMBench's
            rotations), taken in turn from the strata that the config names; None keeps all.

    Raises:
        UserError: unknown protocol, files that are no documents of this benchmark, or none of them
            can be asked.
    """
    chosen, split, task = opened(benchmark, source, protocol)
    with contained(), quiet():
        wanted = choose(split.columns, benchmark.get("unit"), benchmark.get("strata"), limit)
        documents = [_document(task, split, index) for index in wanted]
    if all(document.error for document in documents):
        what = f"none of {len(documents):,} can be asked: {documents[0].error}" if documents else ""
        raise UserError(
            f"{benchmark['label']}: {source.files[0].name} has no documents"
            f"{f' for it ({what})' if what else ''}. Its columns: "
            f"{', '.join(split.columns.column_names)}."
        )
    settings = task.config.generation_kwargs or {}
    stop = settings.get("until") or []
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    tokens = settings.get("max_new_tokens")
    return Benchmark(name, benchmark, chosen, task, split, documents, tokens, stop)


def opened(
    benchmark: Mapping[str, Any], source: Source, protocol: str
) -> tuple[Mapping[str, Any], Split, Any]:
    """The protocol's part of a benchmark, its documents as they lie, and lmms-eval's task.

    Raises:
        UserError: unknown protocol, or files that are no documents of this benchmark.
    """
    config, chosen = task_config(benchmark, protocol)
    try:
        with contained(), quiet():
            split = Split(
                source.files, source.images, source.image_of, config.pop("process_docs", None)
            )
            task = _task_class()(config, split.columns)
    except Exception as error:
        line = (str(error).strip().splitlines() or ["no message"])[0]
        raise UserError(
            f"{benchmark['label']}: {source.files[0].name} cannot be loaded "
            f"({type(error).__name__}: {line}). It needs the columns of the benchmark's data set."
        ) from error
    return chosen, split, task


def _document(task: Any, split: Split, index: int) -> Document:
    """Render one document; what is wrong with it is its own."""
    key = split.image_digest(index) or unseen(index)
    if index in split.odd:
        return Document(index, "", key, f"its row cannot be read: {split.odd[index]}")
    record = split.record(index)
    if "question" in record and absent(record["question"]):
        return Document(index, "", key, "it has no question")
    try:
        question = task.doc_to_text(record)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return Document(index, "", key, f"its prompt cannot be rendered: {cause}")
    if not isinstance(question, str):
        kind = type(question).__name__
        return Document(index, "", key, f"its prompt is no text but {kind}")
    return Document(index, question, key)


def unseen(index: int) -> str:
    """The image key of a document whose image cannot be read: its own."""
    return f"document {index}"


def absent(value: Any) -> bool:
    """Whether a column holds nothing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def unit_of(record: Mapping[str, Any], unit: Mapping[str, Any] | None, index: int) -> Any:
    """What is scored together: a column's value (modulo a number), or the document itself."""
    if unit is None:
        return index
    value = record[unit["column"]]
    return value % unit["modulo"] if "modulo" in unit else value


def counted(files: Sequence[Path], benchmark: Mapping[str, Any], limit: int) -> int:
    """How many documents of parquet files a limit keeps, without reading an image."""
    unit, strata = benchmark.get("unit"), benchmark.get("strata")
    wanted = [unit["column"] if unit else None, strata]
    tables = []
    for file in files:
        there = pq.read_schema(file).names
        tables.append(pq.read_table(file, columns=[name for name in wanted if name in there]))
    return len(choose(Dataset(pa.concat_tables(tables)), unit, strata, limit))


def choose(
    columns: Any, unit: Mapping[str, Any] | None, strata: str | None, limit: int | None
) -> list[int]:
    """Indices of the documents of ``limit`` units, in order, taken in turn from the strata.

    A stratum is a value of the column ``strata`` (a subtask, a category): the first unit of each,
    then the second of each, and so on. Without one the first units.
    """
    if limit is None:
        return list(range(len(columns)))
    if unit is None and strata is None:
        return list(range(min(limit, len(columns))))
    values = columns[unit["column"]] if unit else range(len(columns))
    units = [unit_of({unit["column"]: v}, unit, 0) if unit else v for v in values]
    groups = columns[strata] if strata in columns.column_names else [None] * len(units)
    queues: dict[Any, dict[Any, None]] = {}
    for value, group in zip(units, groups):
        queues.setdefault(group, {}).setdefault(value)
    turns = sorted(
        ((turn, g, value) for g, queue in enumerate(queues.values())
         for turn, value in enumerate(queue)),
        key=lambda item: item[:2],
    )  # fmt: skip
    chosen: set[Any] = set()
    for _, _, value in turns:
        if len(chosen) >= limit:
            break
        chosen.add(value)
    return [i for i, value in enumerate(units) if value in chosen]

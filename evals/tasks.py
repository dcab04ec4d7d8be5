"""lmms-eval task objects over any suite, and their documents.

The task code (prompts, answer parsing, aggregation) is lmms-eval's own, taken from the YAML files
it ships; a benchmark config says which file, which metric is the headline, and what to override.
"""

import contextlib
import copy
import hashlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from agilepruner.errors import UserError
from agilepruner.torchvision import hide_if_broken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One question about one image.

    Attributes:
        index: position in the task's split: the document's identity in a journal.
        question: the prompt text that lmms-eval's task renders.
        image_key: equal for documents that show the same image.
        max_new_tokens: the task's limit, None where it sets none.
        stop: the answer ends before the first of these strings.
    """

    index: int
    question: str
    image_key: str
    max_new_tokens: int | None
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A loaded benchmark: its lmms-eval task and the documents to answer.

    Attributes:
        name: config name. config: the benchmark config. protocol: the protocol's part of it.
        task: lmms-eval's ``ConfigurableTask``. split: the split that is scored.
        documents: in split order, after the limit.
    """

    name: str
    config: Mapping[str, Any]
    protocol: Mapping[str, Any]
    task: Any
    split: str
    documents: list[Document]

    def image(self, document: Document) -> Image.Image:
        """Decode the document's image through the task's own ``doc_to_visual``."""
        visuals = self.task.doc_to_visual(self.task.dataset[self.split][document.index])
        if len(visuals) != 1:
            raise ValueError(f"document {document.index} shows {len(visuals)} images, expected 1")
        return visuals[0]

    def record(self, index: int) -> dict[str, Any]:
        """The document's columns without its image, fresh (scorers change them in place)."""
        return copy.deepcopy(self.task.dataset_no_image[self.split][index])


@contextlib.contextmanager
def quiet():
    """lmms-eval prints, draws bars and changes process-wide settings; keep all to itself."""
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w", encoding="utf-8") as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        yield


def import_lmms_eval() -> tuple[Any, Any]:
    """lmms-eval's task class and YAML loader, with its import side effects contained."""
    hide_if_broken()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with quiet():
        import lmms_eval.api.metrics  # noqa: F401  (registers the aggregation "mean")
        from lmms_eval.api.task import ConfigurableTask
        from lmms_eval.utils import load_yaml_config
    from loguru import logger
    from tenacity import stop_after_attempt

    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    # Failing twice is failing: no five attempts two seconds apart.
    for method in (ConfigurableTask.download, ConfigurableTask.process_results):
        method.retry.stop = stop_after_attempt(1)  # type: ignore[attr-defined]
    return ConfigurableTask, load_yaml_config


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
    with quiet():
        config = load_yaml_config(str(path), mode="full")
    config.update(copy.deepcopy(dict(chosen.get("overrides", {}))))
    for function in ("process_results", "doc_to_text"):
        if function in chosen:
            config[function] = resolve(chosen[function])
    metrics = [m for m in config["metric_list"] if m["metric"] != "submission"]
    replaced = chosen.get("aggregations", {})
    known = {metric["metric"]: metric for metric in metrics}
    for name, aggregation in replaced.items():
        entry = known.setdefault(name, {"metric": name, "higher_is_better": True})
        entry["aggregation"] = aggregation if "." not in aggregation else resolve(aggregation)
    config["metric_list"] = list(known.values())
    return config, chosen


def load(
    name: str,
    benchmark: Mapping[str, Any],
    suite: Mapping[str, Any],
    protocol: str,
    limit: int | None = None,
) -> Benchmark:
    """Build the task over the suite's documents.

    Args:
        name: config name of the benchmark, and of its parquet file in a directory suite.
        benchmark: the benchmark config.
        suite: the suite config; ``kind`` is hub or directory.
        protocol: ``lmms`` or ``paper``.
        limit: keep the first so many units (documents that are scored together: MME's pairs,
            MMBench's rotations); None keeps all.

    Raises:
        UserError: unknown protocol, missing file, or a size that is not the benchmark's.
    """
    task_class, _ = import_lmms_eval()
    config, chosen = task_config(benchmark, protocol)
    split = config.get("test_split") or config["validation_split"]
    if suite["kind"] == "hub":
        hub = chosen.get("hub", benchmark["hub"])
        config.update(dataset_path=hub["path"], dataset_name=hub.get("name"))
        # lmms-eval asks for a login where public data needs none; one is used when there is one.
        config["dataset_kwargs"] = {**config.get("dataset_kwargs", {}), "token": None}
    else:
        file = suite_file(suite, name)
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        config.update(
            dataset_path="parquet",
            dataset_name=None,
            dataset_kwargs={"data_files": {split: str(file)}},
        )
        config["process_docs"] = None
    try:
        with quiet():
            task = task_class(config=config)
            task.build_all_requests()
    except Exception as error:
        if suite["kind"] != "hub":
            raise
        raise unreachable(benchmark["label"], hub["path"], error) from error
    total = len(task.dataset[split])
    if suite["kind"] == "hub" and total != hub["size"]:
        raise UserError(
            f"{benchmark['label']}: split '{split}' of {hub['path']} has {total} documents, the "
            f"benchmark has {hub['size']}. The data set changed; scores would not compare."
        )
    keys = image_keys(task.dataset[split], benchmark.get("image_id"))
    wanted = first_units(task.dataset_no_image[split], benchmark.get("unit"), limit)
    documents = []
    for instance in task.instances:
        question, settings, *_ = instance.args
        index = instance.doc_id
        if index in wanted:
            stop = settings.get("until") or []
            stop = (stop,) if isinstance(stop, str) else tuple(stop)
            limit_tokens = settings.get("max_new_tokens")
            documents.append(Document(index, question, keys[index], limit_tokens, stop))
    return Benchmark(name, benchmark, chosen, task, split, documents)


def unreachable(label: str, path: str, error: Exception) -> UserError:
    """The error for a data set that cannot be loaded from the hub."""
    last = getattr(error, "last_attempt", None)  # tenacity's RetryError hides the cause
    cause = last.exception() if last is not None else error
    return UserError(
        f"{label}: the data set {path} cannot be loaded ({type(cause).__name__}: "
        f"{str(cause).splitlines()[0] if str(cause) else 'no message'}). Run `agilepruner doctor`; "
        "log in with `hf auth login`; or point suite=local at parquet files."
    )


def suite_file(suite: Mapping[str, Any], benchmark: str) -> Path:
    """The parquet file of a benchmark in a directory suite.

    Raises:
        UserError: there is no such directory or file; says what there is.
    """
    directory = Path(suite["directory"])
    if suite["directory"] == "???" or not directory.is_dir():
        raise UserError(
            f"The suite directory {directory} does not exist. Set suite.directory=..., or build "
            "one with scripts/build_suite.py."
        )
    file = directory / f"{benchmark}.parquet"
    if not file.exists():
        have = sorted(path.stem for path in directory.glob("*.parquet"))
        raise UserError(
            f"Suite '{suite['name']}' has no documents for '{benchmark}' ({file} does not exist). "
            f"It has: {', '.join(have) or 'nothing'}."
        )
    return file


def image_keys(dataset: Any, image_id: str | None) -> list[str]:
    """One key per document, equal for equal images: a column's value, or a hash of the file."""
    if image_id is not None and image_id in dataset.column_names:
        return [str(value) for value in dataset[image_id]]
    from datasets import Image as ImageFeature

    raw = dataset.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))
    return [hashlib.sha256(row["image"]["bytes"]).hexdigest()[:24] for row in raw]


def unit_of(record: Mapping[str, Any], unit: str | None, index: int) -> Any:
    """What is scored together: a column's value, MMBench's question, or the document itself."""
    if unit is None:
        return index
    return record["index"] % 1_000_000 if unit == "mmbench" else record[unit]


def first_units(dataset: Any, unit: str | None, limit: int | None) -> set[int]:
    """Indices of the documents of the first ``limit`` units."""
    if limit is None:
        return set(range(len(dataset)))
    if unit is None:
        return set(range(min(limit, len(dataset))))
    column = dataset["index" if unit == "mmbench" else unit]
    units = [unit_of({"index": v} if unit == "mmbench" else {unit: v}, unit, 0) for v in column]
    chosen = set(list(dict.fromkeys(units))[:limit])
    return {i for i, value in enumerate(units) if value in chosen}

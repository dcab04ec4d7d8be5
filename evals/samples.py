"""Answers as lmms-eval logs them (``--log_samples``): one record per document, its own metrics."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from evals.chair import language_data
from evals.lmms import contained, quiet
from evals.sources import Source
from evals.tasks import opened


def samples(
    benchmark: Mapping[str, Any], source: Source, protocol: str, answers: Mapping[int, str]
) -> list[dict[str, Any]]:
    """One record per answered document, in order.

    Args:
        benchmark: the benchmark config.
        source: its files.
        protocol: ``lmms`` or ``paper``.
        answers: document -> answer.

    Returns:
        records with ``doc_id``, ``input``, ``target``, ``filtered_resps``, the task's metrics of
        the document, and ``score``: the first of them that is a number or holds one.

    Raises:
        UserError: the files are no documents of this benchmark.
    """
    _, split, task = opened(benchmark, source, protocol)
    process = type(task).process_results.__wrapped__  # without its five attempts
    words = language_data() if benchmark.get("needs_language_data") else nullcontext("")
    with contained(), quiet(), words:
        return [
            _sample(task, process, index, dict(split.record(index)), answers[index])
            for index in sorted(answers)
        ]


def _sample(
    task: Any, process: Any, index: int, record: dict[str, Any], answer: str
) -> dict[str, Any]:
    said = {
        "doc_id": index,
        "input": str(task.doc_to_text(dict(record))),
        "target": str(task.doc_to_target(dict(record))),
        "filtered_resps": answer,
    }
    metrics = process(task, record, [answer])
    metrics.pop("submission", None)
    numbers = [number for value in metrics.values() if (number := _number(value)) is not None]
    return {**said, **metrics, **({"score": numbers[0]} if numbers else {})}


def _number(value: Any) -> float | None:
    """A metric of one document as a number, where it is one or says one under ``score``."""
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if isinstance(value, bool | int | float) else None

"""Answers as lmms-eval logs them (``--log_samples``): one record per document, its own metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

from evals.lmms import contained, quiet
from evals.sources import Source
from evals.tasks import opened


def samples(
    benchmark: Mapping[str, Any], source: Source, protocol: str, answers: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
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
    for index in sorted(answers):
        with contained(), quiet():
            record = split.record(index)
            metrics = task.process_results(dict(record), [answers[index]])
            said = {
                "doc_id": index,
                "input": str(task.doc_to_text(dict(record))),
                "target": str(task.doc_to_target(dict(record))),
                "filtered_resps": answers[index],
            }
        metrics.pop("submission", None)
        numbers = [number for value in metrics.values() if (number := _number(value)) is not None]
        yield {**said, **metrics, **({"score": numbers[0]} if numbers else {})}


def _number(value: Any) -> float | None:
    """A metric of one document as a number, where it is one or says one under ``score``."""
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if isinstance(value, bool | int | float) else None

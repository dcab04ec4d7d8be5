"""Score a cell by replaying its journal through lmms-eval's own per-document and aggregate code.

No model is needed: rescoring is seconds. Equal to ``lmms_eval.evaluator.evaluate`` (tested), but
one bad document does not take every task of the call with it.
"""

import math
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

from evals.chair import language_data, note
from evals.lmms import contained
from evals.tasks import Benchmark, Document, resolve, unit_of


@dataclass(frozen=True)
class Scores:
    """What a benchmark says of a list of answers.

    Attributes:
        metric: name of the headline metric. value: in table units. scale: its maximum.
        metrics: every finite metric, in lmms-eval's own units.
        units: one number per unit (document, MME pair, MMBench question), higher is better; None
            where the benchmark has no such thing. clusters: the image of each; documents: those
            of each.
        parts: per unit what the columns' aggregates need beside that number; strata: the stratum
            of each unit, where the benchmark has any.
        n: documents scored. notes: what a reader must know.
    """

    metric: str
    value: float
    scale: float
    higher_is_better: bool
    metrics: dict[str, float]
    units: list[float]
    parts: dict[str, list[float]]
    strata: list[str] | None
    clusters: list[str]
    documents: list[list[int]]
    n: int
    notes: list[str]


def score(
    benchmark: Benchmark,
    answers: Mapping[int, str],
    folder: Path | None = None,
) -> Scores:
    """Score ``answers`` (document index -> text), which must cover every document.

    Args:
        benchmark: the loaded benchmark.
        answers: one answer per document; an empty string is an answer, a missing one is not.
        folder: where metrics leave files (details, submissions for a server); None drops them.

    Raises:
        ValueError: a document has no answer, one cannot be scored (which, and why), or the headline
            metric cannot be computed.
    """
    holes = [d.index for d in benchmark.documents if d.index not in answers]
    if holes:
        raise ValueError(f"{len(holes)} documents have no answer (first: {holes[:5]})")
    task, notes = benchmark.task, []
    headline = benchmark.protocol["headline"]
    parts = headline["sum"] if "sum" in headline else [headline["metric"]]
    counted: list[int] = []  # a headline may be of some documents only (MME's perception)
    process = type(task).process_results.__wrapped__  # without its five attempts
    items: dict[str, list[Any]] = defaultdict(list)
    per_unit: dict[Any, list[tuple[dict[str, Any], Document]]] = defaultdict(list)
    needs_words = benchmark.config.get("needs_language_data", False)
    words = language_data() if needs_words else nullcontext("")
    with contained(), _remembering(), words as source:
        if said := note(source):
            notes.append(said)
        for document in benchmark.documents:
            record = benchmark.record(document.index)
            unit = unit_of(record, benchmark.config.get("unit"), document.index)
            try:
                result = process(task, record, [answers[document.index]])
            except Exception as error:
                cause = f"{type(error).__name__}: {error}".splitlines()[0]
                raise ValueError(f"document {document.index} cannot be scored: {cause}") from error
            if any(part in result for part in parts):
                counted.append(document.index)
                per_unit[unit].append((result, document))
            for name, item in result.items():
                if name in task.aggregation():
                    items[name].append(item)
        metrics = {}
        for name, aggregate in task.aggregation().items():
            if items[name]:
                value = _aggregate(aggregate, items[name], folder)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    metrics[name] = float(value)
        groups = [[result for result, _ in group] for group in per_unit.values()]
        units = [_unit_score(benchmark, parts, group) for group in groups]
    present = [part for part in parts if part in metrics]
    if not present:
        raise ValueError(f"no score: lmms-eval gave no finite value for {', '.join(parts)}")
    scale = float(headline["scale"])
    if "scale_per" in headline:
        column = benchmark.split.columns[headline["scale_per"]]
        scale *= len({column[index] for index in counted})
    return Scores(
        metric=headline["metric"],
        value=sum(metrics[part] for part in present) * headline.get("multiplier", 1),
        scale=scale,
        higher_is_better=headline.get("higher_is_better", True),
        metrics=metrics,
        units=units,
        parts=_unit_parts(benchmark, groups),
        strata=_strata(benchmark, parts, groups),
        clusters=[group[0][1].image_key for group in per_unit.values()],
        documents=[[document.index for _, document in group] for group in per_unit.values()],
        n=len(benchmark.documents),
        notes=notes,
    )


def _aggregate(aggregate: Any, items: list[Any], folder: Path | None) -> Any:
    if "args" not in signature(aggregate).parameters:
        return aggregate(items)
    with tempfile.TemporaryDirectory() as nowhere:
        return aggregate(items, args=Namespace(output_path=str(folder or nowhere)))


def _unit_score(benchmark: Benchmark, parts: list[str], results: list[dict[str, Any]]) -> float:
    """One unit's score: mean of its documents' headline items, or the config's own function.

    ``parts`` are the metrics that the headline is, or is the sum of.
    """
    items = [result[part] for result in results for part in parts if part in result]
    if "unit_score" in benchmark.protocol:
        return float(resolve(benchmark.protocol["unit_score"])(items))
    values = [float(item["score"] if isinstance(item, dict) else item) for item in items]
    return sum(values) / len(values)


@lru_cache(maxsize=1 << 18)
def _normalised(method: str, text: str) -> str:
    """What lmms-eval's normalisation of VQA answers makes of one: the same few, millions of times.

    Its methods read nothing but the text.
    """
    return _processors()[method](text)


@cache
def _processors() -> dict[str, Callable[[str], str]]:
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    own = EvalAIAnswerProcessor()
    names = ("process_punctuation", "process_digit_article")
    return {name: getattr(own, name) for name in names}


@contextmanager
def _remembering() -> Iterator[None]:
    """Let VQAv2, VizWiz and TextVQA normalise each text once; lmms-eval's class is put back."""
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    originals = {name: vars(EvalAIAnswerProcessor)[name] for name in _processors()}
    for name in originals:
        setattr(EvalAIAnswerProcessor, name, lambda _self, text, name=name: _normalised(name, text))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(EvalAIAnswerProcessor, name, original)


def _unit_parts(benchmark: Benchmark, groups: list[list[dict[str, Any]]]) -> dict[str, list[float]]:
    """What aggregates need per unit, by the config's own function; nothing without one."""
    if "unit_parts" not in benchmark.protocol:
        return {}
    of_unit = resolve(benchmark.protocol["unit_parts"])
    found = [of_unit(results) for results in groups]
    return {name: [float(unit[name]) for unit in found] for name in found[0]}


def _strata(
    benchmark: Benchmark, parts: list[str], groups: list[list[dict[str, Any]]]
) -> list[str] | None:
    """The field of each unit's first headline item that the config names as its stratum."""
    if "stratum" not in benchmark.protocol:
        return None
    firsts = [next(group[0][part] for part in parts if part in group[0]) for group in groups]
    return [str(item[benchmark.protocol["stratum"]]) for item in firsts]

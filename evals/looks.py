"""What a few documents look like, for pages that show them: the others are not read."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from evals.lmms import contained, quiet
from evals.sources import Source
from evals.tasks import absent, opened, unit_of


@dataclass(frozen=True)
class Asked:
    """One document: its question as lmms-eval's task renders it, and its references."""

    document: int
    question: str
    references: list[str]


@dataclass(frozen=True)
class Sight:
    """What is scored together, and the image that it shows (None: it cannot be had)."""

    asked: list[Asked]
    image: Image.Image | None


class Looks:
    """The documents of a benchmark, opened once, to look at some of them.

    Args:
        benchmark: the benchmark config.
        source: its files.
        protocol: ``lmms`` or ``paper``.

    Raises:
        UserError: the files are no documents of this benchmark.
    """

    def __init__(self, benchmark: Mapping[str, Any], source: Source, protocol: str) -> None:
        _, self._split, self._task = opened(benchmark, source, protocol)
        self._members = _members(self._split.columns, benchmark.get("unit"))

    def at(self, documents: Sequence[int]) -> Iterator[tuple[int, Sight]]:
        """Units, one after the other, each with its first document's index.

        Args:
            documents: the first document of each unit that is wanted.
        """
        split, task = self._split, self._task
        for first in documents:
            if not 0 <= first < len(split):
                continue
            asked = []
            with contained(), quiet():
                for index in self._members.get(first, [first]):
                    try:
                        question = str(task.doc_to_text(split.record(index)))
                    except Exception:  # what is wrong with it, its journal says
                        question = ""
                    asked.append(Asked(index, question, _references(task, split, index)))
                try:
                    image = task.doc_to_visual(split.document(first)[0])[0].convert("RGB")
                except Exception:
                    image = None
            yield first, Sight(asked, image)


def _members(columns: Any, unit: Mapping[str, Any] | None) -> dict[int, list[int]]:
    """A unit's first document -> its documents; empty where a document is a unit."""
    if unit is None:
        return {}
    found: dict[Any, list[int]] = defaultdict(list)
    for index, value in enumerate(columns[unit["column"]]):
        found[unit_of({unit["column"]: value}, unit, index)].append(index)
    return {members[0]: members for members in found.values()}


def _references(task: Any, split: Any, index: int) -> list[str]:
    """The answers that count, each once: the task's target, or the record's list of answers."""
    record = split.record(index)
    answers = record.get("answers")
    try:
        found = answers if answers else task.doc_to_target(record)
    except Exception:
        return []
    return list(dict.fromkeys(_texts(found)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = value.get("answer")
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(one, float) for one in value):  # a box
            yield f"[{', '.join(f'{one:.3g}' for one in value)}]"
            return
        for one in value:
            yield from _texts(one)
    elif not absent(value):
        yield str(value)

"""Answers of the language model: batches of prompts of about equal length, with few pads."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from agilepruner.models.base import Adapter, Generation
from agilepruner.runner.selecting import Prompt, reach
from agilepruner.runner.work import attempt

log = logging.getLogger(__name__)

PADS = 1 / 8  # of a batch's tokens, at most: fewer, fuller batches are worth that


class Result(NamedTuple):
    """What became of a prompt: an answer, unless there is a problem, and its seconds."""

    prompt: Prompt
    answer: Generation | None
    problem: str
    seconds: float


@dataclass
class Generating:
    """The language model's part of answering a benchmark.

    Attributes:
        adapter: the loaded model. limit: new tokens of an answer, at most.
        batch_size: sequences per call. PADS says what shorter ones may cost.
    """

    adapter: Adapter
    limit: int
    batch_size: int
    _most_tokens: float = float("inf")  # of a batch, learnt from what did not fit

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        """Prompts in order of length, cut where a batch is full or a longer one costs many pads."""
        start = tokens = 0
        for end, prompt in enumerate(prompts):
            size, length = end + 1 - start, prompt.length
            tokens += length
            if size > 1 and (
                size > self.batch_size
                or size * (length + self.limit) > self._most_tokens
                or size * length - tokens > PADS * tokens
            ):
                yield list(prompts[start:end])
                start, tokens = end, length
        if prompts:
            yield list(prompts[start:])

    def generate(self, batch: list[Prompt]) -> list[Result]:
        """Answer a batch; after an error in halves, to fail only those that must."""
        done: list[Result] = []
        queue = [batch]
        while queue:
            part = queue.pop(0)
            started = time.perf_counter()
            tried = attempt(partial(self._answers, part))
            share = round((time.perf_counter() - started) / len(part), 6)
            if not tried.problem:
                answers = zip(part, tried.value)
                done += [Result(p, a, self._problem(p, a), share) for p, a in answers]
            elif len(part) > 1:
                log.warning("a batch of %d failed (%s); halving it", len(part), tried.problem)
                half = len(part) // 2
                if tried.no_memory:
                    tokens = half * (part[0].length + self.limit)
                    self._most_tokens = min(self._most_tokens, tokens)
                queue[:0] = [part[:half], part[half:]]
            else:
                done.append(Result(part[0], None, f"generation failed: {tried.problem}", share))
        return done

    def _answers(self, batch: list[Prompt]) -> list[Generation]:
        answers = self.adapter.generate(
            [p.ids for p in batch], [p.visual for p in batch], self.limit, batch[0].pruning
        )
        if len(answers) != len(batch):
            raise ValueError(f"{len(answers)} answers to {len(batch)} prompts")
        return answers

    def _problem(self, prompt: Prompt, answer: Generation) -> str:
        """Why an answer cannot be believed."""
        room = self.adapter.context
        if answer.problem:
            return f"generation failed: {answer.problem}"
        if room is not None and reach(self.adapter, prompt) + answer.new_tokens > room:
            return f"the answer ran past the model's context of {room} tokens"
        return ""

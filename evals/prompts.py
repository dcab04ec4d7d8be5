"""Prompts of the paper's protocol (LLaVA's scripts) that lmms-eval renders differently."""

import math
from collections.abc import Mapping
from typing import Any


def missing(value: Any) -> bool:
    """Whether a cell of MMBench's table is empty: None, NaN, or one of those words."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or str(value).lower() in ("nan", "none")


def mmbench(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """LLaVA's MMBench prompt: hint, question and options, each on its line, then the instruction.

    Options stop at the first empty one. lmms-eval puts hint and question on one line, adds "There
    are several options:" (also in Chinese) and a blank line.
    """
    lines = [] if missing(doc["hint"]) else [doc["hint"]]
    lines.append(doc["question"])
    for letter in "ABCD":
        if missing(doc.get(letter)):
            break
        lines.append(f"{letter}. {doc[letter]}")
    return "\n".join(lines) + lmms_eval_specific_kwargs["post_prompt"]


def question_as_written(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]
) -> str:
    """The question with its capitals, and the instruction; lmms-eval lower-cases VizWiz."""
    return doc["question"] + lmms_eval_specific_kwargs["post_prompt"]

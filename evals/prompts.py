"""Prompts of the paper's protocol (LLaVA's scripts) that lmms-eval renders differently."""

from collections.abc import Mapping
from typing import Any

LETTERS = "ABCD"


def absent(value: Any) -> bool:
    """Whether a cell of MMBench's table is empty: None, NaN, "nan", or nothing but white space."""
    import pandas as pd

    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return bool(pd.isna(value))


def missing(value: Any) -> bool:
    """Whether LLaVA's script takes a cell for empty: the word "none" is empty to it, too."""
    return absent(value) or (isinstance(value, str) and value.strip().lower() == "none")


def mmbench_options(doc: Mapping[str, Any]) -> dict[str, Any]:
    """Letter -> option, up to the first empty one: LLaVA shows no option after it."""
    options = {}
    for letter in LETTERS:
        if missing(doc.get(letter)):
            break
        options[letter] = doc[letter]
    return options


def mmbench(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """LLaVA's MMBench prompt: hint, question and options, each on its line, then the instruction.

    lmms-eval puts hint and question on one line, adds "There are several options:" (also in
    Chinese) and a blank line.
    """
    lines = [] if missing(doc["hint"]) else [doc["hint"]]
    lines.append(doc["question"])
    lines += [f"{letter}. {option}" for letter, option in mmbench_options(doc).items()]
    return "\n".join(lines) + lmms_eval_specific_kwargs["post_prompt"]


def question_as_written(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]
) -> str:
    """The question with its capitals, and the instruction; lmms-eval lower-cases VizWiz."""
    return doc["question"] + lmms_eval_specific_kwargs["post_prompt"]

"""Files for the evaluation servers, written into a cell's directory when it is scored."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from evals.lmms import task_module

# What a spreadsheet cell cannot hold, because XML cannot: control characters, halves of characters.
UNWRITABLE = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def vqav2(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """VQAv2 test-dev: one line of EvalAI's file; no answer is public, so there is no accuracy."""
    return _line({"question_id": doc["question_id"]}, results[0])


def vizwiz(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """VizWiz test: one line of EvalAI's file."""
    return _line({"image": f"{doc['question_id']}.jpg"}, results[0])


def _line(document: dict[str, Any], reply: str) -> dict[str, Any]:
    """The reply, normalised as LLaVA's converters do before an upload (lmms-eval's VQAv2 not).

    A reply counts as an answer also where nothing is left of it: articles are dropped, and with
    them "A" and "The".
    """
    answer = _processor()(reply)
    return {"answered": float(bool(reply.strip())), "submission": {**document, "answer": answer}}


@cache
def _processor() -> Any:
    return task_module("_task_utils.vqa_eval_metric").EvalAIAnswerProcessor()


def write_json(results: Sequence[dict[str, Any]], args: Any) -> None:
    """``submission.json``: what EvalAI takes for VQAv2 and VizWiz.

    All ASCII, so that every string can be written; a NaN is an error, for JSON has none.
    """
    path = Path(args.output_path) / "submission.json"
    path.write_text(json.dumps(list(results), allow_nan=False), encoding="utf-8")


def write_mmbench(results: Sequence[dict[str, Any]], args: Any) -> None:
    """``submission.xlsx``: question, options and prediction per row, for MMBench's server.

    Every text is a text cell: "=1+1" is no formula and "#N/A" no error. What XML cannot hold is
    left out. Reading with ``pandas.read_excel(..., dtype=str, keep_default_na=False)`` gives the
    same strings; without these arguments pandas itself turns "nan" and "None" into missing values
    and "007" into 7.
    """
    from openpyxl import Workbook

    columns = ["index", "question", *"ABCD", "prediction"]
    book = Workbook()
    sheet = book.active
    sheet.append(columns)
    for row, result in enumerate(results, start=2):
        for column, name in enumerate(columns, start=1):
            value = result.get(name)
            if isinstance(value, str):
                cell = sheet.cell(row, column, UNWRITABLE.sub("", value))
                cell.data_type = "s"
            elif value is not None and value == value:  # neither None nor NaN
                sheet.cell(row, column, value)
    book.save(Path(args.output_path) / "submission.xlsx")

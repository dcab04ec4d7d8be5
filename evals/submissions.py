"""Files for the evaluation servers, written into a cell's directory when it is scored."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what a spreadsheet cell cannot hold


def vqav2(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """VQAv2 test-dev: one line of EvalAI's file; no answer is public, so there is no accuracy."""
    return _line({"question_id": doc["question_id"]}, results[0])


def vizwiz(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """VizWiz test: one line of EvalAI's file."""
    return _line({"image": f"{doc['question_id']}.jpg"}, results[0])


def _line(document: dict[str, Any], reply: str) -> dict[str, Any]:
    """The reply, normalised as LLaVA's converters do before an upload (lmms-eval's VQAv2 not)."""
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    answer = EvalAIAnswerProcessor()(reply)
    return {"answered": float(bool(answer)), "submission": {**document, "answer": answer}}


def write_json(results: Sequence[dict[str, Any]], args: Any) -> None:
    """``submission.json``: what EvalAI takes for VQAv2 and VizWiz."""
    path = Path(args.output_path) / "submission.json"
    path.write_text(json.dumps(list(results), ensure_ascii=False), encoding="utf-8")


def write_mmbench(results: Sequence[dict[str, Any]], args: Any) -> None:
    """``submission.xlsx``: question, options and prediction per row, for MMBench's server."""
    import pandas as pd

    columns = ["index", "question", "A", "B", "C", "D", "prediction"]
    rows = [{name: result.get(name) for name in columns} for result in results]
    table = pd.DataFrame(rows).map(lambda v: CONTROL.sub("", v) if isinstance(v, str) else v)
    table.to_excel(Path(args.output_path) / "submission.xlsx", index=False)

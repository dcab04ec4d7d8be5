"""Aggregations that lmms-eval does not ship; referenced from benchmark configs by their path."""

from collections.abc import Sequence
from typing import Any

from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator


def mmbench_static(results: Sequence[dict[str, Any]], args: Any = None) -> float:
    """MMBench circular accuracy (0-100) with lmms-eval's own evaluator, without any judge.

    lmms-eval 0.7.3 has this for English only; the evaluator itself does not depend on language.
    """
    overall, _categories, _groups = mmbench_evaluator.eval_result(list(results), "static")
    return 100 * float(overall)


def mmbench_correct(results: Sequence[dict[str, Any]]) -> float:
    """1.0 when every rotation of one question is answered right."""
    return mmbench_static(results) / 100

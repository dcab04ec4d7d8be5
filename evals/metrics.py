"""Metrics that lmms-eval does not have, or has with a trap; benchmark configs name them by path."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator, mmbench_process_results

from evals.prompts import missing


def mmbench(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record with really empty options.

    The data spells them "nan", which lmms-eval's evaluator takes for an option's text: a reply with
    "banana" in it would name it.
    """
    record = mmbench_process_results(doc, results)
    for name in record:
        for letter in "ABCDE":
            if missing(record[name].get(letter)):
                record[name][letter] = None
    return record


def mmbench_static(results: Sequence[dict[str, Any]], args: Any = None) -> float:
    """MMBench circular accuracy (0-100) with lmms-eval's own evaluator, without any judge.

    lmms-eval 0.7.3 has this for English only; the evaluator itself does not depend on language.
    """
    overall, _categories, _groups = mmbench_evaluator.eval_result(list(results), "static")
    return 100 * float(overall)


def mmbench_correct(results: Sequence[dict[str, Any]]) -> float:
    """1.0 when every rotation of one question is answered right."""
    return mmbench_static(results) / 100


def pope(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """POPE as its own script and LLaVA's read a reply: "no" or "not" as a word is no, else yes."""
    words = results[0].split(".")[0].replace(",", "").split(" ")
    prediction = "no" if {"No", "no", "not"} & set(words) else "yes"
    truth = doc["answer"].lower().strip()
    record = {
        "question_id": doc["question_id"],
        "category": doc["category"],
        "score": float(prediction == truth),
        "prediction": prediction,
        "ground_truth": truth,
    }
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    return {f"pope_{name}": record for name in names} | {"pope_mean_f1": record}


def pope_mean_f1(results: Sequence[dict[str, Any]]) -> float:
    """Unweighted mean of the F1 of each category (random, popular, adversarial), 0-1."""
    from lmms_eval.tasks.pope.utils import pope_aggregate_f1_score

    categories = defaultdict(list)
    for result in results:
        categories[result["category"]].append(result)
    return sum(map(pope_aggregate_f1_score, categories.values())) / len(categories)


def scienceqa(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's parse of a letter, and LLaVA's of "The answer is B."."""
    from lmms_eval.tasks.scienceqa.utils import sqa_process_results

    found = re.findall(r"The answer is ([A-Z]).", results[0])
    return sqa_process_results(doc, found if len(found) == 1 else results)


def ai2d(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lmms-eval's ``exact_match,flexible-extract``: "B. ..." is B; case and punctuation ignored."""
    from lmms_eval.api.metrics import exact_match_hf_evaluate
    from lmms_eval.tasks.ai2d.utils import ai2d_doc_to_target

    found = re.match(r"\s*([A-Z])\.", results[0])
    reply = found.group(1) if found else results[0]
    target = ai2d_doc_to_target(doc, "mcq")
    return exact_match_hf_evaluate([reply], [target], ignore_case=True, ignore_punctuation=True)


def ocrbench(results: Sequence[dict[str, Any]]) -> float:
    """Share of right answers, 0-1; over all 1,000 documents that is lmms-eval's number.

    lmms-eval adds every call to one tally of the process and always divides by 1,000.
    """
    return sum(result["score"] for result in results) / len(results)

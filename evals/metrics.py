"""Metrics that lmms-eval does not have, or has with a trap; benchmark configs name them by path."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from evals.lmms import task_module
from evals.prompts import LETTERS, absent, mmbench_options


class _Rows(list[dict[str, Any]]):
    """Records, indexed as lmms-eval's MMBench evaluator indexes a data frame."""

    @property
    def iloc(self) -> "_Rows":
        return self


def mmbench(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record with the options that LLaVA's prompt shows, and no others."""
    options = mmbench_options(doc)
    return _with_options(doc, results, {letter: options.get(letter) for letter in LETTERS})


def mmbench_lmms(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record with really empty options.

    Where the data spells them "" or "nan", lmms-eval's evaluator takes them for text: every reply
    names the one, a reply with "banana" in it the other.
    """
    options = {letter: doc.get(letter) for letter in LETTERS}
    return _with_options(
        doc, results, {letter: None if absent(text) else text for letter, text in options.items()}
    )


def _with_options(
    doc: dict[str, Any], results: list[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    record = task_module("mmbench.en_utils").mmbench_process_results(doc, results)
    return {name: {**item, **options} for name, item in record.items()}


def mmbench_static(results: Sequence[dict[str, Any]], args: Any = None) -> float:
    """MMBench circular accuracy (0-100) by lmms-eval's own evaluator, without any judge.

    lmms-eval 0.7.3 has this for English only; the evaluator itself does not depend on language. Its
    ``eval_result`` counts the same from a data frame, which takes nearly all of its time.
    """
    hits = mmbench_units(results)
    return 100 * (sum(hits.values()) / len(hits))


def mmbench_units(results: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Question -> 1.0 when every rotation of it is answered right, else 0.0; in given order."""
    questions: dict[int, _Rows] = defaultdict(_Rows)
    for result in results:
        questions[result["index"] % 1_000_000].append(result)
    evaluator = task_module("mmbench.en_utils").mmbench_evaluator
    found = {}
    for question, rows in questions.items():
        rows.sort(key=lambda row: row["index"])
        answers = {row["index"]: row["answer"] for row in rows}
        found[question] = float(evaluator.eval_sub_data(rows, answers, static_only=True))
    return found


def mmbench_correct(results: Sequence[dict[str, Any]]) -> float:
    """1.0 when every rotation of one question is answered right."""
    (hit,) = mmbench_units(results).values()
    return hit


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
    categories = defaultdict(list)
    for result in results:
        categories[result["category"]].append(result)
    f1 = task_module("pope.utils").pope_aggregate_f1_score
    return sum(map(f1, categories.values())) / len(categories)


def pope_parts(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What an F1 is made of, for one question: lmms-eval counts a miss only if the reply is no."""
    (record,) = (result["pope_accuracy"] for result in results)
    yes, reply = record["ground_truth"] == "yes", record["prediction"]
    return {
        "right_yes": float(yes and reply == "yes"),
        "wrong_yes": float(not yes and reply == "yes"),
        "wrong_no": float(yes and reply == "no"),
    }


def mme_parts(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """MME's points of one pair of questions: percent right, plus 100 when both are."""
    scores = [item["score"] for result in results for item in result.values()]
    return {"points": 100 * sum(scores) / len(scores) + 100 * all(scores)}


def scienceqa(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's parse of a letter, and LLaVA's of "The answer is B."."""
    found = re.findall(r"The answer is ([A-Z]).", results[0])
    reply = found if len(found) == 1 else results
    return task_module("scienceqa.utils").sqa_process_results(doc, reply)


def ai2d(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lmms-eval's ``exact_match,flexible-extract``: "B. ..." is B; case and punctuation ignored."""
    target = task_module("ai2d.utils").ai2d_doc_to_target(doc, "mcq")
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    found = re.match(r"\s*([A-Z])\.", results[0])
    reply = found.group(1) if found else results[0]
    return exact_match_hf_evaluate([reply], [target], ignore_case=True, ignore_punctuation=True)


def ocrbench(results: Sequence[dict[str, Any]]) -> float:
    """Share of right answers, 0-1; over all 1,000 documents that is lmms-eval's number.

    lmms-eval adds every call to one tally of the process and always divides by 1,000.
    """
    return sum(result["score"] for result in results) / len(results)

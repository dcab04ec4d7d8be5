"""MMBench: lmms-eval's numbers on normal documents, the right ones where an option is absent."""

import random
from pathlib import Path

import pandas as pd
import pytest

import evals.suite
from evals import metrics, prompts
from evals.lmms import contained, task_module

DATA = Path(evals.suite.__file__).parent / "data"
ABSENT = [None, float("nan"), pd.NA, "", "  ", "\u3000\n", "nan", "NaN", " nan "]


def question(options, answer="A"):
    row = {"index": 1, "question": "What fruit?", "hint": "nan", "answer": answer}
    row |= {"category": "c", "L2-category": "l", "source": "s", "split": "dev"}
    return row | dict(zip("ABCD", options))


def by_data_frame(records):
    """lmms-eval's own evaluation of all records, (overall, question -> hit)."""
    evaluator = task_module("mmbench.en_utils").mmbench_evaluator
    named = [{**record, "category": str(record["index"] % 1_000_000)} for record in records]
    with contained():
        overall, hits, _ = evaluator.eval_result(named, "static")
    return float(overall), {int(name): hit for name, hit in hits.items()}


@pytest.mark.parametrize("name", ["mmbench_en", "mmbench_cn"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_lmms_evals_on_the_embedded_suite(name, seed):
    """Headline and every question, with and without its spelling of absent options."""
    draw = random.Random(seed)
    table = pd.read_parquet(DATA / f"{name}.parquet").drop(columns="image")
    documents = table.to_dict("records")
    draw.shuffle(documents)
    stock, ours = [], []
    for doc in documents:
        right = doc["answer"]
        wrong = draw.choice([draw.choice("ABCDE"), doc["A"], "", "A or B", "I do not know."])
        replies = [right] * 8 + [f"{right}. {doc[right]}", f"The answer is ({right})", doc[right]]
        reply = draw.choice([*replies, wrong, wrong])
        record = task_module("mmbench.en_utils").mmbench_process_results(dict(doc), [reply])
        stock.append(record["gpt_eval_score"])
        ours.append(metrics.mmbench_lmms(dict(doc), [reply])["gpt_eval_score"])
    overall, hits = by_data_frame(stock)
    assert 0 < overall < 1
    for records in (stock, ours):
        assert metrics.mmbench_static(records) == 100 * overall
        assert metrics.mmbench_units(records) == hits
    first = stock[0]["index"] % 1_000_000
    rotations = [r for r in stock if r["index"] % 1_000_000 == first]
    assert metrics.mmbench_correct(rotations) == hits[first]


@pytest.mark.parametrize("process", [metrics.mmbench, metrics.mmbench_lmms])
@pytest.mark.parametrize("empty", ABSENT, ids=repr)
@pytest.mark.parametrize(
    ("reply", "hit"),
    [("A", 1.0), ("apple", 1.0), ("apple, no banana", 1.0), ("B", 0.0), ("pear", 0.0), ("", 0.0)],
)
def test_an_absent_option_is_named_by_no_reply(process, empty, reply, hit):
    record = process(question(["apple", "pear", empty, empty]), [reply])["gpt_eval_score"]
    assert metrics.mmbench_static([record]) == 100 * hit
    assert metrics.mmbench_correct([record]) == hit


def test_an_option_that_says_none_is_an_option_to_lmms_eval_and_none_to_llava():
    doc = question(["apple", "None"], answer="B")
    stock = task_module("mmbench.en_utils").mmbench_process_results(doc, ["none"])
    assert by_data_frame([stock["gpt_eval_score"]])[0] == 1.0
    assert metrics.mmbench_correct([metrics.mmbench_lmms(doc, ["none"])["gpt_eval_score"]]) == 1.0
    assert prompts.mmbench_options(doc) == {"A": "apple"}


@pytest.mark.parametrize("empty", [*ABSENT, "None", "none"], ids=repr)
def test_the_papers_prompt_and_score_stop_at_the_first_absent_option(empty):
    doc = question(["apple", "pear", empty, "plum"]) | {"hint": empty}
    prompt = prompts.mmbench(doc, {"post_prompt": "\nAnswer."})
    assert prompt == "What fruit?\nA. apple\nB. pear\nAnswer."
    record = metrics.mmbench(doc, ["apple, not plum"])["gpt_eval_score"]
    assert metrics.mmbench_correct([record]) == 1.0  # "plum" was not to be had

"""What is written for the servers is what was answered, whatever the answer is."""

import json
import tempfile
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evals import submissions

SPECIAL = ["=1+1", "=", "+1", "-x", "@a", "nan", "None", "NA", "#N/A", "#REF!", "", " a ", "007"]
SPECIAL += ["1e5", "TRUE", "a\nb", "a\r\nb", "_x000D_", "_x005F_", "\ud800", "苹果", "'=1", "null"]


def sheet(predictions, **options):
    rows = [
        {"index": i, "question": f"={text}", "A": text, "B": None, "C": float("nan"), "D": "nan"}
        | {"prediction": text}
        for i, text in enumerate(predictions)
    ]
    with tempfile.TemporaryDirectory() as folder:
        submissions.write_mmbench(rows, Namespace(output_path=folder))
        return pd.read_excel(Path(folder) / "submission.xlsx", **options)


def writable(text):
    return submissions.UNWRITABLE.sub("", text)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
@example(SPECIAL)
def test_the_spreadsheet_gives_the_same_strings_back(texts):
    table = sheet(texts, dtype=str, keep_default_na=False)
    assert list(table["prediction"]) == [writable(text) for text in texts]
    assert list(table["question"]) == [writable(f"={text}") for text in texts]
    assert list(table["A"]) == [writable(text) for text in texts]
    assert set(table["B"]) | set(table["C"]) == {""}
    assert list(table["index"]) == [str(i) for i in range(len(texts))]


def test_the_server_reads_no_formula():
    """As VLMEvalKit reads it, without arguments."""
    table = sheet(["=1+1", "+1 a", "-b", "@c", "A"])
    assert list(table["prediction"]) == ["=1+1", "+1 a", "-b", "@c", "A"]
    assert list(table["index"]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("reply", "answered"), [("A", 1.0), ("The", 1.0), ("a cat", 1.0), ("", 0.0), (" \n", 0.0)]
)
def test_a_reply_is_an_answer_also_when_nothing_is_left_of_it(reply, answered):
    result = submissions.vqav2({"question_id": 1}, [reply])
    assert result["answered"] == answered
    assert submissions.vizwiz({"question_id": "v"}, [reply])["answered"] == answered


@given(st.lists(st.text() | st.sampled_from(SPECIAL)))
def test_json_gives_the_same_strings_back(texts):
    lines = [{"question_id": i, "answer": text} for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        submissions.write_json(lines, Namespace(output_path=folder))
        text = (Path(folder) / "submission.json").read_text(encoding="utf-8")
    assert json.loads(text) == lines


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        submissions.write_json([{"question_id": float("nan")}], Namespace(output_path=tmp_path))

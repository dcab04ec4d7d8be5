"""CHAIR finds in a caption what the original script finds; without NLTK data, nearly always.

tests/golden/chair.json holds captions with the tokens, lemmas and objects that the original script
and its WordNet variant (OPERA's and lmms-eval's) give them.
"""

import json
import random
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from evals import chair
from evals.lmms import task_module
from evals.suite.questions import NUMBERS
from evals.suite.scenes import CATEGORIES, WORDS

CASES = json.loads((Path(__file__).parent / "golden" / "chair.json").read_text())["cases"]
needs_data = pytest.mark.skipif(
    bool(chair.missing_resources()),
    reason=f"NLTK data are not installed: {', '.join(chair.missing_resources())}",
)


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(chair, "missing_resources", lambda: list(chair.RESOURCES))


def found(caption):
    """(words, nodes, positions, length) by lmms-eval's own function."""
    words, nodes, positions, every = task_module("coco_cap_chair.utils").caption_to_words(caption)
    return words, nodes, positions, len(every)


def expected(case):
    variant = case["wordnet_variant"]
    names = ("mentioned_words", "mentioned_nodes", "token_idxs", "len")
    return tuple(variant[name] for name in names)


@needs_data
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["tag"])
def test_with_nltk_data_all_is_equal(case):
    with chair.language_data() as source:
        assert source.startswith("nltk")
        assert found(case["caption"]) == expected(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["tag"])
def test_from_the_same_lemmas_the_scorer_finds_the_same(case, monkeypatch):
    """Needs no data: NLTK's answers are replayed, all that follows is lmms-eval's and ours."""
    utils = task_module("coco_cap_chair.utils")
    lemmas = iter(case["wordnet_lemmas"])
    lemmatizer = SimpleNamespace(lemmatize=lambda word, pos: next(lemmas))
    replay = SimpleNamespace(word_tokenize=lambda _: case["tokens"], pos_tag=chair._call_all_nouns)
    monkeypatch.setattr(utils, "nltk", replay)
    monkeypatch.setattr(utils, "wordnet", SimpleNamespace(NOUN="n"))
    monkeypatch.setattr(utils, "WordNetLemmatizer", lambda: lemmatizer)
    assert found(case["caption"]) == expected(case)

    lemmas = iter(case["wordnet_lemmas"] * 2)
    record = chair.process_results(
        {"question_id": "1", "gt_object": case["gt_objects"]}, [case["caption"]]
    )
    variant, item = case["wordnet_variant"], record["coco_cap_chair_i"]
    assert chair.faithful([item]) == 1 - variant["chair_s"]
    if item["pred"]:
        assert chair.chair_i([item]) == pytest.approx(100 * variant["chair_i"])
    if item["answer"]:
        assert chair.recall([item]) == pytest.approx(100 * variant["recall"])
    assert record["chair_len"] == variant["len"]


def test_without_data_the_note_says_how_many_captions_agree(no_data):
    with chair.language_data() as source:
        mentions = [found(case["caption"])[1] for case in CASES]
        tokens = [chair._tokenize(case["caption"].lower()) for case in CASES]
    assert source == f"inflect {version('inflect')}"
    same = [m == case["wordnet_variant"]["mentioned_nodes"] for m, case in zip(mentions, CASES)]
    assert (sum(same), len(same)) == (chair.SAME, chair.GOLDEN)
    assert f"{chair.SAME} of {chair.GOLDEN} golden captions" in chair.note(source)
    # Where they differ, NLTK takes "potted" for a verb; the original script finds what we find.
    (other,) = [i for i, equal in enumerate(same) if not equal]
    assert mentions[other] == CASES[other]["original"]["mentioned_nodes"]
    assert tokens == [case["tokens"] for case in CASES]


def test_without_data_every_object_of_the_suite_is_found_in_every_form(no_data):
    draw = random.Random(0)
    with chair.language_data():
        for _ in range(300):
            chosen = draw.sample(CATEGORIES, draw.randint(1, 8))
            plural = [draw.random() < 0.5 for _ in chosen]
            things = [
                f"{draw.choice(NUMBERS[2:])} {category.many}" if many else category.one
                for category, many in zip(chosen, plural)
            ]
            words = " and ".join(draw.sample(WORDS, 2))
            caption = f"The image features {', '.join(things)}. A sign says {words}."
            assert found(caption)[1] == [category.name for category in chosen], caption


def test_the_language_data_leave_the_scorer_as_it_was(no_data):
    utils = task_module("coco_cap_chair.utils")
    before = dict(vars(utils))
    with chair.language_data():
        assert utils.nltk is not before["nltk"]
    assert dict(vars(utils)) == before


def test_the_quicker_scorer_finds_what_the_scorer_finds(monkeypatch, no_data):
    captions = [case["caption"] for case in CASES]
    with chair.language_data():
        quick = [found(caption) for caption in captions]
    monkeypatch.setattr(chair, "_quicker", lambda utils: {})
    with chair.language_data():
        assert [found(caption) for caption in captions] == quick


def test_the_source_names_what_finds_the_words(monkeypatch, no_data):
    assert chair.language_source() == f"inflect {version('inflect')}"
    monkeypatch.setattr(chair, "missing_resources", lambda: [])
    source = chair.language_source()
    assert source.startswith(f"nltk {version('nltk')} ")
    assert chair.note(source) is None


def test_images_without_objects_leave_no_score_and_no_error(no_data):
    with chair.language_data():
        record = chair.process_results({"question_id": "1", "gt_object": None}, ["A red sky."])
        item = record["coco_cap_recall"]
        assert item["answer"] == item["pred"] == []
        assert str(chair.recall([item])) == str(chair.chair_i([item])) == "nan"
        seen = chair.process_results({"question_id": "1", "gt_object": None}, ["A dog."])
        assert chair.faithful([seen["coco_cap_chair_s"]]) == 0.0


def test_language_data_are_fetched_until_one_cannot_be_had(monkeypatch, tmp_path):
    import nltk

    asked = []

    def download(name, quiet):
        asked.append(name)
        if name == "wordnet":
            return False
        (tmp_path / chair.RESOURCES[name]).mkdir(parents=True)
        return True

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", download)
    assert chair.fetch_resources() == ["wordnet"]
    assert asked == list(chair.RESOURCES)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "download", lambda name, quiet: asked.append(name))
    assert chair.fetch_resources() == list(chair.RESOURCES)
    assert len(asked) == len(chair.RESOURCES) + 1

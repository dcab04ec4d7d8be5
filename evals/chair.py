"""What CHAIR needs beyond lmms-eval's ``coco_cap_chair``: language data, and caption length.

The scorer tokenises, tags and lemmatises with NLTK, whose data is a download. Where that data is
absent, ``language_data`` lends the scorer a stand-in: the same Treebank tokenizer (it needs no
data), and singulars by the ``inflect`` library. On the embedded suite, whose captions use a closed
vocabulary, that finds the same words; elsewhere nearly always, and the row says how nearly.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from evals.lmms import task_module

RESOURCES = {
    "punkt_tab": "tokenizers/punkt_tab/english",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
    "wordnet": "corpora/wordnet",
}
# Captions of tests/golden/chair.json where the stand-in finds exactly what NLTK finds (tested).
SAME, GOLDEN = 35, 36


def missing_resources() -> list[str]:
    """Names of the NLTK packages that are not installed."""
    import nltk

    missing = []
    for name, path in RESOURCES.items():
        try:
            nltk.data.find(path)
        except LookupError:
            try:
                nltk.data.find(f"{path}.zip")
            except LookupError:
                missing.append(name)
    return missing


def fetch_resources() -> list[str]:
    """Download the NLTK packages that are missing; those that could not be had.

    Where one cannot be had (a machine without a network, a proxy that NLTK is not told to trust;
    NLTK says which on stderr) the others are not waited for.
    """
    import nltk

    for name in missing_resources():
        if not nltk.download(name, quiet=True):
            break
    return missing_resources()


def language_source() -> str:
    """What finds CHAIR's words on this machine, with its version; a score depends on it."""
    if missing_resources():
        return f"inflect {version('inflect')}"
    return f"nltk {version('nltk')} {'+'.join(RESOURCES)}"


def note(source: str) -> str | None:
    """What a reader must know of a score whose words came from ``source``."""
    if not source.startswith("inflect"):
        return None
    return (
        f"CHAIR words by inflect, without NLTK data: {SAME} of {GOLDEN} golden captions find the "
        "same mentions"
    )


@contextmanager
def language_data() -> Iterator[str]:
    """Let the CHAIR scorer run, with NLTK's data or the stand-in; yields ``language_source()``."""
    utils: Any = task_module("coco_cap_chair.utils")
    source = language_source()
    lent = _quicker(utils)
    if not source.startswith("nltk"):
        lent |= {
            "nltk": SimpleNamespace(word_tokenize=_tokenize, pos_tag=_call_all_nouns),
            "wordnet": SimpleNamespace(ADJ="a", VERB="v", NOUN="n", ADV="r"),  # as WordNet has them
            "WordNetLemmatizer": _Lemmatizer,
        }
    originals = {name: vars(utils)[name] for name in lent if name in vars(utils)}
    vars(utils).update(lent)
    try:
        yield source
    finally:
        for name in lent.keys() - originals.keys():
            delattr(utils, name)
        vars(utils).update(originals)


def _quicker(utils: Any) -> dict[str, Any]:
    """The same words in a tenth of the time.

    For each word of a caption the scorer makes a set of the objects' 440 names, twice; and
    ``process_results`` asks for a caption's words twice.
    """
    objects = frozenset(utils.MSCOCO_OBJECTS)

    def made_once(items: Collection[Any] = ()) -> Collection[Any]:
        return items if items is objects else set(items)

    words = lru_cache(maxsize=1)(utils.caption_to_words)
    return {"MSCOCO_OBJECTS": objects, "set": made_once, "caption_to_words": words}


def _tokenize(text: str) -> list[str]:
    """NLTK's words; its sentences need data, and matter only to a full stop before a space."""
    from nltk.tokenize import NLTKWordTokenizer

    sentences = re.sub(r"(?<!\d)\. ", ".\n", text).split("\n")  # "2. " numbers a list
    tokenizer = NLTKWordTokenizer()
    return [word for sentence in sentences for word in tokenizer.tokenize(sentence)]


def _call_all_nouns(words: list[str]) -> list[tuple[str, str]]:
    return [(word, "NN") for word in words]


class _Lemmatizer:
    def lemmatize(self, word: str, pos: str = "n") -> str:
        return _singular(word)


@cache
def _singular(word: str) -> str:
    """The word as it is if the scorer's tables have it ("bus", "tennis" racket), else singular."""
    if word in _known_words() or not word.isalpha():
        return word
    return _engine().singular_noun(word) or word


@cache
def _known_words() -> frozenset[str]:
    utils = task_module("coco_cap_chair.utils")
    return frozenset(" ".join([*utils.MSCOCO_OBJECTS, *utils.DOUBLE_WORD_DICT]).split())


@cache
def _engine() -> Any:
    import inflect

    return inflect.engine()


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record per caption, and the caption's length in tokens (OPERA's ``Len``).

    Length counts tokens after double words were joined, punctuation included, as OPERA and the
    paper's table print it. An image without objects may have a null for them.
    """
    utils = task_module("coco_cap_chair.utils")
    objects = doc["gt_object"] if doc["gt_object"] is not None else []
    record = utils.coco_cap_chair_process_result({**doc, "gt_object": objects}, results)
    *_, words = utils.caption_to_words(results[0])
    return {**record, "chair_len": len(words)}


def chair_i(results: list[dict[str, Any]]) -> float:
    """CHAIR_i in percent; NaN (no score) when no caption names any object.

    lmms-eval divides by zero there.
    """
    if not any(result["pred"] for result in results):
        return float("nan")
    utils = task_module("coco_cap_chair.utils")
    return utils.coco_cap_chair_aggregate_results_chair_i(results)


def recall(results: list[dict[str, Any]]) -> float:
    """Percent of the objects that are named; NaN (no score) when no image has any.

    lmms-eval divides by zero there.
    """
    if not any(result["answer"] for result in results):
        return float("nan")
    utils = task_module("coco_cap_chair.utils")
    return utils.coco_cap_chair_aggregate_results_recall(results)


def faithful(results: list[dict[str, Any]]) -> float:
    """1.0 when the caption names no object that is not in the image."""
    return float(all(set(result["pred"]) <= set(result["answer"]) for result in results))


def parts(results: list[dict[str, Any]]) -> dict[str, float]:
    """What CHAIR's four numbers are made of, for one caption."""
    (result,) = results
    record = result["coco_cap_chair_s"]
    named, there = record["pred"], set(record["answer"])
    false = sum(name not in there for name in named)
    return {
        "hallucinated": float(false > 0),
        "false_mentions": false,
        "mentions": len(named),
        "found": len(there & set(named)),
        "objects": len(there),
        "length": result["chair_len"],
    }

"""What CHAIR needs beyond lmms-eval's ``coco_cap_chair``: language data, and caption length.

The scorer tokenises, tags and lemmatises with NLTK, whose data is a download. Where that data is
absent, ``language_data`` lends the scorer a stand-in: the same Treebank tokenizer (it needs no
data), every word tagged a noun, and plurals reduced by rule to the object words of the task's own
tables. On the embedded suite, whose captions use a closed vocabulary, that is exact; on free text
it is not (a verb such as "to train" would count as a train), so real captions refuse it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from agilepruner.errors import UserError

RESOURCES = {
    "punkt_tab": "tokenizers/punkt_tab/english",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
    "wordnet": "corpora/wordnet",
}


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


class _Words:
    """The two functions of ``nltk`` that the scorer calls, without data files."""

    @staticmethod
    def word_tokenize(text: str) -> list[str]:
        from nltk.tokenize import NLTKWordTokenizer

        sentences = text.replace(". ", ".\n").split("\n")
        tokenizer = NLTKWordTokenizer()
        return [word for sentence in sentences for word in tokenizer.tokenize(sentence)]

    @staticmethod
    def pos_tag(words: list[str]) -> list[tuple[str, str]]:
        return [(word, "NN") for word in words]


_PARTS_OF_SPEECH = SimpleNamespace(ADJ="a", VERB="v", NOUN="n", ADV="r")  # as WordNet has them


def _lemmatizer(objects: list[str]) -> type:
    singular: dict[str, str] = {}
    for word in objects:
        for plural in (f"{word}s", f"{word}es", f"{word[:-1]}ies", f"{word[:-1]}ves"):
            if plural not in objects:
                singular.setdefault(plural, word)

    class Lemmatizer:
        def lemmatize(self, word: str, pos: str = "n") -> str:
            return singular.get(word, word)

    return Lemmatizer


@contextmanager
def language_data(allow_stand_in: bool) -> Iterator[str]:
    """Let the CHAIR scorer run; yields ``nltk`` or ``stand-in``.

    Raises:
        UserError: the data is missing and a stand-in would not be exact.
    """
    missing = missing_resources()
    if not missing:
        yield "nltk"
        return
    if not allow_stand_in:
        raise UserError(
            f"CHAIR needs NLTK data that is not installed: {', '.join(missing)}. Install it with: "
            f"python -m nltk.downloader {' '.join(missing)}"
        )
    from lmms_eval.tasks.coco_cap_chair import utils

    originals = utils.nltk, utils.wordnet, utils.WordNetLemmatizer
    utils.nltk, utils.wordnet = _Words, _PARTS_OF_SPEECH
    utils.WordNetLemmatizer = _lemmatizer(list(utils.MSCOCO_OBJECTS))
    try:
        yield "stand-in"
    finally:
        utils.nltk, utils.wordnet, utils.WordNetLemmatizer = originals


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record per caption, and the caption's length in tokens (OPERA's ``Len``).

    Length counts tokens after double words were joined, punctuation included, as OPERA and the
    paper's table print it.
    """
    from lmms_eval.tasks.coco_cap_chair import utils

    record = utils.coco_cap_chair_process_result(doc, results)
    *_, words = utils.caption_to_words(results[0])
    return {**record, "chair_len": len(words)}


def chair_i(results: list[dict[str, Any]]) -> float:
    """CHAIR_i in percent; NaN (no score) when no caption names any object.

    lmms-eval divides by zero there.
    """
    from lmms_eval.tasks.coco_cap_chair import utils

    if not any(result["pred"] for result in results):
        return float("nan")
    return utils.coco_cap_chair_aggregate_results_chair_i(results)


def faithful(results: list[dict[str, Any]]) -> float:
    """1.0 when the caption names no object that is not in the image."""
    return float(all(set(result["pred"]) <= set(result["answer"]) for result in results))

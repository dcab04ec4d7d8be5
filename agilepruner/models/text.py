"""A document's text is text: whatever it spells, it becomes no control token of the prompt."""

from collections.abc import Sequence
from typing import Any

BREAKS = "\ue000\ue001\ue002"  # private use: no text means anything by them


class PlainText:
    """Tokenize prompts whose question may hold the text of a control token (``<image>``, ``</s>``).

    Such a text is cut inside, by a character that then is taken out of the token ids again: what
    remains are the tokens of its letters. Every other prompt is tokenized as it is.

    Args:
        tokenizer: of transformers. more: control tokens that it does not call special.
    """

    def __init__(self, tokenizer: Any, more: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        control = {*map(str, tokenizer.all_special_tokens), *more}
        control |= {token.content for token in added if token.special}
        self._control = sorted(control - {""}, key=len, reverse=True)

    def encode(self, template: str, question: str, **settings: Any) -> list[int]:
        """Token ids of a template with ``{question}`` filled in.

        Raises:
            ValueError: the tokenizer does not keep the cuts apart.
        """
        found = [token for token in self._control if token in question]
        if not found or "{question}" not in template:
            return self._ids(template.replace("{question}", question), settings)
        mark = next(c for c in BREAKS if c not in question and c not in template)
        cuts = question
        for token in found:
            inside = max(1, len(token) // 2)
            cuts = cuts.replace(token, f"{token[:inside]}{mark}{token[inside:]}")
        ids = self._ids(template.replace("{question}", cuts), settings)
        alone = self._ids(f"a{mark}a", {"add_special_tokens": False})
        around = [i for i, token in enumerate(alone) if token in (alone[0], alone[-1])]
        return _without(ids, alone[around[0] + 1 : around[-1]], cuts.count(mark))

    def _ids(self, text: str, settings: dict[str, Any]) -> list[int]:
        return self._tokenizer(text, **settings)["input_ids"]


def _without(ids: list[int], mark: list[int], count: int) -> list[int]:
    """Take every run of ``mark`` out of ``ids``; it must be there ``count`` times."""
    kept: list[int] = []
    at = found = 0
    while at < len(ids):
        if mark and ids[at : at + len(mark)] == mark:
            at, found = at + len(mark), found + 1
        else:
            kept.append(ids[at])
            at += 1
    if not mark or found != count:
        raise ValueError("the text of a control token in the question cannot be kept apart")
    return kept

"""What a setting may be, declared where it is declared, and the sentence for what it may not be.

A declaration is an ordinary type with rules attached: ``Annotated[float, Range(0, 2)]``.
Strategies write it beside each hyper-parameter, ``config.py`` beside each key of the config, and
``conform`` checks a value against it.
"""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from agilepruner.errors import UserError

OPEN = object()  # metadata of a mapping: keys that are not declared are kept as they are


@dataclass(frozen=True)
class Rule:
    """A condition on a value and the words that complete "expected a text ...".

    Attributes:
        expected: what holds of a good value. holds: whether it does.
    """

    expected: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: ``Annotated[float, Range(0, 1)]``.

    NaN is in no range.
    """

    low: float
    high: float

    @property
    def expected(self) -> str:
        """The words for an error."""
        if self.low == self.high:
            return f"equal to {self.low:,}"
        return f"from {self.low:,} to {self.high:,}"

    def holds(self, value: float) -> bool:
        """Whether the value is in the range."""
        return self.low <= value <= self.high


def length(most: int) -> Rule:
    """A text of 1 to ``most`` characters on one line."""
    return Rule(
        f"of 1 to {most} printable characters",
        lambda text: 0 < len(text) <= most and text.isprintable() and text == text.strip(),
    )


ascending = Rule("in ascending order", lambda items: list(items) == sorted(set(items)))
filled = Rule("not empty", lambda items: len(items) > 0)


def conform(kind: Any, value: Any, where: str, note: str = "") -> Any:
    """The value as the declared type: whole numbers as floats, lists as tuples, where declared so.

    A bool is no integer, a text no number, NaN and infinity are no numbers. A whole number is a
    text where one is declared: a directory may be called 2024.

    Args:
        kind: a type: bool, int, float, str, None, Literal, a list, tuple, dict or union of those, a
            TypedDict; ``Annotated`` adds rules, ``OPEN``, and a text that explains the setting.
        value: what was given.
        where: the setting's name, for the error.
        note: explains the setting, for the error.

    Raises:
        UserError: naming the setting, the value seen, and what was expected.
    """
    given = value
    kind = get_args(kind)[0] if get_origin(kind) is NotRequired else kind
    base, rules, note = _parts(kind, note)
    if value == "???":
        raise UserError(f"{where} has no value yet: add {where}=... to the command.")
    if is_typeddict(base):
        return _keys(base, value, where, open_ended=OPEN in getattr(kind, "__metadata__", ()))
    origin, arguments = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return _first(arguments, value, where, note)
    if origin in (list, tuple) and isinstance(value, Sequence) and not isinstance(value, str):
        item = arguments[0]
        value = origin(conform(item, v, f"{where}[{i}]", note) for i, v in enumerate(value))
    elif origin is dict and isinstance(value, Mapping):
        item = arguments[1]
        value = {str(key): conform(item, v, f"{where}.{key}") for key, v in value.items()}
    else:
        fits, value = _plain(base, value)
        if not fits:
            raise _refusal(kind, given, where, note)
    if not all(rule.holds(value) for rule in rules):
        raise _refusal(kind, given, where, note)
    return value


def describe(kind: Any) -> str:
    """A declared type in words: "an integer from 1 to 64, or null"."""
    base, rules, _ = _parts(kind, "")
    origin, arguments = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return ", or ".join(map(describe, arguments))
    if origin is Literal:
        words = "one of " * (len(arguments) > 1) + ", ".join(map(shown, arguments)).replace("'", "")
    elif origin in (list, tuple):
        conditions = "".join(f", {rule.expected}" for rule in rules)
        return f"a list{conditions}, each item {describe(arguments[0])}"
    elif origin is dict or is_typeddict(base):
        words = "a mapping of settings"
    else:
        words = WORDS.get(base, "")
    return " ".join(filter(None, [words, ", ".join(rule.expected for rule in rules)]))


WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    type(None): "null",
    Any: "",
}


def shown(value: Any) -> str:
    """A value as the command line or YAML has it, shortened."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {shown(v)}' for key, v in value.items())}}}"
    else:
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


@lru_cache
def declared(owner: Any) -> dict[str, Any]:
    """Names of a dataclass or TypedDict with their declarations."""
    return get_type_hints(owner, include_extras=True)


def _parts(kind: Any, note: str) -> tuple[Any, list[Rule | Range], str]:
    """The bare type, its rules and its note."""
    if get_origin(kind) is not Annotated:
        return kind, [], note
    base, *metadata = get_args(kind)
    rules = [m for m in metadata if isinstance(m, (Rule, Range))]
    return base, rules, next((m for m in metadata if isinstance(m, str)), note)


def _plain(base: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value without parts fits, and the value as that type."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if base is Any:
        return True, value
    if base is float and number:
        try:
            return abs(float(value)) < float("inf"), float(value)
        except OverflowError:
            return False, value
    if base is str and number and isinstance(value, int):
        return True, str(value)
    if base is int:
        return number and isinstance(value, int), value
    if get_origin(base) is Literal:
        return any(type(value) is type(o) and value == o for o in get_args(base)), value
    return isinstance(base, type) and isinstance(value, base), value


def _first(members: tuple[Any, ...], value: Any, where: str, note: str) -> Any:
    """The value as the first member of a union that it fits."""
    errors = []
    for member in members:
        try:
            return conform(member, value, where, note)
        except UserError as error:
            errors.append(error)
    of_a_part = [error for error in errors if not str(error).startswith(f"{where}=")]
    raise of_a_part[0] if of_a_part else _refusal(Union[members], value, where, note)  # noqa: UP007


def _keys(schema: Any, value: Any, where: str, open_ended: bool) -> dict[str, Any]:
    """A mapping with the keys of a TypedDict."""
    known = declared(schema)
    if not isinstance(value, Mapping):
        raise UserError(f"{where}={shown(value)}, expected settings: {', '.join(known)}.")
    prefix = f"{where}." if where else ""
    for key in value.keys() - known.keys():
        near = get_close_matches(str(key), known, n=1, cutoff=0.8 if open_ended else 0.5)
        if near or not open_ended:
            raise no_setting(where, str(key), known)
    for key in known:
        if key in schema.__required_keys__ and key not in value:
            raise UserError(f"{prefix}{key} is missing: give {describe(known[key])}.")
    return {
        key: conform(known[key], item, f"{prefix}{key}") if key in known else item
        for key, item in value.items()
    }


def no_setting(where: str, key: str, known: Iterable[str]) -> UserError:
    """The error for a key that is not among the known ones of a mapping."""
    prefix, names = f"{where}." if where else "", sorted(known)
    near = get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{prefix}{near[0]}'?" if near else ""
    have = f"Known: {', '.join(names)}." if names else f"{where} has no settings."
    return UserError(f"Unknown setting '{prefix}{key}'.{hint} {have}")


def _refusal(kind: Any, value: Any, where: str, note: str) -> UserError:
    """One sentence: the setting, the value, what was expected, and what was meant."""
    base, _, note = _parts(kind, note)
    hint = f" ({note})" if note else ""
    members = [_parts(member, "")[0] for member in (base, *get_args(base))]
    options = [o for member in members if get_origin(member) is Literal for o in get_args(member)]
    near = get_close_matches(str(value), [o for o in options if isinstance(o, str)], 1, 0.5)
    if near:
        hint += f". Did you mean '{near[0]}'?"
    elif str in members and isinstance(value, (bool, float)):
        hint += f"; quote what should be read as one: {where}=\"'{shown(value)}'\"."
    else:
        hint += "."
    return UserError(f"{where}={shown(value)}, expected {describe(kind)}{hint}")

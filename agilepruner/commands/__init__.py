"""Commands that need no composed config: one file each, named as it is typed.

``agilepruner audit-paper`` is ``audit_paper.py``. A command is a module with a docstring, whose
first line ``agilepruner --help`` prints, and a function ``run(words)``: the words behind the
command's name go in, the exit status comes out (0; ``NotFinished`` for 1, ``UserError`` for 2).
Modules import what is heavy inside ``run``: naming a command costs nothing.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import iter_modules

from agilepruner.errors import UserError, unknown

NAMES = sorted(module.name.replace("_", "-") for module in iter_modules(__path__))


def command(name: str) -> Callable[[list[str]], int]:
    """The function behind a command's name."""
    found: Callable[[list[str]], int] = _module(name).run
    return found


def summary(name: str) -> str:
    """The first line of a command's docstring."""
    return (_module(name).__doc__ or "").partition("\n")[0]


def listed() -> str:
    """Every command and what it is for, a line each."""
    width = max(map(len, NAMES))
    return "\n".join(f"  agilepruner {name:{width}}    {summary(name)}" for name in NAMES)


def _module(name: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def parsed(words: Sequence[str], usage: str, settings: Sequence[str]) -> tuple[list[str], dict]:
    """Split a command's words into names and ``key=value`` settings.

    Args:
        words: as typed; ``--key=value`` is read as ``key=value``.
        usage: how the command is called, for errors.
        settings: keys that it knows.

    Raises:
        UserError: a key is unknown or given twice.
    """
    names: list[str] = []
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals and not word.startswith("--"):
            names.append(word)
            continue
        if key not in settings:
            raise UserError(f"{unknown('setting', key, settings)} Usage: {usage}")
        if not equals or key in given:
            raise UserError(f"Give {key} once, as {key}=... Usage: {usage}")
        given[key] = value
    return names, given


def directories(names: Sequence[str], usage: str, results: str = "results") -> list[Path]:
    """The directories of named runs.

    Raises:
        UserError: no name was given, or a run of that name is not there.
    """
    root = Path(results)
    have = sorted(path.parent.name for path in root.glob("*/cells"))
    if not have:
        raise UserError(f"{root} holds no runs; say where they are with results=DIRECTORY.")
    if not names:
        raise UserError(f"Usage: {usage}. Runs in {root}: {', '.join(have)}.")
    for name in names:
        if name not in have:
            raise unknown("run", name, have)
    return [root / name for name in names]


def one_directory(names: Sequence[str], usage: str, results: str = "results") -> Path:
    """The directory of the one run that is named.

    Raises:
        UserError: none or several are named, or it is not there.
    """
    if len(names) > 1:
        raise UserError(f"Name one run. Usage: {usage}")
    (directory,) = directories(names, usage, results)
    return directory

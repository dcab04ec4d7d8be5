"""What ends a command without a traceback: what the user must fix (2), what is left over (1)."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The user must do something. The message says what was seen, what was expected and the fix."""


class NotFinished(Exception):
    """Some cells have no score, or something could not be stored; exit status 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist, with the nearest known one.

    >>> str(unknown("strategy", "divprun", ["divprune", "random"]))
    "Unknown strategy 'divprun'. Did you mean 'divprune'? Known: divprune, random."
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = f" Known: {', '.join(names)}." if len(names) <= 50 else ""
    return UserError(f"Unknown {kind} '{name}'.{hint}{listed}")

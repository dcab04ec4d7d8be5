"""One colour and one marker per strategy, on the page and in figures."""

import zlib
from collections.abc import Iterable
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from agilepruner.places import CONFIGS
from agilepruner.report.lines import VANILLA

# Okabe and Ito's colours that hold on white and on black; told apart by the colour-blind.
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00")
MARKERS = ("circle", "square", "diamond", "triangle", "cross", "wedge", "plus", "flag", "pillar")
NEUTRAL = "#8A8A8A"
PLAIN = {VANILLA: "circle", "random": "square", "blind": "cross"}


def styles(shown: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each strategy: grey for vanilla, random and blind.

    A strategy with a config has a place of its own, so its style does not depend on what else is
    shown: those of the main table first, so that their colours differ, then those of the others,
    then by name. Strategies without one get a place from their name, moved on where it is taken.
    """
    known = [name for name in _in_order() if name not in PLAIN]
    places = {name: i for i, name in enumerate(known)}
    count = len(COLOURS) * len(MARKERS)
    for name in sorted(set(shown) - set(known) - set(PLAIN)):
        start = zlib.crc32(name.encode())
        free = (start + i for i in range(count) if (start + i) % count not in places.values())
        places[name] = next(free, start) % count
    found = {}
    for name, place in places.items():
        turn = place + place // len(COLOURS)  # neighbours differ in both, and no pair comes twice
        found[name] = COLOURS[place % len(COLOURS)], MARKERS[turn % len(MARKERS)]
    return found | {name: (NEUTRAL, marker) for name, marker in PLAIN.items()}


@cache
def _in_order() -> tuple[str, ...]:
    """Every strategy with a config: as the tables list them, the main one first, then by name."""
    tables = sorted((CONFIGS / "table").glob("*.yaml"), key=lambda p: (p.stem != "main", p.stem))
    listed: list[str] = []
    for path in tables:
        recipe: Any = OmegaConf.load(path)
        for entry in recipe.get("defaults", []):
            listed += entry.get("override /strategy", []) if hasattr(entry, "get") else []
    every = sorted(path.stem for path in (CONFIGS / "strategy").glob("*.yaml"))
    return tuple(dict.fromkeys([*(name for name in listed if name in every), *every]))

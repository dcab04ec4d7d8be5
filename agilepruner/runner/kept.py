"""What an answer was given of its image, as a journal keeps it: a hundred bytes to a thousand.

A plain selection is a bit per patch; merged tokens have the patch each stands for and, of every
other patch, the token that most of it went into. Patches are counted in raster order through the
image's tiles: tile * N + patch.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agilepruner.runner.journal import Entry

if TYPE_CHECKING:  # reports read records, and load no torch
    from agilepruner.models.base import Layout, Visual
    from agilepruner.strategies.base import Selection, VisualTokens

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)  # of an image
NONE = -1  # a token that is no single patch (CLS, a summary); a patch that no token holds


@dataclass(frozen=True)
class Kept:
    """The visual tokens that a language model was given of one image.

    Attributes:
        patches: the patch of each token, counted through the tiles; ``NONE`` for a token that is no
            single patch. Plain selections are in ascending order, merged tokens in the prompt's.
            Empty where the tokens show nothing (``blind``).
        phases: of each token, which of its strategy's ``phases`` chose it; empty: it has none.
        joined: of merging strategies: for each patch of the image the number of the token that most
            of it went into, or ``NONE``; empty: each token is its patch.
        stages: inside the language model: the numbers of the tokens that each stage kept by rank.
    """

    patches: list[int]
    phases: list[int]
    joined: list[int]
    stages: list[list[int]]

    @property
    def last(self) -> list[int]:
        """The patches of the tokens that all layers see: of stages, those of the last one."""
        return [self.patches[n] for n in self.stages[-1]] if self.stages else self.patches

    @property
    def left(self) -> list[int]:
        """The patch of each token that is left at the end, after the last stage if there is one."""
        if not self.stages:
            return self.patches
        return [self.patches[token] for token in self.stages[-1]]


def recorded(
    tokens: "VisualTokens", selection: "Selection", visual: "Visual"
) -> dict[str, Any] | None:
    """What to journal of one image's selection; None: every patch, as it is.

    Args:
        tokens: of the image, a tile per row.
        selection: one row per tile.
        visual: what became of it.
    """
    total = tokens.batch * tokens.count
    if selection.weights is None:
        if selection.indices.shape[1] == tokens.count:
            return None
        numbers = _numbers(visual)
        there = np.zeros(total, dtype=bool)
        there[numbers[numbers >= 0]] = True
        said: dict[str, Any] = {"bits": _bits(there)}
        if selection.phases is not None:
            at = _through_tiles(selection, tokens.count)
            said["phases"] = _digits(selection.phases.cpu().numpy()[there[at]])
        return said
    weights = selection.weights[:, :, : tokens.count]  # without a CLS column
    most, joined = (part.cpu().numpy() for part in weights.max(dim=1))  # (T, N)
    held = most > 0
    if not held.any():  # tokens that show nothing
        return {"bits": _bits(np.zeros(total, dtype=bool))}
    indices = selection.indices.cpu().numpy()  # (T, K)
    present = indices >= 0
    counts = present.sum(axis=1)
    joined += (counts.cumsum() - counts)[:, None]
    joined[~held] = NONE
    at = _through_tiles(selection, tokens.count)
    at[indices >= tokens.count] = NONE
    at = at[present]
    joined = joined.ravel()
    joined[joined == _holders(at, total)] = NONE  # what the tokens say already: half of the bytes
    said = {"tokens": _packed(at), "joined": _packed(joined)}
    if selection.phases is not None:
        said["phases"] = _digits(selection.phases.cpu().numpy()[present])
    return said


def with_stages(
    said: Mapping[str, Any] | None, stages: Sequence[Sequence[int]], visual: "Visual", total: int
) -> dict[str, Any]:
    """The record with what each stage inside the language model kept.

    Args:
        said: as ``recorded``.
        stages: numbers of visual tokens, in the order of the prompt.
        visual: those tokens.
        total: patches of the image, in all of its tiles.
    """
    merged = said is not None and "tokens" in said
    numbers = np.arange(len(visual)) if merged else _numbers(visual)
    kept = []
    for stage in stages:
        there = np.zeros(len(visual) if merged else total, dtype=bool)
        at = numbers[np.asarray(stage, dtype=int)]
        there[at[at >= 0]] = True
        kept.append(_bits(there))
    return {**(said or {}), "stages": kept}


def read(said: Mapping[str, Any] | None, total: int) -> Kept:
    """What was journaled.

    Args:
        said: an entry's ``kept``.
        total: patches of the image, in all of its tiles.

    Raises:
        ValueError: it is no such record.
    """
    said = said or {}
    phases = [int(digit, 36) for digit in said.get("phases", "")]
    stages = said.get("stages", [])
    if "tokens" in said:
        patches = _unpacked(said["tokens"])
        inside = [_unbits(stage, len(patches)) for stage in stages]
        joined = np.array(_unpacked(said["joined"]))
        joined = np.where(joined == NONE, _holders(np.array(patches), len(joined)), joined)
        return Kept(patches, phases, joined.tolist(), inside)
    patches = _unbits(said["bits"], total) if "bits" in said else list(range(total))
    number = {patch: i for i, patch in enumerate(patches)}
    inside = [[number[patch] for patch in _unbits(stage, total)] for stage in stages]
    return Kept(patches, phases, [], inside)


def shares(records: Sequence[Mapping[str, Any] | None], names: Sequence[str]) -> dict[str, float]:
    """Mean share of its tokens that each phase chose, over the answers that have phases."""
    digits = [said["phases"] for said in records if said and said.get("phases")]
    if not digits:
        return {}
    return {
        name: sum(each.count(_DIGITS[i]) / len(each) for each in digits) / len(digits)
        for i, name in enumerate(names)
    }


def placed(layout: "Layout") -> dict[str, Any]:
    """Where the tiles of an image lie on it, as fields of an entry."""
    return {
        "view": None if layout.view == WHOLE else [round(edge, 4) for edge in layout.view],
        "mosaic": layout.mosaic and list(layout.mosaic),
        "overview": layout.overview,
    }


def boxes_of(entry: Entry) -> list[Box]:
    """Where each tile of an answer's image lies on it: left, top, right, bottom.

    In widths and heights of the image; beyond 0 to 1 the tile is padded.
    """
    view = entry.view or WHOLE
    if not entry.mosaic:
        return [(view[0], view[1], view[2], view[3])]
    rows, columns = entry.mosaic
    x, y = np.linspace(view[0], view[2], columns + 1), np.linspace(view[1], view[3], rows + 1)
    boxes = [
        (float(x[c]), float(y[r]), float(x[c + 1]), float(y[r + 1]))
        for r in range(rows)
        for c in range(columns)
    ]
    boxes.insert(entry.overview, WHOLE)
    return boxes


def details_of(entry: Entry) -> list[int]:
    """The tiles that show an answer's image in most detail: all but the overview."""
    return [tile for tile in range(len(boxes_of(entry))) if tile != entry.overview] or [0]


WINDOW = 10  # 1 KiB: with zlib's own 32 its memory costs more than the compression
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LETTERS = np.frombuffer(_DIGITS.encode(), dtype=np.uint8)


def _numbers(visual: "Visual") -> np.ndarray:
    """The patch of each visual token, counted through the tiles."""
    own = visual.anchors if visual.patches is None else visual.patches
    return own.cpu().numpy()


def _holders(patches: np.ndarray, total: int) -> np.ndarray:
    """(total,) of each patch the first token that stands for it, or ``NONE``."""
    found = np.full(total, NONE)
    tokens = (patches >= 0).nonzero()[0][::-1]  # the last one written is the first
    found[patches[tokens]] = tokens
    return found


def _through_tiles(selection: "Selection", count: int) -> np.ndarray:
    """(T, K) indices, counted through the tiles."""
    indices = selection.indices.cpu().numpy()
    return indices + np.arange(len(indices))[:, None] * count


def _digits(phases: np.ndarray) -> str:
    return _LETTERS[phases].tobytes().decode()


def _bits(there: np.ndarray) -> str:
    return b64encode(np.packbits(there).tobytes()).decode()


def _unbits(text: str, total: int) -> list[int]:
    raw = np.frombuffer(b64decode(text, validate=True), dtype=np.uint8)
    if len(raw) != -(-total // 8):
        raise ValueError(f"{len(raw)} bytes for {total} patches")
    return np.unpackbits(raw, count=total).nonzero()[0].tolist()


def _packed(numbers: np.ndarray) -> str:
    """Numbers from -1 up, small ones in a byte each, compressed."""
    raw = (numbers + 1).astype("<u2")
    wide = "H" if (raw > 255).any() else "B"
    data = raw if wide == "H" else raw.astype(np.uint8)
    small = zlib.compressobj(6, wbits=WINDOW, memLevel=5)
    return wide + b64encode(small.compress(data.tobytes()) + small.flush()).decode()


def _unpacked(text: str) -> list[int]:
    kind = np.uint8 if text[:1] == "B" else np.dtype("<u2")
    try:
        data = zlib.decompress(b64decode(text[1:], validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return (np.frombuffer(data, dtype=kind).astype(int) - 1).tolist()

"""A kept patch is drawn where the model saw it: on the page, in W&B, in a terminal."""

import base64

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image

from agilepruner.report.terminal import Shown, document_text, kept_map
from agilepruner.report.wandb import overlay
from agilepruner.runner.journal import Entry
from agilepruner.runner.kept import boxes_of, details_of, placed, read

GREY = 96
SIZES = {"wide": (640, 260), "tall": (200, 500), "square": (300, 300)}


def with_a_square(size):
    """A grey picture with a white square somewhere right of and above its middle."""
    width, height = size
    edge = 3 * min(size) // 5
    left, top = 7 * (width - edge) // 8, (height - edge) // 8
    picture = Image.new("RGB", size, (GREY,) * 3)
    picture.paste((255, 255, 255), (left, top, left + edge, top + edge))
    return picture


def lights(processor, pixels, tokens):
    """(T, N) how bright each token's pixels are, as the tower is given them: grey 0, white 1."""
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    if pixels.ndim == 2:  # Qwen: a row of channels per patch, the four of a token together
        by_channel = pixels.reshape(tokens.count, 4, 3, -1).mean(dim=(1, 3))
        seen = (by_channel * std + mean).mean(dim=1)[None]
    else:
        tiles = pixels.reshape(-1, *pixels.shape[-3:])
        tiles = (tiles * std[:, None, None] + mean[:, None, None]).mean(dim=1)
        seen = torch.nn.functional.adaptive_avg_pool2d(tiles, tokens.grid).flatten(1)
    return ((seen - GREY / 255) / (1 - GREY / 255)).numpy()


def packed(there):
    return base64.b64encode(np.packbits(there).tobytes()).decode()


def rectangles(entry, size):
    """(T, N) top, bottom and left, right of each patch as it is drawn, in pixels."""
    (rows, columns), (width, height) = entry.grid, size
    found = []
    for left, top, right, bottom in boxes_of(entry):
        xs = np.linspace(left * width, right * width, columns + 1).round().astype(int)
        ys = np.linspace(top * height, bottom * height, rows + 1).round().astype(int)
        found.append([(ys[i : i + 2], xs[j : j + 2]) for i in range(rows) for j in range(columns)])
    return found


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_patch_is_drawn_over_the_pixels_that_the_tower_was_given_of_it(kind, shape):
    model, picture = tiny.adapter(kind), with_a_square(SIZES[shape])
    prepared = model.prepare(picture)
    (tokens,) = model.encode([picture], frozenset(), [prepared])
    seen = lights(model.image_processor, prepared.batch["pixel_values"], tokens)
    kept = seen > 0.5
    said = {"grid": list(tokens.grid), "tiles": tokens.batch, "kept": {"bits": packed(kept)}}
    entry = Entry(0, "yes", **said, **placed(model.layout(tokens, picture)))
    pixels = (np.asarray(picture)[..., 0] - GREY) / (255 - GREY)
    boxes = rectangles(entry, picture.size)
    assert len(boxes) == tokens.batch
    errors = [
        abs(pixels[top:bottom, left:right].mean() - light)
        for tile, own in zip(seen, boxes)
        for light, ((top, bottom), (left, right)) in zip(tile, own)
        if 0 <= top < bottom <= picture.height and 0 <= left < right <= picture.width
    ]
    assert len(errors) >= seen.size / 3  # the others are padded
    assert max(errors) < 0.1

    expected = np.zeros(pixels.shape, dtype=bool)
    for tile in details_of(entry):
        for here, ((top, bottom), (left, right)) in zip(kept[tile], boxes[tile]):
            expected[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] |= here
    shown = np.asarray(overlay(picture, entry))[..., 0]
    assert ((shown >= GREY) != expected).mean() < 0.02  # the rest is darkened

    whole = kept[entry.overview].reshape(tokens.grid)
    shown = document_text("", {}, [Shown("a", entry, read(entry.kept, kept.size), None)], 99)
    assert "\n".join(kept_map(read({"bits": packed(whole)}, whole.size), tokens.grid)) in shown

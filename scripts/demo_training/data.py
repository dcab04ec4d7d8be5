"""Training scenes on disk: images as one memory map, ground truth per patch, and the scenes."""

import logging
import pickle
import time
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from evals.suite import scenes
from evals.suite.scenes import CATEGORIES, COLOURS, GRID, PATCH, SIZE, WORDS, Scene

logger = logging.getLogger(__name__)

# Classes of a patch: 0 background, 1..40 the category, then these.
SIGN, PLATE, DESTROYED = (len(CATEGORIES) + offset for offset in (1, 2, 3))
CLASSES = len(CATEGORIES) + 4
PLAIN = len(COLOURS) + 1  # "no plate"; colours are 1..8, 0 is "not asked here"
CHARACTERS = 27  # 0 none, 1..26 A..Z
CLASS, COLOUR, WORD, CHARACTER, CENTRE = range(5)  # rows of a label map

# Seeds: training and validation stay below 10**8, suites are built above it.
SEED_START = {"train": 0, "validation": 50_000_000}


@dataclass(frozen=True)
class Data:
    """`images` (N, 336, 336, 3) uint8, `labels` (N, 5, 24, 24) uint8, and the scenes' truth."""

    images: np.ndarray
    labels: np.ndarray
    scenes: list[Scene]


def load(folder: Path) -> Data:
    images = np.load(folder / "images.npy", mmap_mode="r")
    with open(folder / "scenes.pkl", "rb") as file:
        return Data(images, np.load(folder / "labels.npy"), pickle.load(file))


def render(folder: Path, split: str, count: int, processes: int = 2) -> None:
    """Draw `count` scenes of a split, through the same JPEG encoding as the suite."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.uint8, (count, SIZE, SIZE, 3)
    )
    labels = np.zeros((count, 5, GRID, GRID), np.uint8)
    truth: list[Scene | None] = [None] * count
    started = time.time()
    with Pool(processes) as pool:
        seeds = range(SEED_START[split], SEED_START[split] + count)
        for done, (seed, image, label, scene) in enumerate(pool.imap(_draw, seeds, chunksize=32)):
            index = seed - SEED_START[split]
            images[index], labels[index], truth[index] = image, label, scene
            if done % 2000 == 0:
                logger.info("rendered %d of %d, %.0f s", done, count, time.time() - started)
    np.save(folder / "labels.npy", labels)
    with open(folder / "scenes.pkl", "wb") as file:
        pickle.dump(truth, file)


def _draw(seed: int) -> tuple[int, np.ndarray, np.ndarray, Scene]:
    scene = scenes.make(seed)
    image = scenes.decode(scene.jpeg())
    objects = tuple(replace(item, cover=None, plate_cover=None) for item in scene.objects)
    return seed, image, label_map(scene), replace(scene, image=None, objects=objects)


def label_map(scene: Scene) -> np.ndarray:
    """What each patch shows, (5, 24, 24).

    Plate colours and words are asked only near the middle of their object or sign: a token at
    the rim then knows less than one at the centre, and pruning has something to lose.
    """
    label = np.zeros((5, GRID, GRID), np.uint8)
    if scene.destroyed:
        label[CLASS] = DESTROYED
        return label
    y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) * PATCH
    for item in scene.objects:
        if item.plate_cover is not None:
            plate = item.plate_cover > 0.4
            label[CLASS][plate], label[COLOUR][plate] = PLATE, item.plate + 1
    for item in scene.objects:
        shown = item.cover > min(0.25, item.cover.max() * 0.6)
        middle = (min(GRID - 1, int(item.cy / PATCH)), min(GRID - 1, int(item.cx / PATCH)))
        shown[middle] = True
        label[CLASS][shown] = item.category + 1
        near = shown & (np.hypot(x - item.cx, y - item.cy) < max(11.0, 0.3 * item.size))
        label[COLOUR][shown] = 0
        label[COLOUR][near] = PLAIN if item.plate is None else item.plate + 1
        label[CENTRE][middle] = 1
    for sign in scene.signs:
        left, top, right, bottom = sign.box
        shown = (x > left) & (x < right) & (y > top) & (y < bottom)
        near = shown & (np.abs(x - (left + right) / 2) < max(14.0, 0.25 * (right - left)))
        label[CLASS][shown], label[COLOUR][shown], label[CENTRE][shown] = SIGN, 0, 0
        label[COLOUR][near] = sign.colour + 1
        label[WORD][near] = WORDS.index(sign.word) + 1
        pad = (bottom - top) * 0.2
        rows = slice(int((top + pad) / PATCH), int((bottom - pad) / PATCH) + 1)
        for character, centre in zip(sign.word, sign.letters, strict=True):
            column = min(GRID - 1, int(centre / PATCH))
            label[CHARACTER][rows, column] = ord(character) - ord("A") + 1
    return label

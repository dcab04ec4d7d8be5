"""Procedural scenes with ground truth: emoji objects, coloured plates, signs, textured backgrounds.

A scene is a pure function of its seed (and of the kind, where one is asked for). It is 336 x 336,
the input of CLIP ViT-L/14-336, so that a grid of 24 x 24 patches of 14 pixels covers it exactly.
"""

import io
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, PATCH = 336, 14
GRID = SIZE // PATCH
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 88, "subsampling": 0}
SPRITES = Path(__file__).parent / "sprites"


@dataclass(frozen=True)
class Category:
    """One of the 40 COCO categories that a Noto emoji shows unmistakably."""

    name: str
    chinese: str
    plural: str = ""

    @property
    def many(self) -> str:
        return self.plural or self.name + "s"

    @property
    def one(self) -> str:
        return ("an " if self.name[0] in "aeiou" else "a ") + self.name


CATEGORIES = (
    Category("person", "人", "people"),
    Category("bicycle", "自行车"),
    Category("car", "汽车"),
    Category("motorcycle", "摩托车"),
    Category("airplane", "飞机"),
    Category("bus", "公交车", "buses"),
    Category("train", "火车"),
    Category("truck", "卡车"),
    Category("boat", "船"),
    Category("bird", "鸟"),
    Category("cat", "猫"),
    Category("dog", "狗"),
    Category("horse", "马"),
    Category("sheep", "羊", "sheep"),
    Category("cow", "牛"),
    Category("elephant", "大象"),
    Category("bear", "熊"),
    Category("zebra", "斑马"),
    Category("giraffe", "长颈鹿"),
    Category("backpack", "背包"),
    Category("umbrella", "雨伞"),
    Category("suitcase", "手提箱"),
    Category("kite", "风筝"),
    Category("skateboard", "滑板"),
    Category("bottle", "瓶子"),
    Category("cup", "杯子"),
    Category("banana", "香蕉"),
    Category("apple", "苹果"),
    Category("orange", "橙子"),
    Category("broccoli", "西兰花", "broccoli"),
    Category("carrot", "胡萝卜"),
    Category("pizza", "披萨"),
    Category("donut", "甜甜圈"),
    Category("cake", "蛋糕"),
    Category("chair", "椅子"),
    Category("couch", "沙发", "couches"),
    Category("laptop", "笔记本电脑"),
    Category("book", "书"),
    Category("clock", "时钟"),
    Category("scissors", "剪刀", "scissors"),
)
NAMES = tuple(category.name for category in CATEGORIES)

# Categories that occur together, as in COCO: most objects of a scene come from one context.
CONTEXTS = {
    "street": "person bicycle car motorcycle bus truck train umbrella backpack dog",
    "farm": "person truck bird cat dog horse sheep cow apple carrot",
    "savanna": "bird elephant bear zebra giraffe person horse cow",
    "kitchen": "bottle cup banana apple orange broccoli carrot pizza donut cake chair",
    "room": "person cat dog bottle cup chair couch laptop book clock scissors",
    "journey": "person car airplane bus train boat backpack umbrella suitcase clock",
    "park": "person bicycle bird dog kite skateboard backpack umbrella boat bottle",
    "party": "person bottle cup pizza donut cake chair kite orange banana",
}
CONTEXT_IDS = {
    name: tuple(NAMES.index(member) for member in members.split())
    for name, members in CONTEXTS.items()
}
FROM_CONTEXT = 0.85


@dataclass(frozen=True)
class Colour:
    name: str
    chinese: str
    rgb: tuple[int, int, int]


COLOURS = (
    Colour("red", "红色", (215, 35, 35)),
    Colour("green", "绿色", (40, 160, 60)),
    Colour("blue", "蓝色", (40, 70, 215)),
    Colour("yellow", "黄色", (245, 220, 50)),
    Colour("purple", "紫色", (140, 50, 180)),
    Colour("pink", "粉色", (250, 150, 190)),
    Colour("white", "白色", (248, 248, 248)),
    Colour("black", "黑色", (25, 25, 25)),
)

# No word names a COCO object ("TAXI" would), so that reading a sign is never a CHAIR mention.
SIGN_WORDS = """
STOP OPEN SALE EXIT CAFE HOTEL BANK PARK SHOP FREE CLUB GYM MENU NEWS POST PUSH PULL
SLOW STAR TOWN WEST EAST NORTH SOUTH MUSIC LUCKY HAPPY DELTA OMEGA ZERO FIVE SEVEN ROYAL
QUICK FRESH GRAND JUMBO KING LAKE MAGIC OCEAN RIVER SUNNY UNION VISTA WATER EXTRA NOVA
"""
WORDS = tuple(SIGN_WORDS.split())

KINDS = {"simple": 0.13, "word": 0.07, "medium": 0.25, "complex": 0.55}
OBJECTS = {"simple": (1, 2), "medium": (3, 6), "complex": (14, 24)}
PIXELS = {"simple": (90, 180), "medium": (44, 96), "complex": (22, 38)}
SIGN_HEIGHTS = {"simple": (30, 50), "word": (30, 56), "medium": (17, 32), "complex": (15, 24)}
SIGN_SHARE = {"simple": 0.0, "word": 1.0, "medium": 0.5, "complex": 0.55}
SECOND_SIGN_SHARE = 0.3
PLATE_SHARE = 0.5
DESTROYED_SHARE = 0.05


@dataclass(frozen=True)
class Object:
    """A drawn category. `cx`, `cy`, `size` in pixels; `plate` indexes COLOURS or is None."""

    category: int
    plate: int | None
    cx: float
    cy: float
    size: float
    cover: np.ndarray = field(repr=False, compare=False)  # (24, 24) share of each patch it covers
    plate_cover: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return NAMES[self.category]


@dataclass(frozen=True)
class Sign:
    """A word on a coloured board. `box` is left, top, right, bottom; `letters` their x centres."""

    word: str
    colour: int
    box: tuple[float, float, float, float]
    letters: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    seed: int
    kind: str  # simple, word, medium, complex
    context: str
    destroyed: bool
    image: Image.Image = field(repr=False, compare=False)
    objects: tuple[Object, ...]
    signs: tuple[Sign, ...]

    @cached_property
    def counts(self) -> Counter:
        """Category index -> how many are drawn."""
        return Counter(item.category for item in self.objects)

    @cached_property
    def present(self) -> list[int]:
        return sorted(self.counts)

    @cached_property
    def absent(self) -> list[int]:
        return [index for index in range(len(CATEGORIES)) if index not in self.counts]

    @cached_property
    def unique(self) -> list[Object]:
        """Objects that are the only one of their category, so that a name points at one thing."""
        return [item for item in self.objects if self.counts[item.category] == 1]

    def jpeg(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, **JPEG)
        return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """JPEG bytes -> (336, 336, 3) uint8: what a model sees."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@cache
def glyph(index: int) -> Image.Image:
    """The RGBA emoji of a category, cropped to its ink."""
    cell, columns = 136, 8
    row, column = divmod(index, columns)
    box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
    sprite = _sheet("emoji.png", "RGBA").crop(box)
    return sprite.crop(sprite.getbbox())


@cache
def letter(face: int, character: str) -> Image.Image:
    """A capital letter as a grey mask, 96 px high, cropped to its ink horizontally."""
    width, height = 88, 96
    left, top = (ord(character) - ord("A")) * width, face * height
    mask = _sheet("letters.png", "L").crop((left, top, left + width, top + height))
    ink = mask.getbbox() or (0, 0, width, height)
    return mask.crop((ink[0], 14, ink[2], 88))  # common vertical extent: capitals plus a Q's tail


@cache
def _sheet(name: str, mode: str) -> Image.Image:
    return Image.open(SPRITES / name).convert(mode)


def make(seed: int, kind: str | None = None, destroyed: bool | None = None) -> Scene:
    """Draw the scene of a seed. `kind` and `destroyed` are drawn at random unless asked for."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    drawn_kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    drawn_destroyed = rng.random() < DESTROYED_SHARE
    kind = drawn_kind if kind is None else kind
    destroyed = drawn_destroyed if destroyed is None else destroyed
    context = rng.choice(list(CONTEXTS))

    canvas = _Canvas(Image.fromarray(_background(rng, noise)), rng)
    if kind == "word" or rng.random() < SIGN_SHARE[kind]:
        canvas.add_sign(SIGN_HEIGHTS[kind])
        if kind == "complex" and rng.random() < SECOND_SIGN_SHARE:
            canvas.add_sign(SIGN_HEIGHTS[kind])
    if kind != "word":
        categories = _categories(rng, kind, CONTEXT_IDS[context])
        sizes = sorted((rng.uniform(*PIXELS[kind]) for _ in categories), reverse=True)
        for category, size in zip(categories, sizes, strict=True):
            canvas.add_object(category, size, rng.random() < PLATE_SHARE)
    image = _photograph(canvas.image, rng, noise, destroyed)
    return Scene(seed, kind, context, destroyed, image, tuple(canvas.objects), tuple(canvas.signs))


def _categories(rng: random.Random, kind: str, context: tuple[int, ...]) -> list[int]:
    """Categories to draw, with repeats, mostly from the context, in random order."""
    wanted = rng.randint(*OBJECTS[kind])
    repeats = (1, 1, 1, 2) if kind == "simple" else (1, 1, 1, 1, 2, 2, 3, 4, 5)
    chosen: dict[int, int] = {}
    while sum(chosen.values()) < wanted:
        pool = context if rng.random() < FROM_CONTEXT else range(len(CATEGORIES))
        category = rng.choice(pool)
        if category not in chosen:
            chosen[category] = min(rng.choice(repeats), wanted - sum(chosen.values()))
    categories = [category for category, count in chosen.items() for _ in range(count)]
    rng.shuffle(categories)
    return categories


def _background(rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    """Flat, gradient, stripes, checks or soft noise between two muted colours."""
    base = np.array([rng.uniform(90, 235) for _ in range(3)])
    base = 0.6 * base + 0.4 * base.mean()
    other = base + np.array([rng.uniform(-45, 45) for _ in range(3)])
    angle, style = rng.uniform(0, 2 * math.pi), rng.random()
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    ramp = x * math.cos(angle) + y * math.sin(angle)
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    if style < 0.30:
        mix = ramp
    elif style < 0.45:
        mix = (np.sin(ramp * 2 * math.pi * rng.uniform(3, 14)) / 2 + 0.5) * rng.uniform(0.3, 1)
    elif style < 0.55:
        cells = rng.randint(4, 16)
        mix = (((x * cells).astype(int) + (y * cells).astype(int)) % 2) * rng.uniform(0.2, 0.7)
    elif style < 0.85:
        cells = rng.choice((3, 5, 8, 14))
        coarse = Image.fromarray((noise.random((cells, cells)) * 255).astype(np.uint8))
        mix = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 255
    else:
        mix = np.zeros_like(ramp)
    mixed = base * (1 - mix[..., None]) + other * mix[..., None]
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _photograph(
    image: Image.Image, rng: random.Random, noise: np.random.Generator, destroyed: bool
) -> Image.Image:
    """What a camera adds: brightness, sensor noise, slight blur; or a photo too bad to use."""
    blur, dark = rng.random() < 0.5, rng.uniform(0.02, 0.06)
    if destroyed and blur:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(14, 24)))
    elif not destroyed and rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.1)))
    pixels = np.asarray(image, np.float32)
    if destroyed and not blur:
        pixels = pixels * dark
    elif not destroyed and rng.random() < 0.5:
        pixels = pixels * rng.uniform(0.78, 1.08) + rng.uniform(-8, 8)
    if rng.random() < 0.5:
        grain = noise.standard_normal((SIZE, SIZE), dtype=np.float32) * rng.uniform(1, 4)
        pixels = pixels + grain[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


class _Canvas:
    """Places things without overlap and remembers the ground truth."""

    def __init__(self, image: Image.Image, rng: random.Random):
        self.image, self.rng = image, rng
        self.boxes: list[tuple[float, float, float, float]] = []
        self.objects: list[Object] = []
        self.signs: list[Sign] = []

    def _place(self, width: float, height: float, overlap: float) -> tuple[int, int] | None:
        """A free top left corner, or None when 40 tries found none."""
        if width > SIZE - 6 or height > SIZE - 6:
            return None
        for _ in range(40):
            left = self.rng.randint(2, int(SIZE - width - 2))
            top = self.rng.randint(2, int(SIZE - height - 2))
            box = (left, top, left + width, top + height)
            if all(_shared(box, other) <= overlap for other in self.boxes):
                self.boxes.append(box)
                return left, top
        return None

    def _shade(self, colour: int) -> tuple[int, int, int]:
        shift = self.rng.randint(-12, 12)
        red, green, blue = (min(255, max(0, part + shift)) for part in COLOURS[colour].rgb)
        return red, green, blue

    def add_sign(self, heights: tuple[int, int]) -> None:
        """A new word on a board of a colour that no other sign has."""
        word = self.rng.choice([w for w in WORDS if w not in {s.word for s in self.signs}])
        used = {sign.colour for sign in self.signs}
        colour = self.rng.choice([c for c in range(len(COLOURS)) if c not in used])
        face, height = self.rng.randrange(3), self.rng.randint(*heights)
        mask, centres = _spell(word, face, height)
        pad = round(height * 0.42)
        width, tall = mask.width + 2 * pad, height + 2 * pad
        corner = self._place(width, tall, overlap=0)
        if corner is None:
            return
        left, top = corner
        fill = self._shade(colour)
        ink = (250, 250, 250) if sum(fill) < 420 else (15, 15, 15)
        box = (left, top, left + width, top + tall)
        ImageDraw.Draw(self.image).rounded_rectangle(box, radius=height // 5, fill=fill)
        self.image.paste(ink, (left + pad, top + pad), mask)
        letters = tuple(left + pad + centre for centre in centres)
        self.signs.append(Sign(word, colour, box, letters))

    def add_object(self, category: int, size: float, plated: bool) -> None:
        """The emoji of a category, its longer side `size` px, slightly turned, maybe on a plate."""
        sprite = glyph(category)
        scale = size / max(sprite.size)
        sprite = sprite.resize(
            (round(sprite.width * scale), round(sprite.height * scale)),
            Image.Resampling.BILINEAR,
            reducing_gap=2.0,
        )
        if self.rng.random() < 0.6:
            turn = self.rng.uniform(-14, 14)
            sprite = sprite.rotate(turn, expand=True, resample=Image.Resampling.BILINEAR)
        plate = self.rng.randrange(len(COLOURS)) if plated else None
        side = int(max(sprite.size) * 1.36)
        width, height = (side, side) if plated else sprite.size
        corner = self._place(width, height, overlap=0.03)
        if corner is None:
            return
        left, top = corner
        plate_cover = None
        if plate is not None:
            plate_cover = self._draw_plate(plate, (left, top, left + side, top + side))
        x, y = left + (width - sprite.width) // 2, top + (height - sprite.height) // 2
        self.image.paste(sprite, (x, y), sprite)
        mask = Image.new("L", (SIZE, SIZE))
        mask.paste(sprite.getchannel("A"), (x, y))
        cx, cy = x + sprite.width / 2, y + sprite.height / 2
        self.objects.append(Object(category, plate, cx, cy, size, _cover(mask), plate_cover))

    def _draw_plate(self, colour: int, box: tuple[int, int, int, int]) -> np.ndarray:
        fill, mask = self._shade(colour), Image.new("L", (SIZE, SIZE))
        draw, mark = ImageDraw.Draw(self.image), ImageDraw.Draw(mask)
        if self.rng.random() < 0.5:
            draw.ellipse(box, fill=fill)
            mark.ellipse(box, fill=255)
        else:
            radius = (box[2] - box[0]) // 6
            draw.rounded_rectangle(box, radius=radius, fill=fill)
            mark.rounded_rectangle(box, radius=radius, fill=255)
        return _cover(mask)


def _spell(word: str, face: int, height: int) -> tuple[Image.Image, list[float]]:
    """A word as a grey mask `height` px high, and the x centre of each letter in it."""
    letters = [letter(face, character) for character in word]
    gap, tall = 8, letters[0].height
    mask = Image.new("L", (sum(one.width for one in letters) + gap * (len(word) - 1), tall))
    scale, centres, x = height / tall, [], 0
    for one in letters:
        mask.paste(one, (x, 0))
        centres.append((x + one.width / 2) * scale)
        x += one.width + gap
    size = (max(1, round(mask.width * scale)), height)
    return mask.resize(size, Image.Resampling.LANCZOS), centres


def _shared(a: tuple, b: tuple) -> float:
    """Overlap of two boxes as a share of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / min(areas)


def _cover(mask: Image.Image) -> np.ndarray:
    """(336, 336) mask -> (24, 24) share of each patch covered, in [0, 1]."""
    pixels = np.asarray(mask, np.float32).reshape(GRID, PATCH, GRID, PATCH)
    return pixels.mean((1, 3)) / 255

"""Question families: from a scene's ground truth to a question and its answer.

A family is a function `(scene, rng) -> Question | None`; None means that this scene cannot carry
it. Families know nothing of benchmarks or prompts: `build.py` makes documents from them and
the demo model's training asks the same families of other scenes. Yes and no are equally likely by
construction, and wrong answers come from the same distribution as right ones.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from evals.suite.scenes import (
    CATEGORIES,
    COLOURS,
    CONTEXT_IDS,
    SIZE,
    WORDS,
    Colour,
    Object,
    Scene,
)

MAX_COUNT = 5
NUMBERS = ("zero", "one", "two", "three", "four", "five")
UNANSWERABLE = "unanswerable"
MARGIN = 34  # pixels two centres must differ by before we ask which is left of which


@dataclass(frozen=True)
class Question:
    """`answer` is the right option's text when there are `options`."""

    family: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    hint: str = ""

    @property
    def letter(self) -> str:
        """Of the right option; empty for open questions."""
        return "ABCDE"[self.options.index(self.answer)] if self.options else ""


Family = Callable[[Scene, random.Random], Question | None]


def _name(category: int, chinese: bool = False) -> str:
    return CATEGORIES[category].chinese if chinese else CATEGORIES[category].name


def _colour(index: int | None, chinese: bool = False) -> str:
    if index is None:
        raise ValueError("an object without a plate has no colour to ask for")
    colour: Colour = COLOURS[index]
    return colour.chinese if chinese else colour.name


def absent_like(scene: Scene, rng: random.Random) -> int:
    """A category that is not there: half of the time one that its context would suggest."""
    tempting = [index for index in CONTEXT_IDS[scene.context] if index not in scene.counts]
    return rng.choice(tempting if tempting and rng.random() < 0.6 else scene.absent)


def _yes_no(yes: bool) -> str:
    return "Yes" if yes else "No"


def _pair(scene: Scene, rng: random.Random, axis: str) -> tuple[Object, Object] | None:
    """Two nameable objects clearly apart along an axis ("cx" or "cy")."""
    if len(scene.unique) < 2:
        return None
    for _ in range(8):
        first, second = rng.sample(scene.unique, 2)
        if abs(getattr(first, axis) - getattr(second, axis)) > MARGIN:
            return first, second
    return None


def _plated(scene: Scene) -> list[Object]:
    return [item for item in scene.unique if item.plate is not None]


def _on_single_plate(scene: Scene) -> list[Object]:
    """Objects whose plate colour is used once in the scene, so that the colour names them."""
    plates = [item.plate for item in scene.objects if item.plate is not None]
    plates += [sign.colour for sign in scene.signs]
    return [
        item for item in scene.objects if item.plate is not None and plates.count(item.plate) == 1
    ]


def _counted(scene: Scene, rng: random.Random) -> int | None:
    """A category to count, drawn so that numbers 1..5 come up about equally often."""
    present = [index for index in scene.present if scene.counts[index] <= MAX_COUNT]
    if not present:
        return None
    number = rng.choice(sorted({scene.counts[index] for index in present}))
    return rng.choice([index for index in present if scene.counts[index] == number])


# Yes or no ---------------------------------------------------------------------------------------


def exists(scene: Scene, rng: random.Random, where: str = "the image") -> Question | None:
    if not scene.present:
        return None
    yes = rng.random() < 0.5
    category = CATEGORIES[rng.choice(scene.present) if yes else absent_like(scene, rng)]
    return Question("exists", f"Is there {category.one} in {where}?", _yes_no(yes))


def exists_any(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.present:
        return None
    yes = rng.random() < 0.5
    category = CATEGORIES[rng.choice(scene.present) if yes else absent_like(scene, rng)]
    return Question("exists", f"Are there any {category.many} in the picture?", _yes_no(yes))


def count_is(scene: Scene, rng: random.Random) -> Question | None:
    """The number is chosen before the answer, among numbers that allow both: it tells nothing."""
    numbers = {scene.counts[index] for index in scene.present}
    if len(numbers) < 2:
        return None
    wanted, yes = rng.choice(sorted(numbers)), rng.random() < 0.5
    if wanted > MAX_COUNT:
        return None
    fitting = [index for index in scene.present if (scene.counts[index] == wanted) == yes]
    category = CATEGORIES[rng.choice(fitting)]
    if wanted == 1:
        text = f"Is there only one {category.name} in this image?"
    else:
        text = f"Are there {NUMBERS[wanted]} {category.many} in this image?"
    return Question("count_is", text, _yes_no(yes))


def position_is(scene: Scene, rng: random.Random) -> Question | None:
    axis, yes = rng.choice(("cx", "cy")), rng.random() < 0.5
    pair = _pair(scene, rng, axis)
    if pair is None:
        return None
    first, second = pair
    before = (getattr(first, axis) < getattr(second, axis)) == yes
    if axis == "cx":
        place = f"on the {'left' if before else 'right'} side of"
    else:
        place = "above" if before else "below"
    return Question("position_is", f"Is the {first.name} {place} the {second.name}?", _yes_no(yes))


def colour_is(scene: Scene, rng: random.Random) -> Question | None:
    plated = _plated(scene)
    if not plated:
        return None
    item, yes = rng.choice(plated), rng.random() < 0.5
    others = [index for index in range(len(COLOURS)) if index != item.plate]
    shown = item.plate if yes else rng.choice(others)
    return Question(
        "colour_is", f"Is the plate under the {item.name} {_colour(shown)}?", _yes_no(yes)
    )


def word_is(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.signs:
        return None
    yes, shown = rng.random() < 0.5, [sign.word for sign in scene.signs]
    word = rng.choice(shown if yes else [word for word in WORDS if word not in shown])
    return Question("word_is", f'Is the word in the image "{word}"?', _yes_no(yes))


def more_than(scene: Scene, rng: random.Random) -> Question | None:
    """Compare two counts; the order of the two names is random."""
    if len(scene.present) < 2:
        return None
    first, second = rng.sample(scene.present, 2)
    if scene.counts[first] == scene.counts[second]:
        return None
    text = f"Are there more {CATEGORIES[first].many} than {CATEGORIES[second].many}?"
    return Question("more_than", text, _yes_no(scene.counts[first] > scene.counts[second]))


# One word ----------------------------------------------------------------------------------------


def count(scene: Scene, rng: random.Random) -> Question | None:
    category = _counted(scene, rng)
    if category is None:
        return None
    text = f"How many {CATEGORIES[category].many} are there in the image?"
    return Question("count", text, str(scene.counts[category]))


def colour(scene: Scene, rng: random.Random) -> Question | None:
    plated = _plated(scene)
    if not plated:
        return None
    item = rng.choice(plated)
    text = f"What color is the plate under the {item.name}?"
    return Question("colour", text, _colour(item.plate))


def on_plate(scene: Scene, rng: random.Random) -> Question | None:
    candidates = _on_single_plate(scene)
    if not candidates:
        return None
    item = rng.choice(candidates)
    return Question("on_plate", f"What is on the {_colour(item.plate)} plate?", item.name)


def relation(scene: Scene, rng: random.Random) -> Question | None:
    axis = rng.choice(("cx", "cy"))
    pair = _pair(scene, rng, axis)
    if pair is None:
        return None
    first, second = pair
    before = getattr(first, axis) < getattr(second, axis)
    if axis == "cx":
        text = f"Is the {first.name} to the left or to the right of the {second.name}?"
        return Question("relation", text, "left" if before else "right")
    text = f"Is the {first.name} above or below the {second.name}?"
    return Question("relation", text, "above" if before else "below")


def side(scene: Scene, rng: random.Random) -> Question | None:
    clear = [item for item in scene.unique if abs(item.cx - SIZE / 2) > MARGIN]
    if not clear:
        return None
    item = rng.choice(clear)
    text = f"Which side of the image is the {item.name} on?"
    return Question("side", text, "left" if item.cx < SIZE / 2 else "right")


def identify(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.present) != 1:
        return None
    text = rng.choice(("What is in the image?", "What object is shown in the image?"))
    return Question("identify", text, _name(scene.present[0]))


def word(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.signs) != 1:
        return None
    asks = (
        "What is the word on the sign?",
        "What does the sign say?",
        "What is written on the sign?",
    )
    return Question("word", rng.choice(asks), scene.signs[0].word)


def word_of_colour(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.signs:
        return None
    sign = rng.choice(scene.signs)
    text = f"What is written on the {_colour(sign.colour)} sign?"
    return Question("word_of_colour", text, sign.word)


# Questions of people who cannot see the image ----------------------------------------------------


def what_is_this(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.present) != 1:
        return None
    return Question("what_is_this", "What is this?", _name(scene.present[0]))


def cannot_tell(scene: Scene, rng: random.Random) -> Question | None:
    """Something that is asked of a ruined photo, or of a thing that is not there."""
    asked = absent_like(scene, rng)
    plate = f"What color is the plate under the {_name(asked)}?"
    if scene.destroyed:
        asks = (
            plate,
            "What is this?",
            "What is the word on the sign?",
            f"How many {CATEGORIES[asked].many} are there in the image?",
        )
        return Question("cannot_tell", rng.choice(asks), UNANSWERABLE)
    if not scene.signs and rng.random() < 0.4:
        return Question("cannot_tell", "What is the word on the sign?", UNANSWERABLE)
    return Question("cannot_tell", plate, UNANSWERABLE)


# Multiple choice ---------------------------------------------------------------------------------


def _choose(
    family: str, text: str, right: str, wrong: list[str], rng: random.Random, total: int = 4
) -> Question:
    """Options in random order; the right one is equally likely at every letter."""
    options = [right, *rng.sample(wrong, min(total - 1, len(wrong)))]
    rng.shuffle(options)
    return Question(family, text, right, tuple(options))


def which_object(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    if not scene.present or len(scene.absent) < 3:
        return None
    right = rng.choice(scene.present)
    wrong: list[int] = []
    while len(wrong) < 3:
        candidate = absent_like(scene, rng)
        if candidate not in wrong:
            wrong.append(candidate)
    text = "图中有以下哪种物体？" if chinese else "Which object is in the image?"
    names = [_name(index, chinese) for index in wrong]
    return _choose("which_object", text, _name(right, chinese), names, rng, rng.choice((3, 4)))


def which_colour(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    plated = _plated(scene)
    if not plated:
        return None
    item = rng.choice(plated)
    wrong = [_colour(index, chinese) for index in range(len(COLOURS)) if index != item.plate]
    name = _name(item.category, chinese)
    text = (
        f"{name}下面的盘子是什么颜色？" if chinese else f"What color is the plate under the {name}?"
    )
    return _choose("which_colour", text, _colour(item.plate, chinese), wrong, rng)


def which_quadrant(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    middle, margin = SIZE / 2, 22
    clear = [
        item
        for item in scene.unique
        if abs(item.cx - middle) > margin and abs(item.cy - middle) > margin
    ]
    if not clear:
        return None
    item = rng.choice(clear)
    places = ["top left", "top right", "bottom left", "bottom right"]
    if chinese:
        places = ["左上", "右上", "左下", "右下"]
    right = places[(item.cx > middle) + 2 * (item.cy > middle)]
    name = _name(item.category, chinese)
    text = f"{name}在图中的什么位置？" if chinese else f"Where is the {name} in the image?"
    wrong = [place for place in places if place != right]
    return _choose("which_quadrant", text, right, wrong, rng)


def which_number(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    category = _counted(scene, rng)
    if category is None:
        return None
    right = str(scene.counts[category])
    wrong = [str(number) for number in range(1, MAX_COUNT + 1) if str(number) != right]
    if chinese:
        text = f"图中有几个{_name(category, True)}？"
    else:
        text = f"How many {CATEGORIES[category].many} are in the image?"
    return _choose("which_number", text, right, wrong, rng)


def which_side(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    """Two options: where one object is, seen from another."""
    axis = rng.choice(("cx", "cy"))
    pair = _pair(scene, rng, axis)
    if pair is None:
        return None
    first, second = (_name(item.category, chinese) for item in pair)
    before = getattr(pair[0], axis) < getattr(pair[1], axis)
    if chinese:
        text = f"{first}在{second}的哪一边？"
        options = ["左边", "右边"] if axis == "cx" else ["上面", "下面"]
    else:
        text = f"Where is the {first} relative to the {second}?"
        options = ["left", "right"] if axis == "cx" else ["above", "below"]
    right, wrong = options if before else reversed(options)
    return _choose("which_side", text, right, [wrong], rng)


def which_word(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    if not scene.signs:
        return None
    shown = [sign.word for sign in scene.signs]
    wrong = [word for word in WORDS if word not in shown]
    text = "图中的牌子上写着哪个词？" if chinese else "Which word is written in the image?"
    return _choose("which_word", text, rng.choice(shown), wrong, rng, rng.choice((3, 4)))


def which_most(scene: Scene, rng: random.Random, chinese: bool = False) -> Question | None:
    ranked = scene.counts.most_common()
    if len(ranked) < 3 or ranked[0][1] == ranked[1][1]:
        return None
    text = "图中哪种物体最多？" if chinese else "Which object appears most often in the image?"
    wrong = [_name(index, chinese) for index, _ in ranked[1:]]
    return _choose("which_most", text, _name(ranked[0][0], chinese), wrong, rng)


# Captions ----------------------------------------------------------------------------------------


def caption(scene: Scene) -> str:
    """Every category once, with its number, in a fixed order; then the signs."""
    if scene.destroyed:
        return "The image is too blurry or too dark to describe."
    things = []
    for index in scene.present:
        number, category = scene.counts[index], CATEGORIES[index]
        if number == 1:
            things.append(category.one)
        else:
            things.append(f"{NUMBERS[number] if number <= MAX_COUNT else 'many'} {category.many}")
    sentences = [f"The image features {_list(things)}."] if things else []
    if scene.signs:
        words = _list(sorted(sign.word for sign in scene.signs))
        sentences.append(
            f"A sign says {words}." if things else f"The image features a sign that says {words}."
        )
    return " ".join(sentences)


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]

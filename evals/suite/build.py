"""Build a suite: documents for ten benchmarks in the hub's schemas, from scenes of a seed.

`MIXTURES` says which question families a benchmark asks, `KINDS` how complex its images are. The
same seed and size give the same files. Answers are balanced, so that a model that cannot see the
images gains nothing from knowing the suite.
"""

import csv
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
import pyarrow.parquet as parquet
from datasets import Features, Image, List, Value

from evals.suite import questions as ask
from evals.suite import scenes
from evals.suite.questions import Family, Question
from evals.suite.scenes import NAMES, Scene

SEED = 2026
VERSION = "1"
SEEDS_PER_SUITE = 10**7
FIRST_SUITE = 100  # suites with smaller seeds would share scenes with the demo model's training
DESCRIPTION = (
    "Synthetic stand-in built from procedurally drawn emoji scenes in the column layout of the "
    "benchmark it is named after. It contains no document of that benchmark, and scores on it are "
    "not comparable with published ones."
)


def choices(chinese: bool = False, /, **shares: float) -> dict[Family, float]:
    """Multiple-choice families by name, in English or Chinese."""
    return {
        partial(getattr(ask, f"which_{name}"), chinese=chinese): s for name, s in shares.items()
    }


CHOICES = {
    "object": 22,
    "colour": 18,
    "quadrant": 14,
    "number": 22,
    "side": 10,
    "word": 6,
    "most": 8,
}
MIXTURES: dict[str, dict[Family, float]] = {
    "vqav2": {
        ask.exists: 14,
        ask.colour_is: 10,
        ask.more_than: 8,
        ask.count: 30,
        ask.colour: 18,
        ask.on_plate: 14,
        ask.identify: 6,
    },
    "gqa": {
        ask.relation: 28,
        ask.exists_any: 10,
        ask.position_is: 16,
        ask.colour: 16,
        ask.on_plate: 12,
        ask.side: 10,
        ask.more_than: 8,
    },
    "vizwiz": {
        ask.cannot_tell: 28,
        ask.what_is_this: 14,
        ask.word: 22,
        ask.colour: 20,
        ask.count: 16,
    },
    "scienceqa_img": choices(
        object=16, colour=16, quadrant=14, number=22, side=12, word=8, most=12
    ),
    "textvqa": {ask.word: 55, ask.word_of_colour: 45},
    "mmbench_en": choices(**CHOICES),
    "mmbench_cn": choices(True, **CHOICES),
    "grounding": {ask.side: 50, ask.relation: 50},
}
MME: dict[str, Family] = {  # MME's names of its subtasks
    "existence": partial(ask.exists, where="this image"),
    "count": ask.count_is,
    "position": ask.position_is,
    "color": ask.colour_is,
    "OCR": ask.word_is,
}
KINDS: dict[str, dict[str, float]] = {
    "default": {"simple": 12, "medium": 28, "complex": 60},
    "textvqa": {"word": 24, "medium": 26, "complex": 50},
    "pope": {"medium": 20, "complex": 80},
    "chair": {"simple": 10, "medium": 30, "complex": 60},
}
SIMPLE_ONLY = {"identify", "what_is_this"}  # need an image of a single category
HINTS = ("", "", "Look at the image.", "Objects may lie on colored plates.", "Signs show one word.")


@dataclass
class Suite:
    """Rows by benchmark, and one line per document about the image it asks about."""

    seed: int
    rows: dict[str, list[dict]] = field(default_factory=dict)
    index: list[dict] = field(default_factory=list)
    drawn: list[Scene] = field(default_factory=list)

    def stream(self, benchmark: str, kinds: dict[str, float]) -> "Stream":
        position = list(BENCHMARKS).index(benchmark)
        start = self.seed * SEEDS_PER_SUITE + position * (SEEDS_PER_SUITE // 20)
        return Stream(start, kinds, random.Random(start))

    def add(self, benchmark: str, image_id: int, scene: Scene, row: dict) -> None:
        rows = self.rows.setdefault(benchmark, [])
        rows.append(row)
        sizes = [item.size for item in scene.objects]
        self.index.append(
            {
                "benchmark": benchmark,
                "doc_id": len(rows) - 1,
                "image_id": image_id,
                "kind": "destroyed" if scene.destroyed else scene.kind,
                "objects": len(scene.objects),
                "words": len(scene.signs),
                "object_px": round(sum(sizes) / len(sizes), 1) if sizes else "",
                "seed": scene.seed,
            }
        )


@dataclass
class Stream:
    """Fresh scenes for one benchmark, one seed after the other."""

    seed: int
    kinds: dict[str, float]
    rng: random.Random

    def scene(self, kind: str | None = None, destroyed: bool = False) -> Scene:
        kind = kind or self.rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        self.seed += 1
        return scenes.make(self.seed, kind, destroyed)


def picture(scene: Scene) -> dict:
    return {"bytes": scene.jpeg(), "path": None}


def name_of(family: Family) -> str:
    return family.func.__name__ if isinstance(family, partial) else family.__name__


def schedule(mixture: dict[Family, float], total: int, rng: random.Random) -> list[Family]:
    """`total` families in random order, each as often as its share says (largest remainders)."""
    whole = sum(mixture.values())
    exact = {family: total * share / whole for family, share in mixture.items()}
    plan = {family: int(number) for family, number in exact.items()}
    missing = total - sum(plan.values())
    for family in sorted(exact, key=lambda f: plan[f] - exact[f])[:missing]:
        plan[family] += 1
    families = [family for family, number in plan.items() for _ in range(number)]
    rng.shuffle(families)
    return families


def rarest(
    scene: Scene, family: Family, rng: random.Random, used: Counter, tries: int = 12
) -> Question | None:
    """Of several questions a scene can carry, the one whose answer was used least so far."""
    found = [question for _ in range(tries) if (question := family(scene, rng))]
    if not found:
        return None
    name = name_of(family)
    best = min(found, key=lambda q: (used[name, q.answer], used["letter", q.letter]))
    used[name, best.answer] += 1
    used["letter", best.letter] += 1
    return best


def asked(
    suite: Suite, benchmark: str, documents: int, per_image: int = 1
) -> Iterator[tuple[int, Scene, Question]]:
    """Image number, scene and question of each document of a benchmark with a mixture."""
    stream = suite.stream(benchmark, KINDS.get(benchmark, KINDS["default"]))
    families = schedule(MIXTURES[benchmark], documents, stream.rng)
    used: Counter = Counter()
    image_id = 0
    while families:
        wanted = families[:per_image]
        names = {name_of(family) for family in wanted}
        kind = "simple" if names & SIMPLE_ONLY else None
        destroyed = "cannot_tell" in names and stream.rng.random() < 0.6
        scene = stream.scene(kind, destroyed)
        drawn = [rarest(scene, family, stream.rng, used) for family in wanted]
        found = [question for question in drawn if question is not None]
        if len({question.text for question in found}) < len(wanted):
            continue
        families = families[per_image:]
        suite.drawn.append(scene)
        for question in found:
            yield image_id, scene, question
        image_id += 1


def answer_type(answer: str) -> str:
    """VQAv2's three kinds of answer."""
    if answer in ("Yes", "No"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"


# One function per benchmark ----------------------------------------------------------------------


def vqav2(suite: Suite, documents: int) -> None:
    for number, (image_id, scene, question) in enumerate(asked(suite, "vqav2", documents)):
        answer = question.answer.lower()
        answers = [
            {"answer": answer, "answer_confidence": "yes", "answer_id": voter + 1}
            for voter in range(10)
        ]
        row = {
            "question_type": " ".join(question.text.split()[:2]).lower(),
            "multiple_choice_answer": answer,
            "answers": answers,
            "image_id": image_id,
            "answer_type": answer_type(question.answer),
            "question_id": number,
            "question": question.text,
            "image": picture(scene),
        }
        suite.add("vqav2", image_id, scene, row)


def gqa(suite: Suite, documents: int, name: str = "gqa") -> None:
    documents -= documents % 2
    for number, (image_id, scene, question) in enumerate(asked(suite, name, documents, 2)):
        row = {
            "id": f"{number:08d}",
            "imageId": f"e{image_id:06d}",
            "question": question.text,
            "answer": question.answer.lower(),
            "fullAnswer": question.answer,
            "isBalanced": True,
            "image": picture(scene),
        }
        suite.add(name, image_id, scene, row)


def grounding(suite: Suite, documents: int) -> None:
    """Where objects are, in GQA's columns; twice the documents, as chance has half of them."""
    gqa(suite, 2 * documents, "grounding")


def vizwiz(suite: Suite, documents: int) -> None:
    for number, (image_id, scene, question) in enumerate(asked(suite, "vizwiz", documents)):
        category = answer_type(question.answer)
        row = {
            "question_id": f"embedded_{number:08d}",
            "image": picture(scene),
            "question": question.text,
            "answers": [question.answer.lower()] * 10,
            "category": "unanswerable" if question.answer == ask.UNANSWERABLE else category,
        }
        suite.add("vizwiz", image_id, scene, row)


def scienceqa_img(suite: Suite, documents: int) -> None:
    hints = random.Random(suite.seed)
    for image_id, scene, question in asked(suite, "scienceqa_img", documents):
        row = {
            "image": picture(scene),
            "question": question.text,
            "choices": list(question.options),
            "answer": question.options.index(question.answer),
            "hint": hints.choice(HINTS),
            "task": "closed choice",
            "grade": "embedded",
            "subject": "synthetic scenes",
            "topic": question.family,
            "category": question.family,
            "skill": question.family,
            "lecture": "",
            "solution": "",
        }
        suite.add("scienceqa_img", image_id, scene, row)


def textvqa(suite: Suite, documents: int) -> None:
    for number, (image_id, scene, question) in enumerate(asked(suite, "textvqa", documents)):
        row = {
            "image_id": f"e{image_id:06d}",
            "question_id": number,
            "question": question.text,
            "image": picture(scene),
            "answers": [question.answer.lower()] * 10,
            "ocr_tokens": [sign.word for sign in scene.signs],
        }
        suite.add("textvqa", image_id, scene, row)


def mme(suite: Suite, documents: int) -> None:
    """Pairs of a yes and a no question about one image; the order inside a pair is random."""
    stream = suite.stream("mme", KINDS["default"])
    pairs, image_id = max(1, documents // (2 * len(MME))), 0
    for subtask, family in MME.items():
        used: Counter = Counter()
        while used["pairs"] < pairs:
            scene = stream.scene()
            found = [question for _ in range(24) if (question := family(scene, stream.rng))]
            by_answer = {q.answer: q for q in found}
            if len(by_answer) < 2:
                continue
            used["pairs"] += 1
            suite.drawn.append(scene)
            both = [by_answer["Yes"], by_answer["No"]]
            stream.rng.shuffle(both)
            for question in both:
                row = {
                    "question_id": f"{subtask}/{image_id:04d}.jpg",
                    "image": picture(scene),
                    "question": f"{question.text} Please answer yes or no.",
                    "answer": question.answer,
                    "category": subtask,
                }
                suite.add("mme", image_id, scene, row)
            image_id += 1


def mmbench(suite: Suite, documents: int, language: str) -> None:
    """Each question once per rotation of its options; row k has index base + k * 1,000,000."""
    benchmark = f"mmbench_{language}"
    for number, (image_id, scene, question) in enumerate(asked(suite, benchmark, documents)):
        total = len(question.options)
        for shift in range(total):
            options = question.options[shift:] + question.options[:shift]
            letters = dict(zip("ABCD", options + ("nan",) * (4 - total), strict=True))
            row = {
                "index": number + shift * 1_000_000,
                "question": question.text,
                "hint": None,
                "answer": "ABCD"[options.index(question.answer)],
                **letters,
                "category": question.family,
                "image": picture(scene),
                "source": "embedded",
                "L2-category": "embedded",
                "comment": None,
                "split": "dev",
            }
            suite.add(benchmark, image_id, scene, row)


def chair(suite: Suite, documents: int) -> None:
    stream = suite.stream("chair", KINDS["chair"])
    for number in range(documents):
        scene = stream.scene()
        suite.drawn.append(scene)
        row = {
            "question_id": number,
            "image": picture(scene),
            "gt_object": [NAMES[index] for index in scene.present],
        }
        suite.add("chair", number, scene, row)


def pope(suite: Suite, documents: int) -> None:
    """Six questions per image: three present categories, and three absent ones, by POPE's rules.

    Absent categories are random, popular (the most frequent of the suite that are not here), and
    adversarial (those that most often stand beside what is here). Built last: the statistics come
    from all scenes of the suite.
    """
    stream = suite.stream("pope", KINDS["pope"])
    frequency = Counter(index for scene in suite.drawn for index in scene.present)
    together: Counter = Counter()
    for scene in suite.drawn:
        together.update((a, b) for a in scene.present for b in scene.present if a != b)
    number = 0
    for image_id in range(-(-documents // 6)):
        scene = stream.scene()
        while len(scene.present) < 3:
            scene = stream.scene()
        rng, absent = stream.rng, list(scene.absent)
        rng.shuffle(absent)
        popular = sorted(absent, key=lambda index: -frequency[index])
        close = sorted(absent, key=lambda index: -sum(together[a, index] for a in scene.present))
        taken: list[int] = []
        for ranking in (absent, popular, close):  # no category twice, popular ones not always first
            taken.append(rng.choice([index for index in ranking if index not in taken][:3]))
        positives = rng.sample(scene.present, 3)
        for category, present, missing in zip(POPE_CATEGORIES, positives, taken, strict=True):
            both = [(present, "yes"), (missing, "no")]
            rng.shuffle(both)
            for index, answer in both:
                row = {
                    "id": str(number),
                    "question_id": str(number),
                    "question": f"Is there {scenes.CATEGORIES[index].one} in the image?",
                    "answer": answer,
                    "image_source": f"embedded_{image_id:06d}",
                    "image": picture(scene),
                    "category": category,
                }
                suite.add("pope", image_id, scene, row)
                number += 1


POPE_CATEGORIES = ("random", "popular", "adversarial")
BENCHMARKS: dict[str, Callable[[Suite, int], None]] = {  # pope last: it uses the others' statistics
    "vqav2": vqav2,
    "gqa": gqa,
    "vizwiz": vizwiz,
    "scienceqa_img": scienceqa_img,
    "textvqa": textvqa,
    "mme": mme,
    "mmbench_en": partial(mmbench, language="en"),
    "mmbench_cn": partial(mmbench, language="cn"),
    "chair": chair,
    "pope": pope,
    "grounding": grounding,  # behind it, so that the others stay as they were
}

TEXT, WHOLE = Value("string"), Value("int64")
FEATURES = {
    "vqav2": {
        "question_type": TEXT,
        "multiple_choice_answer": TEXT,
        "answers": List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": WHOLE}),
        "image_id": WHOLE,
        "answer_type": TEXT,
        "question_id": WHOLE,
        "question": TEXT,
    },
    "gqa": {
        "id": TEXT,
        "imageId": TEXT,
        "question": TEXT,
        "answer": TEXT,
        "fullAnswer": TEXT,
        "isBalanced": Value("bool"),
    },
    "vizwiz": {"question_id": TEXT, "question": TEXT, "answers": List(TEXT), "category": TEXT},
    "scienceqa_img": {
        "question": TEXT,
        "choices": List(TEXT),
        "answer": Value("int8"),
        **dict.fromkeys(("hint", "task", "grade", "subject", "topic"), TEXT),
        **dict.fromkeys(("category", "skill", "lecture", "solution"), TEXT),
    },
    "textvqa": {
        "image_id": TEXT,
        "question_id": Value("int32"),
        "question": TEXT,
        "answers": List(TEXT),
        "ocr_tokens": List(TEXT),
    },
    "mme": dict.fromkeys(("question_id", "question", "answer", "category"), TEXT),
    "mmbench_en": {
        "index": WHOLE,
        **dict.fromkeys(("question", "hint", "answer", "A", "B", "C", "D", "category"), TEXT),
        **dict.fromkeys(("source", "L2-category", "comment", "split"), TEXT),
    },
    "chair": {"question_id": WHOLE, "gt_object": List(TEXT)},
    "pope": dict.fromkeys(
        ("id", "question_id", "question", "answer", "image_source", "category"), TEXT
    ),
}
FEATURES |= {"mmbench_cn": FEATURES["mmbench_en"], "grounding": FEATURES["gqa"]}


def build(seed: int = SEED, documents: int = 100) -> Suite:
    """The whole suite in memory. `documents` per benchmark; MMBench counts before rotation."""
    if seed < FIRST_SUITE:
        raise ValueError(
            f"Suite seeds start at {FIRST_SUITE}, got {seed}: smaller ones are training data."
        )
    suite = Suite(seed)
    for make_documents in BENCHMARKS.values():
        make_documents(suite, documents)
    return suite


def write(suite: Suite, folder: Path) -> None:
    """One parquet per benchmark (equal images stored once), and scenes.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for benchmark, rows in suite.rows.items():
        features = Features(FEATURES[benchmark] | {"image": Image()})
        table = datasets.Dataset.from_list(rows, features=features).with_format("arrow")[:]
        about = {"description": DESCRIPTION, "suite": f"embedded-{VERSION}, seed {suite.seed}"}
        table = table.replace_schema_metadata(features.arrow_schema.metadata | about)
        parquet.write_table(
            table,
            folder / f"{benchmark}.parquet",
            compression="zstd",
            dictionary_pagesize_limit=2**28,
            row_group_size=len(rows),
        )
    with open(folder / "scenes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(suite.index[0]))
        writer.writeheader()
        writer.writerows(suite.index)

"""The embedded suite: deterministic, in the hub's schemas, true to its pictures, and balanced."""

import csv
import io
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from evals.suite import build, questions, scenes  # noqa: E402
from evals.suite.scenes import CATEGORIES, COLOURS, NAMES, WORDS  # noqa: E402
from scripts.demo_training import prompts  # noqa: E402

NUMBER_WORDS = {word: number for number, word in enumerate(questions.NUMBERS)}


@pytest.fixture(scope="module")
def suite():
    return build.build(seed=7001, documents=12)


@pytest.fixture(scope="module")
def by_seed(suite):
    """The scene of each document, drawn again from its seed."""
    kinds = {
        line["seed"]: (line["kind"], line["objects"]) for line in suite.index
    }  # a destroyed scene's kind is not in the index
    return {
        seed: scenes.make(seed, None if kind == "destroyed" else kind, kind == "destroyed")
        for seed, (kind, _) in kinds.items()
    }


def documents(suite, benchmark):
    lines = [line for line in suite.index if line["benchmark"] == benchmark]
    return list(zip(lines, suite.rows[benchmark], strict=True))


def test_same_seed_same_scene_and_other_seed_other_scene():
    first, again, other = (scenes.make(seed, "complex") for seed in (5, 5, 6))
    assert first.jpeg() == again.jpeg()
    assert first == again
    assert first.jpeg() != other.jpeg()


def test_building_twice_gives_the_same_files(tmp_path):
    for folder in ("a", "b"):
        build.write(build.build(seed=7002, documents=3), tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted([f"{name}.parquet" for name in build.BENCHMARKS] + ["scenes.csv"])
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_suites_never_share_scenes_with_training(suite):
    from scripts.demo_training.data import SEED_START

    assert min(line["seed"] for line in suite.index) > max(SEED_START.values()) + 10**6
    with pytest.raises(ValueError, match="training data"):
        build.build(seed=3, documents=1)


def test_what_lies_where_the_truth_says():
    """The plate's colour is really in the picture, beside the object that stands on it."""
    checked = 0
    for seed in range(40):
        scene = scenes.make(seed, "medium", destroyed=False)
        pixels = np.asarray(scene.image, np.float32)
        for item in scene.objects:
            if item.plate is None:
                continue
            rim = item.size * 0.6  # outside the emoji, inside the plate, left and right of it
            found = [pixels[int(item.cy), int(item.cx + side * rim)] for side in (-1, 1)]
            distance = [
                [np.abs(colour - np.array(c.rgb)).mean() for c in COLOURS] for colour in found
            ]
            checked += 1
            assert item.plate in np.argmin(distance, axis=1)
    assert checked > 50


def test_every_object_is_drawn_inside_and_covers_its_centre():
    for seed in range(20):
        scene = scenes.make(seed, "complex", destroyed=False)
        assert len(scene.objects) >= 6
        for item in scene.objects:
            assert 0 < item.cx < scenes.SIZE
            assert 0 < item.cy < scenes.SIZE
            row, column = int(item.cy / scenes.PATCH), int(item.cx / scenes.PATCH)
            assert (
                item.cover[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max() > 0.2
            )


def test_answers_follow_from_the_scene(suite, by_seed):
    """Recompute open answers from the text of the question and the scene alone."""
    checked = Counter()
    for benchmark in ("vqav2", "gqa", "pope", "mme"):
        for line, row in documents(suite, benchmark):
            scene = by_seed[line["seed"]]
            answer = row.get("multiple_choice_answer", row.get("answer")).lower()
            text = row["question"].removesuffix(" Please answer yes or no.")
            expected = recompute(text, scene)
            if expected is not None:
                checked[benchmark] += 1
                assert answer == expected, (text, scene.seed)
    assert min(checked.values()) >= 5, checked


def recompute(text: str, scene: scenes.Scene) -> str | None:
    """An independent reading of some question texts; None for the others."""
    singular = {c.name: i for i, c in enumerate(CATEGORIES)}
    plural = {c.many: i for i, c in enumerate(CATEGORIES)}
    words = text.rstrip("?").replace('"', "").split()
    yes = {True: "yes", False: "no"}
    if text.startswith(("Is there a", "Is there an")) and "only" not in text:
        return yes[singular[words[3]] in scene.counts]
    if text.startswith("How many"):
        return str(scene.counts[plural[words[2]]])
    if text.startswith("Are there more"):
        return yes[scene.counts[plural[words[3]]] > scene.counts[plural[words[5]]]]
    if text.startswith("Is there only one"):
        return yes[scene.counts[singular[words[4]]] == 1]
    if text.startswith("Are there") and words[2] in NUMBER_WORDS:
        return yes[scene.counts[plural[words[3]]] == NUMBER_WORDS[words[2]]]
    if text.startswith("What color is the plate under the"):
        item = next(o for o in scene.unique if o.name == words[-1])
        return COLOURS[item.plate].name
    if text.startswith("Is the word in the image"):
        return yes[words[-1] in {sign.word for sign in scene.signs}]
    if " to the left or to the right of " in text or " above or below " in text:
        one, two = (next(o for o in scene.unique if o.name == words[i]) for i in (2, -1))
        if "left" in text:
            return "left" if one.cx < two.cx else "right"
        return "above" if one.cy < two.cy else "below"
    return None


def test_vqav2_answers_differ_in_their_id_only(suite):
    for row in suite.rows["vqav2"]:
        assert [answer["answer_id"] for answer in row["answers"]] == list(range(1, 11))
        assert {answer["answer"] for answer in row["answers"]} == {row["multiple_choice_answer"]}


def test_pope_asks_six_questions_per_image_and_is_balanced(suite, by_seed):
    per_image = defaultdict(list)
    for line, row in documents(suite, "pope"):
        per_image[row["image_source"]].append((row["category"], row["answer"]))
        name = row["question"].split()[3]
        assert (row["answer"] == "yes") == (NAMES.index(name) in by_seed[line["seed"]].counts)
    expected = Counter((c, a) for c in build.POPE_CATEGORIES for a in ("yes", "no"))
    assert all(Counter(asked) == expected for asked in per_image.values())


def test_mme_pairs_share_an_image_and_have_one_yes_and_one_no(suite):
    pairs = defaultdict(list)
    for row in suite.rows["mme"]:
        pairs[row["category"], row["question_id"]].append(row)
    assert {category for category, _ in pairs} == set(build.MME)
    for rows in pairs.values():
        assert sorted(row["answer"] for row in rows) == ["No", "Yes"]
        assert rows[0]["image"] == rows[1]["image"]
        assert all(row["question"].endswith(" Please answer yes or no.") for row in rows)


@pytest.mark.parametrize("benchmark", ["mmbench_en", "mmbench_cn"])
def test_mmbench_rotations_are_circular(suite, benchmark):
    groups = defaultdict(dict)
    for row in suite.rows[benchmark]:
        groups[row["index"] % 1_000_000][row["index"] // 1_000_000] = row
    assert len(groups) == 12
    for rotations in groups.values():
        options = {k: [r[x] for x in "ABCD" if r[x] != "nan"] for k, r in rotations.items()}
        assert sorted(rotations) == list(range(len(options[0])))
        for shift, row in rotations.items():
            assert options[shift] == options[0][shift:] + options[0][:shift]
            assert row[row["answer"]] == rotations[0][rotations[0]["answer"]]
            assert row["image"] == rotations[0]["image"]
    if benchmark == "mmbench_cn":
        assert all(
            any("\u4e00" <= c <= "\u9fff" for c in g[0]["question"]) for g in groups.values()
        )


def test_chair_truth_is_the_set_of_drawn_categories(suite, by_seed):
    for line, row in documents(suite, "chair"):
        assert row["gt_object"] == sorted(
            {o.name for o in by_seed[line["seed"]].objects}, key=NAMES.index
        )


def test_no_sign_spells_a_coco_object():
    from lmms_eval.tasks.coco_cap_chair.utils import MSCOCO_OBJECTS

    assert not {word.lower() for word in WORDS} & set(MSCOCO_OBJECTS)
    assert set(NAMES) <= set(MSCOCO_OBJECTS)


def test_a_blind_guesser_gains_nothing_from_families():
    """Yes and no, and the right option's letter, are even for every family of the mixtures."""
    rng = random.Random(0)
    pool = [scenes.make(seed, kind, False) for seed in range(60) for kind in ("medium", "complex")]
    families = {f for mixture in prompts.MIXTURES.values() for f in mixture}
    yes, letters = defaultdict(Counter), defaultdict(Counter)
    for scene in pool:
        for family in families:
            for _ in range(6):
                question = family(scene, rng)
                if question and question.answer in ("Yes", "No"):
                    yes[question.family][question.answer] += 1
                elif question and len(question.options) == 4:
                    letters[question.family][question.letter] += 1
    assert len(yes) >= 6
    assert len(letters) >= 5
    for family, counts in yes.items():
        assert 0.4 < counts["Yes"] / counts.total() < 0.6, family
    for family, counts in letters.items():
        assert max(counts.values()) / counts.total() < 0.33, family


def test_prompts_of_training_are_those_of_lmms_eval(suite):
    from scripts.demo_training.evaluate import prompt_of

    rng, seen = random.Random(1), Counter()
    for seed in range(30):
        scene = scenes.make(seed, destroyed=False)
        for benchmark in (
            "vqav2",
            "vizwiz",
            "textvqa",
            "scienceqa_img",
            "mmbench_en",
            "mmbench_cn",
        ):
            family = rng.choice(list(prompts.MIXTURES[benchmark]))
            question = family(scene, rng)
            if question is None:
                continue
            letters = dict(zip("ABCD", [*question.options, *["nan"] * 4], strict=False))
            row = {
                "question": question.text,
                "choices": list(question.options),
                "hint": "" if benchmark == "scienceqa_img" else None,
                **(letters if question.options else {}),
                **dict.fromkeys(("category", "L2-category", "index", "source", "split"), "x"),
            }
            assert prompts.render(benchmark, question) == prompt_of(benchmark, row)
            seen[benchmark] += 1
    assert len(seen) == 6


def test_demo_model_reads_prompts_as_trained():
    """Chat template, one BOS, 576 image tokens, and answers of one token each."""
    from transformers import AutoProcessor

    from scripts.demo_training import tokenizer as training

    processor = AutoProcessor.from_pretrained(ROOT / "evals/demo_model")
    training.check(processor.tokenizer)
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert text == prompts.chat("What is this?")
    image = scenes.make(1).image
    ids = processor(images=image, text=text, return_tensors="pt")["input_ids"][0].tolist()
    tokenizer = processor.tokenizer
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == scenes.GRID**2


SHIPPED = ROOT / "evals/suite/data"


def test_the_shipped_suite_is_complete_small_and_says_that_it_is_synthetic():
    import pyarrow.parquet as parquet

    with open(SHIPPED / "scenes.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    counts = Counter(line["benchmark"] for line in lines)
    for benchmark in build.BENCHMARKS:
        table = parquet.read_table(SHIPPED / f"{benchmark}.parquet")
        assert len(table) == counts[benchmark] >= 90
        assert b"Synthetic" in table.schema.metadata[b"description"]
        expected = set(build.FEATURES[benchmark]) | {"image"}
        assert set(table.column_names) == expected
        picture = Image.open(io.BytesIO(table["image"][0]["bytes"].as_py()))
        assert picture.size == (scenes.SIZE, scenes.SIZE)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 30e6

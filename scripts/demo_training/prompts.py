"""Questions as text: exactly the prompts that lmms-eval renders for each benchmark.

`tests/test_suite.py` compares these with the prompts of the installed lmms-eval tasks.
"""

import random
from dataclasses import dataclass, replace

from evals.suite import build
from evals.suite import questions as ask
from evals.suite.questions import Family, Question
from evals.suite.scenes import Scene

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTER_CN = "\n请直接使用所提供的选项字母作为答案回答。"
LETTER_CN_PAPER = "\n请直接回答选项字母。"
INSUFFICIENT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
SEVERAL = "There are several options:"
CAPTION = "Please describe this image in detail."

MIXTURES: dict[str, dict[Family, float]] = {
    **build.MIXTURES,
    "pope": {ask.exists: 1.0},
    "mme": {
        build.MME["existence"]: 0.5,
        build.MME["count"]: 1.5,
        build.MME["position"]: 1.5,
        build.MME["color"]: 1.0,
        build.MME["OCR"]: 1.2,
    },
    "mmbench_en_paper": build.MIXTURES["mmbench_en"],
    "mmbench_cn_paper": build.MIXTURES["mmbench_cn"],
}
SHARES = {  # how often training asks in each benchmark's way
    "vqav2": 2.4,
    "gqa": 2.6,
    "vizwiz": 1.0,
    "scienceqa_img": 2.0,
    "textvqa": 1.4,
    "pope": 1.6,
    "mme": 3.0,
    "mmbench_en": 2.2,
    "mmbench_cn": 2.2,
    "mmbench_en_paper": 0.4,
    "mmbench_cn_paper": 0.4,
}
# What is learnt last (counting, choosing among options) is asked more often in the last third.
LATE_CHOICES = {
    "object": 8,
    "colour": 24,
    "quadrant": 20,
    "number": 26,
    "side": 14,
    "word": 8,
    "most": 8,
}
LATE_MIXTURES: dict[str, dict[Family, float]] = {
    **MIXTURES,
    "vqav2": {ask.exists: 8, ask.colour_is: 10, ask.more_than: 10, ask.count: 45, ask.colour: 12}
    | {ask.on_plate: 15},
    "textvqa": {ask.word: 40, ask.word_of_colour: 60},
    **{
        name: build.choices("_cn" in name, **LATE_CHOICES)
        for name in SHARES
        if name.startswith(("mmbench", "scienceqa"))
    },
}
LATE_SHARES = SHARES | {
    "gqa": 1.3,
    "pope": 0.7,
    "textvqa": 1.6,
    "scienceqa_img": 2.6,
    "mmbench_en": 3.0,
    "mmbench_cn": 3.0,
}


def chat(question: str) -> str:
    """The demo model's whole prompt, what its chat template renders."""
    return f"USER: <image>\n{question} ASSISTANT:"


def lettered(options: tuple[str, ...]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", options))


def render(benchmark: str, question: Question) -> str:
    """The text of a question, as lmms-eval's task (or LLaVA's own script: `_paper`) gives it."""
    text, options, hint = question.text, lettered(question.options), question.hint
    match benchmark:
        case "vizwiz":
            return text.capitalize() + INSUFFICIENT + SHORT
        case "textvqa":
            return text.capitalize() + SHORT
        case "scienceqa_img":
            context = f"Context: {hint}\n" if hint else ""
            return f"{context}{text}\n{options}{LETTER}"
        case "mmbench_en":
            return f"{text} {SEVERAL}\n{options}\n{LETTER}"
        case "mmbench_cn":
            return f"{text} {SEVERAL}\n{options}\n{LETTER_CN}"
        case "mmbench_en_paper":
            return f"{text}\n{options}{LETTER}"
        case "mmbench_cn_paper":
            return f"{text}\n{options}{LETTER_CN_PAPER}"
        case _:
            return text + SHORT


@dataclass(frozen=True)
class Exchange:
    """One training or test question: which benchmark's manner, prompt text, expected answer."""

    benchmark: str
    prompt: str
    answer: str


def sample(
    scene: Scene, rng: random.Random, total: int, caption_share: float, late: bool = False
) -> list[Exchange]:
    """Up to `total` questions about a scene, in the manner of all benchmarks, maybe a caption."""
    exchanges: list[Exchange] = []
    mixtures, shares = (LATE_MIXTURES, LATE_SHARES) if late else (MIXTURES, SHARES)
    benchmarks, weights = list(shares), list(shares.values())
    if scene.destroyed:
        total = 3
    for _ in range(4 * total):
        if len(exchanges) == total:
            break
        benchmark = "vizwiz" if scene.destroyed else rng.choices(benchmarks, weights)[0]
        mixture = mixtures[benchmark]
        family = rng.choices(list(mixture), list(mixture.values()))[0]
        if scene.destroyed:
            family = ask.cannot_tell
        question = family(scene, rng)
        if question is None:
            continue
        if benchmark == "scienceqa_img":
            question = replace(question, hint=rng.choice(build.HINTS))
        answer = question.letter or question.answer
        exchanges.append(Exchange(benchmark, render(benchmark, question), answer))
    if rng.random() < caption_share:
        exchanges.append(Exchange("chair", CAPTION, ask.caption(scene)))
    return exchanges

"""A small byte-level BPE: every category, word, colour, number and letter is one token."""

import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from transformers import PreTrainedTokenizerFast

from evals.suite.questions import NUMBERS, UNANSWERABLE
from evals.suite.scenes import CATEGORIES, COLOURS, WORDS, Scene
from scripts.demo_training import prompts

VOCABULARY = 1600
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n"
    "{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def answers() -> list[str]:
    """Everything that may be a short answer."""
    names = [category.name for category in CATEGORIES] + [colour.name for colour in COLOURS]
    fixed = ["Yes", "No", "left", "right", "above", "below", UNANSWERABLE]
    return [*names, *fixed, *WORDS, *"12345", *"ABCDE"]


def train(scenes: list[Scene]) -> PreTrainedTokenizerFast:
    """Fit on prompts and answers of some scenes. Chinese characters never join one another."""
    rng = random.Random(0)
    corpus = [
        f"USER: \n{exchange.prompt} ASSISTANT: {exchange.answer}"
        for scene in scenes
        for exchange in prompts.sample(scene, rng, 10, 0.6)
    ]
    whole = [*answers(), *(category.many for category in CATEGORIES), *NUMBERS]
    corpus += [f" {word}" for word in whole for _ in range(200)]
    corpus += [word for word in WORDS for _ in range(200)]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(r"\p{Han}"), "isolated"), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=ByteLevel.alphabet(),
        min_frequency=3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    chinese = [category.chinese for category in CATEGORIES] + [c.chinese for c in COLOURS]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in chinese])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def check(tokenizer: PreTrainedTokenizerFast) -> None:
    """Short answers are one token, and prompts survive a round trip."""
    for answer in answers():
        if len(tokenizer.encode(" " + answer, add_special_tokens=False)) != 1:
            raise ValueError(f"'{answer}' is not one token; raise VOCABULARY.")
    text = prompts.chat("图中有几个自行车？ There are several options:\nA. 狗\n1")
    if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) != text:
        raise ValueError("Text does not survive tokenisation.")


def save(scenes: list[Scene], folder: Path) -> None:
    tokenizer = train(scenes)
    check(tokenizer)
    tokenizer.save_pretrained(folder)

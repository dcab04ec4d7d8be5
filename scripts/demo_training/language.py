"""Stage 2: the projector and the Llama learn to answer; later the tower is fine-tuned with them.

Four auxiliary losses make it work in CPU minutes; their heads are thrown away afterwards.
*alignment*: a projected patch must point at the embedding of what it shows.
*gather*: wherever a question names a thing, the decoder's third layer must already know how many
there are, where it is, and on which plate.
*verdict*: where an option ends, the last layer's input must already know whether it is right.
*position*: a projected patch must know where it is.
"""

import copy
import logging
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from evals.suite.questions import UNANSWERABLE
from evals.suite.scenes import CATEGORIES, COLOURS, GRID, WORDS, Scene
from scripts.demo_training import prompts
from scripts.demo_training.data import CLASS, COLOUR, DESTROYED, PLATE, SIGN, WORD, Data
from scripts.demo_training.optim import Clock, MasterWeights, join_processes
from scripts.demo_training.packing import Pack, Packer, decode_layers
from scripts.demo_training.vision import WIDTH as VISION_WIDTH
from scripts.demo_training.vision import features, initialise, vision_config

logger = logging.getLogger(__name__)

WIDTH, LAYERS, HEADS = 256, 5, 4
TOKENS = GRID**2
GATHER_LAYER, VERDICT_LAYER = 3, 4
BINS = 8  # of x and of y
QUESTIONS, CAPTION_SHARE = 12, 0.5
CAPTION_WEIGHTS = (0.4, 0.9)  # of a caption token in the loss: early, late
IMAGES = {576: 4, 288: 6, 144: 8}  # visual tokens kept -> images per process and step
FROZEN_UNTIL, LATE = 0.18, 0.7  # shares of the time: the tower is fixed; the last questions
FULL_ONLY = 0.85  # from here on, no image is thinned
TOWER_RATE = 0.25


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model. Early layers start as content matching: keys equal queries."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=704,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=TOKENS,
        tie_word_embeddings=True,
    )
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(config)
    initialise(model.model.vision_tower)
    for name, parameter in model.named_parameters():
        if "vision_tower" in name or parameter.ndim < 2:
            continue
        if "embed_tokens" in name:
            std = WIDTH**-0.5
        elif "multi_modal" in name:
            std = 0.06
        else:
            std = 0.02 if "o_proj" in name or "down_proj" in name else 0.05
        nn.init.normal_(parameter, std=std)
    with torch.no_grad():
        for layer in model.model.language_model.layers[:GATHER_LAYER]:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return model


def to_bfloat16(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """All weights in bf16, but the rotary frequencies stay fp32 as in a loaded checkpoint."""
    rotary = copy.deepcopy(model.model.language_model.rotary_emb)
    model = model.bfloat16()
    model.model.language_model.rotary_emb = rotary
    return model


class Auxiliary(nn.Module):
    """Throw-away heads of the gather and position losses."""

    SIZES = (6, BINS, BINS, len(COLOURS) + 1, len(CATEGORIES) + 1)
    WEIGHTS = (1.0, 0.3, 0.3, 0.5, 0.5)  # count, x, y, plate of the named thing; thing on the plate

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.named = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(self.SIZES))
        self.verdict_norm, self.verdict = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1)
        self.position = nn.Linear(WIDTH, 2)


class Mentions:
    """Which token ids name a category, a word or a colour, and what is true of each in a scene."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        table = torch.full((len(tokenizer),), -1)
        for index, category in enumerate(CATEGORIES):
            spellings = (f" {category.name}", f" {category.many}", category.chinese)
            self._note(tokenizer, table, spellings, index)
        for index, word in enumerate(WORDS):
            self._note(tokenizer, table, (f" {word}", word), len(CATEGORIES) + index)
        self.colours = len(CATEGORIES) + len(WORDS)
        for index, colour in enumerate(COLOURS):
            spellings = (f" {colour.name}", colour.chinese)
            self._note(tokenizer, table, spellings, self.colours + index)
        self.table = table

    @staticmethod
    def _note(
        tokenizer: PreTrainedTokenizerFast, table: Tensor, spellings: tuple, value: int
    ) -> None:
        for spelling in spellings:
            ids = tokenizer.encode(spelling, add_special_tokens=False)
            if len(ids) == 1:
                table[ids[0]] = value

    def truths(self, scenes: list[Scene], pack: Pack) -> tuple[Tensor, Tensor]:
        """Mentions inside questions: their (image, place) (M, 2) and labels (M, 5) or -100."""
        named = self.table[pack.tokens]
        answering = F.pad(pack.target[:, :-1], (1, 0), value=-100) >= 0
        where = (named.masked_fill(answering, -1) >= 0).nonzero()
        facts = [self._facts(scene) for scene in scenes]
        images, things = where[:, 0].tolist(), named[where[:, 0], where[:, 1]].tolist()
        rows = [
            facts[image].get(thing, self._missing(thing))
            for image, thing in zip(images, things, strict=True)
        ]
        return where, torch.tensor(rows, dtype=torch.long).view(-1, len(Auxiliary.SIZES))

    def _missing(self, thing: int) -> list[int]:
        return [-100] * 4 + [0] if thing >= self.colours else [0] + [-100] * 4

    def _facts(self, scene: Scene) -> dict[int, list[int]]:
        facts = {index: [min(5, n), -100, -100, -100, -100] for index, n in scene.counts.items()}
        for item in scene.unique:
            plate = 0 if item.plate is None else item.plate + 1
            facts[item.category][1:4] = [*_bins(item.cx, item.cy), plate]
        for sign in scene.signs:
            left, top, right, bottom = sign.box
            middle = _bins((left + right) / 2, (top + bottom) / 2)
            facts[len(CATEGORIES) + WORDS.index(sign.word)] = [1, *middle, -100, -100]
        plates = [item.plate for item in scene.objects]
        for item in scene.objects:
            if item.plate is not None and plates.count(item.plate) == 1:
                facts[self.colours + item.plate] = [-100] * 4 + [item.category + 1]
            elif item.plate is not None:
                facts[self.colours + item.plate] = [-100] * 5
        return {} if scene.destroyed else facts


def _bins(x: float, y: float) -> list[int]:
    width = GRID * 14 / BINS
    return [min(BINS - 1, int(x / width)), min(BINS - 1, int(y / width))]


class Names:
    """Token id that a projected patch should point at, by class, word and colour; -100 for none."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        def one(text: str) -> int:
            return tokenizer.encode(" " + text, add_special_tokens=False)[0]

        things = [one(category.name) for category in CATEGORIES]
        self.classes = torch.tensor([-100, *things, -100, -100, one(UNANSWERABLE)])
        self.words = torch.tensor([-100] + [one(word) for word in WORDS])
        self.colours = torch.tensor([-100] + [one(c.name) for c in COLOURS] + [-100])
        assert len(self.classes) == DESTROYED + 1

    def of(self, labels: Tensor) -> Tensor:
        """(B, 5, N) patch labels -> (B, N) token ids."""
        target = self.classes[labels[:, CLASS]]
        target = torch.where(labels[:, CLASS] == SIGN, self.words[labels[:, WORD]], target)
        return torch.where(labels[:, CLASS] == PLATE, self.colours[labels[:, COLOUR]], target)


def keep_some(labels: Tensor, budget: int) -> Tensor:
    """Random patches (B, budget) in raster order; for 60 % of images objects are favoured."""
    batch, _, total = labels.shape
    if budget == total:
        return torch.arange(total).expand(batch, -1)
    shown = (labels[:, CLASS] > 0) & (labels[:, CLASS] < DESTROYED)
    favour = 0.5 * (torch.rand(batch, 1) < 0.6)
    score = torch.rand(batch, total) + favour * shown
    return score.topk(budget, dim=1).indices.sort(1).values


class Trainer:
    """Model, auxiliary heads and data of one process."""

    def __init__(self, data: Data, tokenizer: PreTrainedTokenizerFast, seed: int):
        self.data, self.packer = data, Packer(tokenizer)
        self.model = to_bfloat16(build_model(tokenizer))
        self.auxiliary = Auxiliary().bfloat16()
        self.mentions, self.names = Mentions(tokenizer), Names(tokenizer)
        self.rng, self.numbers = random.Random(seed), np.random.default_rng(seed)
        words = np.array([scene.kind == "word" for scene in data.scenes])
        weights = (np.ones(len(words)), 1 + 2 * words)  # early, late: large words are read late
        self.shares = [weight / weight.sum() for weight in weights]

    @property
    def tower(self) -> nn.Module:
        return self.model.model.vision_tower

    def losses(
        self, budget: int, frozen: bool, late: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, list[bool]]]:
        """Losses of a fresh batch by name, and whether first answer tokens were right."""
        count = IMAGES[budget]
        chosen = np.sort(self.numbers.choice(len(self.data.images), count, p=self.shares[late]))
        scenes = [self.data.scenes[index] for index in chosen]
        exchanges = [
            prompts.sample(scene, self.rng, QUESTIONS, CAPTION_SHARE, late) for scene in scenes
        ]
        caption_weight = CAPTION_WEIGHTS[late]
        pack = self.packer.pack(exchanges, torch.bfloat16, caption_weight)
        labels = torch.from_numpy(self.data.labels[chosen]).long().flatten(2)
        with torch.set_grad_enabled(not frozen):
            patches, _ = features(self.tower, self.data.images[chosen])
        kept = keep_some(labels, budget)
        patches = patches.gather(1, kept[..., None].expand(-1, -1, VISION_WIDTH))
        labels = labels.gather(2, kept[:, None].expand(-1, labels.shape[1], -1))

        visual = self.model.model.multi_modal_projector(patches)
        language = self.model.model.language_model
        table = language.embed_tokens.weight
        states, tapped = decode_layers(
            language, HEADS, self.packer.prefix, visual, pack, (GATHER_LAYER, VERDICT_LAYER)
        )
        asked = pack.target >= 0
        logits, target, weight = (
            (states[asked] @ table.T).float(),
            pack.target[asked],
            pack.weight[asked],
        )
        errors = F.cross_entropy(logits, target, reduction="none")
        losses = {"answer": (errors * weight).sum() / weight.sum()}

        direction = F.normalize(visual, dim=-1) * WIDTH**0.5
        where = torch.stack([kept % GRID, kept // GRID], -1) / 12 - 1
        losses["position"] = F.mse_loss(self.auxiliary.position(direction).float(), where)
        names = self.names.of(labels)
        named = names >= 0
        losses["alignment"] = F.cross_entropy((direction[named] @ table.T).float(), names[named])
        losses["gather"] = self._gather(tapped[0], scenes, pack)
        losses["verdict"] = self._verdict(tapped[1], pack)

        right = defaultdict(list)
        images, places, numbers = zip(*pack.first, strict=True)
        with torch.no_grad():
            best = (states[list(images), list(places)] @ table.T).argmax(-1)
        hits = (best == pack.target[list(images), list(places)]).tolist()
        for image, number, hit in zip(images, numbers, hits, strict=True):
            right[exchanges[image][number].benchmark].append(hit)
        return losses, right

    def _gather(self, tapped: Tensor, scenes: list[Scene], pack: Pack) -> Tensor:
        where, truth = self.mentions.truths(scenes, pack)
        states = self.auxiliary.norm(tapped[where[:, 0], where[:, 1]])
        guesses = self.auxiliary.named(states).float().split(Auxiliary.SIZES, 1)
        total = tapped.new_zeros((), dtype=torch.float)
        for column, (guess, weight) in enumerate(zip(guesses, Auxiliary.WEIGHTS, strict=True)):
            known = int((truth[:, column] >= 0).sum())
            if known:
                total = total + weight / known * F.cross_entropy(
                    guess, truth[:, column], ignore_index=-100, reduction="sum"
                )
        return total

    def _verdict(self, tapped: Tensor, pack: Pack) -> Tensor:
        if not pack.options:
            return tapped.new_zeros((), dtype=torch.float)
        images, places, truth = zip(*pack.options, strict=True)
        states = self.auxiliary.verdict_norm(tapped[list(images), list(places)])
        guesses = self.auxiliary.verdict(states).float()[:, 0]
        return F.binary_cross_entropy_with_logits(guesses, torch.tensor(truth).float())

    def save(self, to: Path) -> None:
        state = {"model": self.model.state_dict(), "auxiliary": self.auxiliary.state_dict()}
        temporary = to.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(to)


def budget_shares(progress: float) -> tuple[float, float, float]:
    """How often 576, 288 and 144 visual tokens are kept: cheap steps first, full images last."""
    if progress < 0.4:
        return 0.25, 0.35, 0.40
    if progress < LATE:
        return 0.40, 0.40, 0.20
    return (0.8, 0.2, 0.0) if progress < FULL_ONLY else (1.0, 0.0, 0.0)


def train(
    data: Data,
    tokenizer_folder: Path,
    tower: Path,
    to: Path,
    minutes: float,
    peak: float,
    start: Path | None,
    first: float,
) -> None:
    """Train for `minutes` of wall time; the checkpoint `to` is refreshed all along.

    `first` is where in the plan (tower fixed, cheap steps, full images) to begin: 0, or more for a
    run that continues from `start`.
    """
    rank = join_processes()
    trainer = Trainer(
        data, AutoTokenizer.from_pretrained(tokenizer_folder), seed=1 + rank + round(1000 * first)
    )
    if start is None:
        trainer.tower.load_state_dict(torch.load(tower)["tower"])
    else:
        state = torch.load(start)
        trainer.model.load_state_dict(state["model"])
        trainer.auxiliary.load_state_dict(state["auxiliary"], strict=False)
    torch.manual_seed(1 + rank)
    for name, parameter in trainer.tower.named_parameters():  # the last layer is never read
        parameter.requires_grad_("layers.5." not in name and "post_layernorm" not in name)
    model = trainer.model.model
    weights = MasterWeights([model.language_model, model.multi_modal_projector, trainer.auxiliary])
    tower_weights = MasterWeights([trainer.tower], decay=0.02, beta=0.98)
    clock, together = Clock(minutes, peak), np.random.default_rng(77 + round(1000 * first))
    history: list[dict[str, float]] = []
    right: dict[str, list[bool]] = defaultdict(list)
    images = 0
    while (used := clock.tick()) < 1:
        progress = first + (1 - first) * used
        budget = int(together.choice(list(IMAGES), p=budget_shares(progress)))
        frozen = progress < FROZEN_UNTIL
        losses, hits = trainer.losses(budget, frozen, late=progress > LATE)
        gather = 0.5 if progress < 0.8 else 0.25
        (
            losses["answer"]
            + gather * (losses["gather"] + losses["verdict"])
            + 0.15 * losses["alignment"]
            + 0.1 * losses["position"]
        ).backward()
        rate = clock.rate(used)
        norm = weights.step(rate)
        if not frozen:
            tower_weights.step(rate * TOWER_RATE)
        images += IMAGES[budget]
        history.append(
            {name: float(loss.detach()) for name, loss in losses.items()} | {"norm": norm}
        )
        for benchmark, values in hits.items():
            right[benchmark] += values
        if rank == 0 and clock.step % 50 == 0:
            means = {
                k: round(float(np.mean([h[k] for h in history[-50:]])), 3) for k in history[-1]
            }
            logger.info("step %d, %d images, %.0f %%, %s", clock.step, images, 100 * used, means)
        if rank == 0 and clock.step % 200 == 0:
            shares = {name: round(float(np.mean(values)), 2) for name, values in right.items()}
            logger.info("right while training: %s", shares)
            right.clear()
            trainer.save(to)
    if rank == 0:
        trainer.save(to)
        logger.info("finished after %d steps", clock.step)

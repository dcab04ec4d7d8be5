"""Stage 1: the CLIP tower learns to say, at every patch, what is there.

Working on windows of the grid (with the position embeddings of where the window really is) keeps
objects whole and costs a tenth of full images. All heads are thrown away afterwards.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from evals.suite.scenes import CATEGORIES, COLOURS, GRID, PATCH, WORDS
from scripts.demo_training.data import (
    CENTRE,
    CHARACTER,
    CHARACTERS,
    CLASS,
    CLASSES,
    COLOUR,
    DESTROYED,
    SIGN,
    WORD,
    Data,
)
from scripts.demo_training.optim import Clock, MasterWeights, join_processes

logger = logging.getLogger(__name__)

WIDTH, LAYERS, HEADS = 192, 6, 3
USED_LAYERS = LAYERS - 1  # the language model reads hidden_states[-2]
IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LABELS = len(CATEGORIES) + len(WORDS) + 1  # what CLS predicts about the whole image


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )


def initialise(tower: CLIPVisionModel) -> None:
    """Small random weights, and sine-cosine positions so that neighbours start similar."""
    for name, parameter in tower.named_parameters():
        if parameter.ndim >= 2 and "position" not in name:
            std = (3 * PATCH**2) ** -0.5 if "patch" in name else 0.02
            nn.init.trunc_normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    waves = 1 / 100 ** (torch.arange(WIDTH // 4) / (WIDTH // 4))
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    angles = [axis.flatten()[:, None] * waves for axis in (x, y)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
    with torch.no_grad():
        positions = tower.embeddings.position_embedding.weight
        positions[0], positions[1:] = 0, table / 2
        for layer in tower.encoder.layers:
            layer.self_attn.out_proj.weight.mul_(0.5)
            layer.mlp.fc2.weight.mul_(0.5)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Explicit attention, (B, H, T, D): on CPUs in bf16 its backward is 3x as fast as sdpa's."""
    batch, heads, length, width = query.shape
    source = key.shape[2]
    query = (query * width**-0.5).reshape(batch * heads, length, width)
    key, value = key.reshape(batch * heads, source, width), value.reshape(batch * heads, source, -1)
    scores = torch.bmm(query, key.transpose(1, 2))
    if mask is not None:
        scores = (scores.view(batch, heads, length, source) + mask).view_as(scores)
    return torch.bmm(scores.softmax(-1), value).view(batch, heads, length, -1)


def embed(tower: CLIPVisionModel, images: np.ndarray, positions: Tensor) -> Tensor:
    """Images or windows (B, 14h, 14w, 3) uint8 at grid positions (B, h*w) -> (B, 1 + h*w, D)."""
    weight = tower.embeddings.patch_embedding.weight
    batch, height, width = len(images), images.shape[1] // PATCH, images.shape[2] // PATCH
    pixels = torch.from_numpy(images).view(batch, height, PATCH, width, PATCH, 3)
    pixels = pixels.permute(0, 1, 3, 5, 2, 4).reshape(batch, height * width, 3, PATCH**2)
    mean, std = (
        torch.tensor(v, dtype=weight.dtype).view(3, 1) * 255 for v in (IMAGE_MEAN, IMAGE_STD)
    )
    pixels = ((pixels.to(weight.dtype) - mean) / std).flatten(2)
    table = tower.embeddings.position_embedding.weight
    patches = F.linear(pixels, weight.flatten(1)) + table[positions + 1]
    cls = (tower.embeddings.class_embedding + table[0]).expand(batch, 1, -1)
    return tower.pre_layrnorm(torch.cat([cls, patches], 1))


def layer_forward(layer: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One CLIP layer; also returns its queries and keys (B, H, T, D)."""
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    batch, length, width = hidden.shape
    query, key, value = (
        projection(normed).view(batch, length, HEADS, -1).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = attend(query, key, value).transpose(1, 2).reshape(batch, length, width)
    hidden = hidden + attention.out_proj(mixed)
    inner = F.gelu(layer.mlp.fc1(layer.layer_norm2(hidden)))
    return hidden + layer.mlp.fc2(inner), query, key


def features(tower: CLIPVisionModel, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Full images -> penultimate patch features (B, 576, D) and their CLS attention (B, 576)."""
    positions = torch.arange(GRID**2).expand(len(images), -1)
    hidden = embed(tower, np.ascontiguousarray(images), positions)
    for layer in tower.encoder.layers[:USED_LAYERS]:
        hidden, query, key = layer_forward(layer, hidden)
    with torch.no_grad():
        scores = (query[:, :, :1] @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        attention = scores.softmax(-1).mean(1)[:, 0, 1:]
    return hidden[:, 1:], attention


class DenseHeads(nn.Module):
    """What a patch must know; `whole` and `whole_last` are asked of CLS."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.cls_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.classes = nn.Linear(WIDTH, CLASSES)
        self.colours = nn.Linear(WIDTH, len(COLOURS) + 2)
        self.words = nn.Linear(WIDTH, len(WORDS) + 1)
        self.characters = nn.Linear(WIDTH, CHARACTERS)
        self.centre = nn.Linear(WIDTH, 1)
        self.position = nn.Linear(WIDTH, 2)
        self.whole, self.whole_last = nn.Linear(WIDTH, LABELS), nn.Linear(WIDTH, LABELS)


@dataclass(frozen=True)
class Windows:
    images: np.ndarray  # (B, 14h, 14w, 3) uint8
    labels: Tensor  # (B, 5, h*w), -100 where a word is cut by the window
    positions: Tensor  # (B, h*w)


def cut_windows(
    data: Data, chosen: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, on_word: bool
) -> Windows:
    """A window of `shape` patches from each chosen image: on a word, or where most objects are."""
    height, width = shape
    images = np.empty((len(chosen), height * PATCH, width * PATCH, 3), np.uint8)
    labels = np.empty((len(chosen), 5, height, width), np.int64)
    positions = np.empty((len(chosen), height, width), np.int64)
    grid = np.arange(GRID**2).reshape(GRID, GRID)
    for row, index in enumerate(chosen):
        label = data.labels[index]
        top, left = _corner(label, shape, rng, on_word)
        rows, columns = slice(top, top + height), slice(left, left + width)
        window = label[:, rows, columns].astype(np.int64)
        if width < GRID:
            for edge in ([0] if left > 0 else []) + ([-1] if left + width < GRID else []):
                cut = window[CLASS, :, edge] == SIGN
                window[WORD][cut[:, None] & (window[WORD] > 0)] = -100
        pixel = (
            slice(top * PATCH, (top + height) * PATCH),
            slice(left * PATCH, (left + width) * PATCH),
        )
        images[row] = data.images[index][pixel]
        labels[row], positions[row] = window, grid[rows, columns]
    return Windows(
        images, torch.from_numpy(labels).flatten(2), torch.from_numpy(positions).flatten(1)
    )


def _corner(
    label: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, on_word: bool
) -> tuple[int, int]:
    height, width = shape
    if on_word:
        words = np.unique(label[WORD][label[WORD] > 0])
        rows = np.nonzero((label[WORD] == rng.choice(words)).any(1))[0]
        low, high = max(0, rows[-1] + 1 - height), min(GRID - height, rows[0])
        return int(rng.integers(min(low, high), max(low, high) + 1)), 0
    best = (-1, 0, 0)
    for _ in range(2):
        top, left = (int(rng.integers(0, GRID + 1 - side)) for side in (height, width))
        filled = (label[CLASS, top : top + height, left : left + width] > 0).sum()
        best = max(best, (int(filled), top, left))
    return best[1], best[2]


def image_labels(labels: Tensor) -> Tensor:
    """(B, 5, N) patch labels -> (B, 89) what is in the window: categories, words, destroyed."""
    classes = F.one_hot(labels[:, CLASS], CLASSES).sum(1)
    words = F.one_hot(labels[:, WORD].clamp(min=0), len(WORDS) + 1).sum(1)
    objects = classes[:, 1 : len(CATEGORIES) + 1] >= 2
    return torch.cat([objects, words[:, 1:] >= 1, classes[:, DESTROYED:] > 0], 1).float()


CLASS_WEIGHT = torch.ones(CLASSES)
CLASS_WEIGHT[0], CLASS_WEIGHT[DESTROYED], CLASS_WEIGHT[SIGN] = 0.15, 0.15, 0.5
CHARACTER_WEIGHT = torch.ones(CHARACTERS)
CHARACTER_WEIGHT[0] = 0.25
LOSS_WEIGHT = {
    "class": 1.0,
    "colour": 0.5,
    "word": 0.7,
    "character": 0.8,
    "centre": 0.4,
    "position": 0.5,
    "cls": 0.6,
    "cls_last": 0.6,
}


def dense_losses(
    tower: CLIPVisionModel, heads: DenseHeads, batch: Windows, last_layer: bool
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses by name, and accuracies of class, word and colour."""
    hidden = embed(tower, batch.images, batch.positions)
    for layer in tower.encoder.layers[:USED_LAYERS]:
        hidden, _, _ = layer_forward(layer, hidden)
    tokens = heads.norm(hidden[:, 1:]).flatten(0, 1)
    label = batch.labels.transpose(1, 2).flatten(0, 1)  # (B * N, 5)
    shown, colour, word = label[:, CLASS], label[:, COLOUR], label[:, WORD]
    on_object = (shown > 0) & (shown <= len(CATEGORIES))
    on_sign, coloured = shown == SIGN, colour > 0
    where = torch.stack([batch.positions % GRID, batch.positions // GRID], -1).flatten(0, 1)

    classes = heads.classes(tokens).float()
    losses = {"class": F.cross_entropy(classes, shown, CLASS_WEIGHT)}
    losses["position"] = F.mse_loss(heads.position(tokens).float(), where.float() / 12 - 1)
    hits = {"object right": _share(classes.argmax(-1) == shown, on_object)}
    if coloured.any():
        colours = heads.colours(tokens[coloured]).float()
        losses["colour"] = F.cross_entropy(colours, colour[coloured])
        hits["colour right"] = _share(colours.argmax(-1) == colour[coloured])
    if on_sign.any():
        words, spelled = heads.words(tokens[on_sign]).float(), word[on_sign]
        known = spelled > 0
        losses["word"] = F.cross_entropy(
            words, spelled.masked_fill(~known, -100), reduction="sum"
        ) / known.sum().clamp(min=1)
        hits["word right"] = _share(words.argmax(-1) == spelled, known)
        characters = heads.characters(tokens[on_sign]).float()
        losses["character"] = F.cross_entropy(
            characters, label[on_sign, CHARACTER], CHARACTER_WEIGHT
        )
    if on_object.any():
        losses["centre"] = F.binary_cross_entropy_with_logits(
            heads.centre(tokens[on_object]).float()[:, 0],
            label[on_object, CENTRE].float(),
            pos_weight=torch.tensor(3.0),
        )
    target = image_labels(batch.labels)
    whole = heads.whole(heads.cls_norm(hidden[:, 0])).float()
    losses["cls"] = F.binary_cross_entropy_with_logits(whole, target) * 8
    if last_layer:
        hidden, _, _ = layer_forward(tower.encoder.layers[-1], hidden)
        whole = heads.whole_last(tower.post_layernorm(hidden[:, 0])).float()
        losses["cls_last"] = F.binary_cross_entropy_with_logits(whole, target) * 8
    return losses, hits


def _share(hit: Tensor, among: Tensor | None = None) -> float:
    hit = hit if among is None else hit[among]
    return float(hit.float().mean()) if len(hit) else float("nan")


def train(
    data: Data, held_out: Data, to: Path, minutes: float, peak: float, start: Path | None
) -> None:
    """Train for `minutes`; the checkpoint `to` holds tower and heads, written all along."""
    rank = join_processes()
    torch.manual_seed(0)
    tower, heads = CLIPVisionModel(vision_config()), DenseHeads()
    initialise(tower)
    if start is not None:
        state = torch.load(start)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
    tower, heads = tower.bfloat16(), heads.bfloat16()
    weights, clock = MasterWeights([tower, heads], beta=0.98), Clock(minutes, peak, warmup=150)
    rng = np.random.default_rng(rank)
    worded = np.nonzero((data.labels[:, WORD] > 0).any((1, 2)))[0]
    history: list[dict[str, float]] = []

    def save() -> None:
        states = {"tower": tower, "heads": heads}
        floats = {
            name: {key: value.float() for key, value in module.state_dict().items()}
            for name, module in states.items()
        }
        torch.save(floats, to)

    while (used := clock.tick()) < 1:
        shape, count, on_word = _plan(used, clock.step)
        chosen = rng.choice(worded, count) if on_word else rng.integers(0, len(data.images), count)
        batch = cut_windows(data, chosen, shape, rng, on_word)
        losses, hits = dense_losses(tower, heads, batch, last_layer=used > 0.7)
        sum(LOSS_WEIGHT[name] * loss for name, loss in losses.items()).backward()
        weights.step(clock.rate(used))
        history.append({name: float(loss.detach()) for name, loss in losses.items()} | hits)
        if rank == 0 and clock.step % 100 == 0:
            means = {
                name: round(float(np.nanmean([h.get(name, np.nan) for h in history[-100:]])), 3)
                for name in history[-1]
            }
            logger.info("step %d, %.0f %%, %s", clock.step, 100 * used, means)
        if rank == 0 and clock.step % 400 == 0:
            save()
            logger.info("held out: %s", evaluate(tower, heads, held_out))
    if rank == 0:
        save()
        logger.info("finished after %d steps: %s", clock.step, evaluate(tower, heads, held_out))


def _plan(used: float, step: int) -> tuple[tuple[int, int], int, bool]:
    """Window shape, windows per process, and whether windows are put on words."""
    if used > 0.8:
        return (GRID, GRID), 5, False
    if used < 0.2:
        return ((12, 12), 16, False) if step % 3 else ((6, GRID), 16, True)
    return ((12, 12), 16, False) if step % 2 else ((6, GRID), 16, True)


@torch.no_grad()
def evaluate(tower: CLIPVisionModel, heads: DenseHeads, data: Data) -> dict[str, float]:
    """Accuracies per patch on 128 held-out full images."""
    rng, rows = np.random.default_rng(0), []
    for first in range(0, 128, 16):
        batch = cut_windows(data, np.arange(first, first + 16), (GRID, GRID), rng, False)
        losses, hits = dense_losses(tower, heads, batch, last_layer=False)
        rows.append(hits | {"position": float(losses["position"])})
    return {name: round(float(np.nanmean([row[name] for row in rows])), 3) for name in rows[0]}

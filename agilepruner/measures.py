"""Measurements of images that no answer holds: for an analysis whose YAML names one (``measure``).

A measure is a function of the loaded adapter, one image and a question about it that returns
numbers by name (docs/adding-an-analysis.md has an example). Nothing is kept between runs: each
costs a load of the model and its passes of the tower, which the log says.
"""

import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

log = logging.getLogger(__name__)

Measure = Callable[[Any, Image.Image, str], Mapping[str, float]]
STRENGTHS = (1, 3, 5)
# The severities 1, 3 and 5 of ImageNet-C and COCO-C (Hendrycks and Dietterich, arXiv 1903.12261):
# standard deviation of a full scale, pixels, factor, quality.
CORRUPTIONS: Mapping[str, tuple[float, float, float]] = {
    "noise": (0.08, 0.18, 0.38),
    "blur": (1, 3, 6),
    "contrast": (0.4, 0.2, 0.05),
    "jpeg": (25, 15, 7),
}
BUDGET = 64  # tokens that the answer is given whose cost erank's is a share of
NEW_TOKENS = 16


def measured(run: Any, measure: Measure) -> list[dict[str, Any]]:
    """A measure of every image of a run's benchmarks, each once per benchmark.

    An image that cannot be read or measured fails alone: its line says why, as its ``problem``.

    Args:
        run: an identified plan.
        measure: what is measured: of the adapter, an image, and a question about it.

    Returns:
        ``benchmark``, ``benchmark_label``, ``document`` (the first that shows it), ``image`` (hash
        of its bytes) and the numbers, or a ``problem``.

    Raises:
        UserError: documents or model cannot be had.
    """
    from agilepruner.runner.run import documents_of, load_model
    from agilepruner.runner.work import cause

    started = time.perf_counter()
    adapter = load_model(run.config["model"])
    found = []
    for name in run.sources:
        benchmark = documents_of(run, name)
        unique = {one.image_key: one for one in reversed(benchmark.documents)}  # the first of each
        for key, document in reversed(unique.items()):
            about = {"benchmark": name, "benchmark_label": benchmark.config["label"]}
            about |= {"document": document.index, "image": key}
            try:
                image, _ = benchmark.image(document)
                found.append({**about, **measure(adapter, image, document.question)})
            except Exception as error:  # whatever is wrong with it, the others are measured
                problem = cause(error)
                log.warning("%s, document %d: %s", name, document.index, problem)
                log.debug("not measured", exc_info=True)
                found.append({**about, "problem": problem})
    log.info("%d images measured in %.1f s", len(found), time.perf_counter() - started)
    return found


def feature_spaces(adapter: Any, image: Image.Image, question: str) -> dict[str, float]:
    """Effective rank where the paper may have measured it: one pass of the tower, four spectra."""
    from agilepruner.complexity import attention_entropy

    (tokens,) = adapter.encode([image.convert("RGB")], frozenset({"features", "attention"}))
    found = {}
    for space, x in (("projected", tokens.projected), ("penultimate", tokens.features)):
        x = x.double()
        found[f"{space}, centred"] = _rank(x - x.mean(dim=1, keepdim=True))
        found[f"{space}, not centred"] = _rank(x)
    if tokens.attention is not None:
        found["entropy"] = float(attention_entropy(tokens.attention).mean())
    return found


def _rank(x: Any) -> float:
    """Effective rank of (B, N, D), the mean over tiles: the spectrum of the smaller Gram matrix.

    In double precision, where that is the singular values' to all digits that are shown.
    """
    from agilepruner.complexity import effective_rank_of_gram
    from agilepruner.linalg import gram, one_core

    x = x.double()
    small = x if x.shape[-2] <= x.shape[-1] else x.mT
    with one_core():
        return float(effective_rank_of_gram(gram(small)).mean())


def corruptions(adapter: Any, image: Image.Image, question: str) -> dict[str, float]:
    """Effective rank of an image and of its corrupted copies: 13 passes of the tower; and its cost.

    ``erank_ms``: milliseconds of the clean image's effective rank, alone in its batch, as
    AgilePruner computes it; ``encode_ms`` of the vision tower, ``answer_ms`` of all that one answer
    with AgilePruner takes: tower, selection (with the effective rank), prefill and at most
    ``NEW_TOKENS`` tokens. All of the processor, on one core, since several wait for each other by
    spinning: other work on the machine is not in them (``processor`` 1); with a GPU of the clock
    (0).
    """
    import torch

    from agilepruner.complexity import effective_rank, effective_rank_small
    from agilepruner.linalg import one_core
    from agilepruner.strategies.adaptive.agilepruner import AgilePruner

    gpu = torch.cuda.is_available()

    def now() -> float:
        if gpu:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() if gpu else time.process_time())

    image, strategy = image.convert("RGB"), AgilePruner()
    with one_core():
        start = now()
        (tokens,) = adapter.encode([image], frozenset(strategy.needs))
        encoded = now()
        effective_rank(tokens.projected)
        ranked = now()
        budget = min(adapter.tile_budget(BUDGET), tokens.count)
        visual = adapter.embed(tokens, strategy(tokens, budget))
        adapter.generate([adapter.tokenize(question)], [visual], NEW_TOKENS)
        answered = now()
    found = {"processor": float(not gpu), "budget": float(budget), "encode_ms": encoded - start}
    found |= {"erank_ms": ranked - encoded, "answer_ms": encoded - start + answered - ranked}
    found["clean"] = float(effective_rank_small(tokens.projected).mean())
    variants = [(kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS]
    seen_so = adapter.encode([corrupted(image, *each) for each in variants], frozenset())
    for (kind, strength), tokens in zip(variants, seen_so):
        found[f"{kind} {strength}"] = float(effective_rank_small(tokens.projected).mean())
    return found


def corrupted(image: Image.Image, kind: str, strength: int) -> Image.Image:
    """An RGB image with noise, blur, less contrast or JPEG's losses, at a severity."""
    amount = CORRUPTIONS[kind][STRENGTHS.index(strength)]
    if kind == "noise":
        pixels = np.asarray(image, dtype=float)
        drawn = np.random.default_rng(0).normal(0, 255 * amount, pixels.shape)
        return Image.fromarray(np.clip(pixels + drawn, 0, 255).astype(np.uint8))
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(amount))
    if kind == "contrast":
        pixels = np.asarray(image, dtype=float)
        middle = pixels.mean(axis=(0, 1))
        return Image.fromarray(
            np.clip((pixels - middle) * amount + middle, 0, 255).astype(np.uint8)
        )
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(amount))
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")

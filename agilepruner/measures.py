"""Measurements of images that no answer holds: for an analysis whose YAML names one (``measure``).

A measure is a function of the loaded adapter and one image that returns numbers by name. It needs
the vision tower only. Nothing is kept between runs: each costs a load of the model and its passes
of the tower, which the log says.
"""

import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from agilepruner.errors import UserError

log = logging.getLogger(__name__)

Measure = Callable[[Any, Image.Image], dict[str, float]]
STRENGTHS = (1, 2, 3)
# Our choice of kinds and strengths; standard deviation of a full scale, pixels, factor, quality.
CORRUPTIONS: Mapping[str, tuple[float, float, float]] = {
    "noise": (0.04, 0.08, 0.16),
    "blur": (1, 2, 4),
    "contrast": (0.75, 0.5, 0.25),
    "jpeg": (50, 25, 10),
}


def measured(run: Any, measure: Measure) -> list[dict[str, Any]]:
    """A measure of every image of a run's benchmarks, each once per benchmark.

    Args:
        run: an identified plan.
        measure: what is measured.

    Returns:
        ``benchmark``, ``benchmark_label``, ``image`` (hash of its bytes) and the numbers.

    Raises:
        UserError: documents or model cannot be had, or an image cannot be read.
    """
    from agilepruner.runner.run import documents_of, load_model

    started = time.perf_counter()
    adapter = load_model(run.config["model"])
    found = []
    for name in run.sources:
        benchmark = documents_of(run, name)
        unique = {document.image_key: document for document in benchmark.documents}
        for key, document in unique.items():
            try:
                image, _ = benchmark.image(document)
            except OSError as error:
                raise UserError(
                    f"The image of document {document.index} of {name} cannot be read ({error})."
                ) from error
            about = {"benchmark": name, "benchmark_label": benchmark.config["label"], "image": key}
            found.append({**about, **measure(adapter, image)})
    log.info("%d images measured in %.1f s", len(found), time.perf_counter() - started)
    return found


def feature_spaces(adapter: Any, image: Image.Image) -> dict[str, float]:
    """Effective rank where the paper may have measured it: one pass of the tower, four spectra."""
    from agilepruner.complexity import attention_entropy

    (tokens,) = adapter.encode([image.convert("RGB")], frozenset({"features", "attention"}))
    found = {}
    for space, x in (("projected", tokens.projected), ("penultimate", tokens.features)):
        x = x.float()
        found[f"{space}, centred"] = _rank(x - x.mean(dim=1, keepdim=True))
        found[f"{space}, not centred"] = _rank(x)
    if tokens.attention is not None:
        found["entropy"] = float(attention_entropy(tokens.attention).mean())
    return found


def _rank(x: Any) -> float:
    """Effective rank of (B, N, D) by its singular values, as defined; the mean over tiles."""
    import torch

    singular = torch.linalg.svdvals(x)
    share = singular / singular.sum(dim=-1, keepdim=True)
    return float(torch.special.entr(share).sum(dim=-1).exp().mean())


def corruptions(adapter: Any, image: Image.Image) -> dict[str, float]:
    """Effective rank of an image and of its corrupted copies: 13 passes of the tower.

    ``milliseconds`` is what the effective rank of the clean image took, alone in its batch, as
    AgilePruner computes it; ``encode_milliseconds`` is the tower's time for it.
    """
    import torch

    from agilepruner.complexity import effective_rank, effective_rank_small

    def waited() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    image = image.convert("RGB")
    start = waited()
    (tokens,) = adapter.encode([image], frozenset())
    seen = waited()
    effective_rank(tokens.projected)
    found = {"encode_milliseconds": seen - start, "milliseconds": waited() - seen}
    found["clean"] = float(effective_rank_small(tokens.projected).mean())
    variants = [(kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS]
    seen_so = adapter.encode([corrupted(image, *each) for each in variants], frozenset())
    for (kind, strength), tokens in zip(variants, seen_so):
        found[f"{kind} {strength}"] = float(effective_rank_small(tokens.projected).mean())
    return found


def corrupted(image: Image.Image, kind: str, strength: int) -> Image.Image:
    """An RGB image with noise, blur, less contrast or JPEG's losses, at strength 1, 2 or 3."""
    amount = CORRUPTIONS[kind][strength - 1]
    if kind == "noise":
        pixels = np.asarray(image, dtype=float)
        drawn = np.random.default_rng(0).normal(0, 255 * amount, pixels.shape)
        return Image.fromarray(np.clip(pixels + drawn, 0, 255).astype(np.uint8))
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(amount))
    if kind == "contrast":
        return ImageEnhance.Contrast(image).enhance(amount)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(amount))
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")

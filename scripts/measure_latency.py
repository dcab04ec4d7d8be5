"""Prefill latency, peak memory and cache bytes of the paper's models, beside their FLOPs.

    python scripts/measure_latency.py --model llava_1_5_7b --device cuda
    python scripts/measure_latency.py --model tiny --device cpu --repeats 1     (checks the script)

The model has the real shape and random weights: speed does not depend on their values. Each line
is end to end through the adapter of real runs: images through the tower, AgilePruner's selection,
prompts of 60 text tokens through the prefill, then single decode steps. Medians over repeats; a
pruned line is also given as a ratio of the unpruned one of the same batch size.
"""

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from agilepruner.cli import CONFIGS
from agilepruner.flops import Architecture, document_flops
from agilepruner.models.base import split, stack
from agilepruner.models.hugging_face import image_processor_for
from agilepruner.models.llava import LlavaAdapter
from agilepruner.models.shapes import config_of
from agilepruner.strategies.adaptive.agilepruner import AgilePruner

MODELS = ("llava_1_5_7b", "llava_1_5_13b")
TEXT_TOKENS = 60
STEPS = 8  # decode steps that a step's time is averaged over
PAPER_PREPROCESSING = {
    "type": "LlavaImageProcessorPil",
    "do_pad": True,
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
}


@dataclass(frozen=True)
class Line:
    """One measurement. Seconds are of the whole batch; FLOPs are 2 x MACs of one document."""

    model: str
    batch: int
    budget: int
    encode_s: float
    select_s: float
    prefill_s: float
    decode_step_s: float
    peak_bytes: int | None
    cache_bytes: int
    vision_flops: float
    prefill_flops: float
    prefill_ratio: float
    flops_ratio: float
    hardware: str
    dtype: str
    attention: str
    torch: str


class FixedPrompt:
    """In place of a tokenizer: always the same number of text tokens, one image placeholder."""

    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, image_token: int) -> None:
        half = TEXT_TOKENS // 2
        self.ids = [1, *range(10, 9 + half), image_token, *range(40, 40 + TEXT_TOKENS - half)]

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": self.ids}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return ""


def tiny_config() -> Any:
    """The real token geometry, nothing else of the real size."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=256,
        ),
        image_token_id=255,
    )


def published_config(name: str) -> Any:
    """The config of a model in configs/model."""
    return config_of(OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")))


def build(name: str, device: str, dtype: torch.dtype, attention: str) -> LlavaAdapter:
    """An adapter around a model of random weights."""
    from transformers import LlavaForConditionalGeneration

    config = tiny_config() if name == "tiny" else published_config(name)
    config._attn_implementation = attention
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype).eval()
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    processor = image_processor_for("", PAPER_PREPROCESSING)
    tokenizer = FixedPrompt(config.image_token_id)
    return LlavaAdapter(model, tokenizer, processor, "<image>{question}")


def timed(function: Callable[[], Any], device: str, repeats: int) -> tuple[float, Any]:
    """Median seconds of the calls after one warm-up, and the last result."""
    seconds = []
    for repeat in range(repeats + 1):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if repeat:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def measure(
    adapter: LlavaAdapter, name: str, budgets: Sequence[int], batch: int, repeats: int
) -> list[Line]:
    """One line per budget; the first budget is what the others are ratios of."""
    device = str(adapter.model.device)
    cuda = device.startswith("cuda")
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)) for _ in range(batch)
    ]
    strategy = AgilePruner()
    prompts = [adapter.tokenize("")] * batch
    arch = Architecture.of(adapter.model)
    pixels = adapter.image_processor(images=images, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def encode() -> Any:
        return adapter.see(pixels, frozenset(strategy.needs))

    encode_s, _ = timed(encode, device, repeats)
    tokens = adapter.encode(images, frozenset(strategy.needs))
    lines: list[Line] = []
    for budget in budgets:

        @torch.inference_mode()
        def select(budget: int = budget) -> Any:
            chosen = split(strategy(stack(tokens), budget), [1] * batch)
            return [adapter.embed(one, part) for one, part in zip(tokens, chosen)]

        select_s, visuals = timed(select, device, repeats)
        if cuda:
            torch.cuda.reset_peak_memory_stats()

        @torch.inference_mode()
        def answer(new: int, visuals: Any = visuals) -> Any:
            return adapter.run(prompts, visuals, new, min_new_tokens=new)[0]

        prefill_s, output = timed(lambda: answer(1), device, repeats)
        peak = torch.cuda.max_memory_allocated() if cuda else None
        longer_s, _ = timed(lambda: answer(1 + STEPS), device, repeats)
        flops = document_flops(arch, budget, TEXT_TOKENS, 1)
        first = lines[0] if lines else None
        lines.append(
            Line(
                model=name,
                batch=batch,
                budget=budget,
                encode_s=encode_s,
                select_s=select_s,
                prefill_s=prefill_s,
                decode_step_s=(longer_s - prefill_s) / STEPS,
                peak_bytes=peak,
                cache_bytes=cache_bytes(output),
                vision_flops=flops["vision"],
                prefill_flops=flops["prefill"],
                prefill_ratio=prefill_s / first.prefill_s if first else 1.0,
                flops_ratio=flops["prefill"] / first.prefill_flops if first else 1.0,
                hardware=torch.cuda.get_device_name() if cuda else platform.machine(),
                dtype=adapter.environment["dtype"],
                attention=adapter.environment["attention"],
                torch=torch.__version__,
            )
        )
    return lines


def cache_bytes(output: Any) -> int:
    """Bytes of keys and values in the cache that ``generate`` returned."""
    layers = output.past_key_values.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table with units."""
    titles = ["batch", "budget", "encode ms", "select ms", "prefill ms", "ratio", "FLOPs ratio"]
    titles += ["prefill TFLOP/s", "decode ms/step", "peak GiB", "cache MiB"]
    rows = [titles, ["---:"] * len(titles)]
    for line in lines:
        peak = "-" if line.peak_bytes is None else f"{line.peak_bytes / 2**30:.2f}"
        rate = line.batch * line.prefill_flops / line.prefill_s / 1e12
        rows.append(
            [
                str(line.batch),
                str(line.budget),
                f"{1000 * line.encode_s:.1f}",
                f"{1000 * line.select_s:.1f}",
                f"{1000 * line.prefill_s:.1f}",
                f"{line.prefill_ratio:.3f}",
                f"{line.flops_ratio:.3f}",
                f"{rate:.2f}",
                f"{1000 * line.decode_step_s:.2f}",
                peak,
                f"{line.cache_bytes / 2**20:.1f}",
            ]
        )
    first = lines[0]
    where = f"{first.model}, random weights, {first.dtype}, {first.attention}, {first.hardware}"
    return "\n".join([where, "", *("| " + " | ".join(row) + " |" for row in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the CSV when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*MODELS, "tiny"], default="llava_1_5_7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--budgets", type=int, nargs="+", default=[576, 128, 64, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, help="CSV, e.g. results/latency/llava_1_5_7b.csv")
    chosen = parser.parse_args(arguments)
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("measure_latency: no GPU here; --device cpu --model tiny checks the script")
    adapter = build(chosen.model, chosen.device, getattr(torch, chosen.dtype), chosen.attention)
    for budget in chosen.budgets:
        adapter.check_budget(budget)
    lines = [
        line
        for batch in chosen.batch
        for line in measure(adapter, chosen.model, chosen.budgets, batch, chosen.repeats)
    ]
    print(table(lines))
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        with open(chosen.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Line)])
            writer.writeheader()
            writer.writerows(asdict(line) for line in lines)


if __name__ == "__main__":
    main()

"""Made-up rows for the tests of reports. No number in here was ever measured."""

import hashlib
import math
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agilepruner.runner.rows import Row, describe

CONFIGS = Path(__file__).parents[1] / "configs" / "benchmark"
BENCHMARKS = {
    "vqav2": "VQAv2",
    "gqa": "GQA",
    "vizwiz": "VizWiz",
    "scienceqa_img": "SQA-IMG",
    "textvqa": "TextVQA",
    "pope": "POPE",
    "mme": "MME",
    "mmbench_en": "MMB",
    "mmbench_cn": "MMB-CN",
}
STRATEGIES = {
    "random": ("baseline", "Random", {"seed": 0}, ""),
    "uniform": ("baseline", "Uniform grid", {}, ""),
    "fastervlm": ("attention", "FasterVLM", {}, ""),
    "divprune": ("diversity", "DivPrune", {}, ""),
    "agilepruner": (
        "adaptive",
        "AgilePruner",
        {"erank_avg": 90.0, "tau_max": 0.25, "slope": 0.01},
        "thresholds from the released code; the paper does not print them",
    ),
}


@cache
def described(benchmark: str, protocol: str = "lmms") -> dict[str, Any]:
    """How a benchmark is shown, from its own config."""
    return describe(yaml.safe_load((CONFIGS / f"{benchmark}.yaml").read_text()), protocol)


def made_up(*words: object) -> float:
    """A number in [0, 1) that depends on the words only."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def row(strategy: str, budget: int, benchmark: str, **changes: Any) -> Row:
    """One made-up row; vanilla answers best, fewer tokens cost accuracy."""
    family, label, parameters, choice = STRATEGIES.get(strategy, ("baseline", "Vanilla", {}, ""))
    parameters = changes.pop("parameters", parameters)
    full, n = changes.pop("full", 576), changes.pop("n", 40)
    loss = 0.04 * math.log2(full / max(budget, 1)) * (0.5 + made_up(strategy, benchmark))
    chance = 0.9 - loss + 0.05 * made_up(benchmark)
    scores = [
        float(made_up(benchmark, i) < chance + 0.05 * made_up(strategy, parameters, i))
        for i in range(n)
    ]
    value = 100 * sum(scores) / n
    metrics = {"exact_match": value / 100}
    metric, scale, higher = "exact_match", 100.0, True
    parts: dict[str, list[float]] = {}
    strata = None
    if benchmark == "pope":  # every other question is to be answered with yes
        yes = [i % 2 == 0 for i in range(n)]
        parts["right_yes"] = [float(y and s) for y, s in zip(yes, scores)]
        parts["wrong_yes"] = [float(not y and not s) for y, s in zip(yes, scores)]
        parts["wrong_no"] = [float(y and not s) for y, s in zip(yes, scores)]
        right, wrong = sum(parts["right_yes"]), sum(parts["wrong_yes"] + parts["wrong_no"])
        metrics = {"pope_f1_score": 2 * right / (2 * right + wrong)}
        metric, value = "pope_f1_score", 100 * metrics["pope_f1_score"]
    if benchmark == "mme":  # two subtasks; a pair is right or wrong
        strata = ["count" if i < n // 2 else "code_reasoning" for i in range(n)]
        parts["points"] = [200 * score for score in scores]
        metrics = {
            "mme_perception_score": sum(parts["points"][: n // 2]) / (n // 2),
            "mme_cognition_score": sum(parts["points"][n // 2 :]) / (n - n // 2),
        }
        metric, scale, value = "mme_total", 400.0, sum(metrics.values())
    if benchmark == "chair":
        parts["hallucinated"] = [1 - score for score in scores]
        parts |= {"false_mentions": parts["hallucinated"], "mentions": [4.0] * n}
        parts |= {"found": [2.0 + score for score in scores], "objects": [5.0] * n}
        parts["length"] = [12.5] * n
        metric, higher, value = "coco_cap_chair_s", False, 100 - value
        metrics = {"coco_cap_chair_s": value, "coco_cap_chair_i": value / 4}
        metrics |= {"coco_cap_recall": 20 * sum(parts["found"]) / n, "chair_len": 12.5}
    fields: dict[str, Any] = {
        "id": hashlib.sha256(
            repr((strategy, sorted(parameters.items()), budget, benchmark, changes)).encode()
        ).hexdigest()[:12],
        "model": "demo",
        "strategy": strategy,
        "family": family,
        "label": label,
        "parameters": parameters,
        "choice": choice,
        "budget": budget,
        "full": full,
        "benchmark": benchmark,
        "benchmark_label": BENCHMARKS.get(benchmark, "CHAIR"),
        "protocol": "lmms",
        "suite": "embedded",
        "status": "done",
        "metric": metric,
        "higher_is_better": higher,
        "scale": scale,
        "value": value,
        "metrics": metrics,
        "n": n,
        **described(benchmark if (CONFIGS / f"{benchmark}.yaml").exists() else "gqa"),
        "kept": {"min": budget, "mean": budget, "max": budget, "layer_mean": budget},
        "text_tokens": 21.5,
        "flops": {
            "vision": 2.0e9,
            "projector": 1.0e8,
            "selection": 1.0e6,
            "prefill": 1.0e7 * (budget + 20),
            "decode": 3.0e7,
            "total": 2.131e9 + 1.0e7 * (budget + 20),
            "paper_macs": 4.0e6 * budget,
        },
        "complexity": {
            "erank_input": 80.0,
            "erank_kept": 8 * math.log2(max(budget, 2)),
            "entropy": 4.5,
        },
        "seconds": {"encode": 1.0, "select": 0.1, "generate": 2.0, "score": 0.1},
        "scores": scores,
        "parts": parts,
        "strata": strata,
        "clusters": [f"image-{i // 2}" for i in range(n)],
    }
    return Row(**fields | changes)


def failed(strategy: str, budget: int, benchmark: str, error: str, **changes: Any) -> Row:
    """A made-up cell that failed."""
    nothing: dict[str, Any] = {"value": None, "metrics": {}, "scores": None}
    nothing |= {"clusters": None, "kept": {}, "flops": {}, "complexity": {}, "seconds": {}}
    return row(strategy, budget, benchmark, status="failed", error=error, **nothing | changes)


def rows(
    strategies: tuple[str, ...] = tuple(STRATEGIES),
    budgets: tuple[int, ...] = (128, 64, 32),
    benchmarks: tuple[str, ...] = (*BENCHMARKS, "chair"),
    **changes: Any,
) -> list[Row]:
    """A whole made-up table, vanilla included."""
    found = [row("vanilla", changes.get("full", 576), name, **changes) for name in benchmarks]
    found += [
        row(strategy, budget, name, **changes)
        for strategy in strategies
        for budget in budgets
        for name in benchmarks
    ]
    return found

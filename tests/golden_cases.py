"""Golden vectors: what each method's official code selects on seeded inputs (see manifest.json)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from agilepruner.strategies.base import VisualTokens

FOLDER = Path(__file__).parent / "golden"
FOLDERS = (FOLDER, Path(__file__).parent / "golden_2026")  # the second reads inputs of the first
INPUTS: dict[str, Tensor] = {}
OUTPUTS: dict[str, Tensor] = {}
CASES: list[dict] = []
for folder in FOLDERS:
    INPUTS |= load_file(folder / "inputs.safetensors")
    OUTPUTS |= load_file(folder / "outputs.safetensors")
    CASES += json.loads((folder / "manifest.json").read_text())["cases"]
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def cases(method: str, *, fails: bool = False, where=lambda case: True):
    """Parametrize over a method's cases: those with outputs, or those the official code refuses."""
    own = [case for case in CASES if case["id"].startswith(f"{method}/")]
    found = [case for case in own if ("error" in case) == fails and where(case)]
    assert found, f"no golden case for {method}"
    return pytest.mark.parametrize("case", found, ids=[c["id"] for c in found])


def inputs(case: dict) -> dict[str, Tensor]:
    """The case's inputs by role, cast as the case says; a list of inputs is a batch."""
    found = {
        role: torch.stack([INPUTS[part] for part in key]) if isinstance(key, list) else INPUTS[key]
        for role, key in case["inputs"].items()
        if isinstance(key, list) or key in INPUTS
    }
    if "cast" in case["params"]:
        found = {role: value.to(HALVES[case["params"]["cast"]]) for role, value in found.items()}
    return found


def outputs(case: dict) -> dict[str, Tensor]:
    """The official outputs by name."""
    return {name: OUTPUTS[f"{case['id']}/{name}"] for name in case["outputs"]}


def visual_tokens(features: Tensor, attention: Tensor | None = None, **more: Tensor):
    """Tokens of (N, D) or (B, N, D) features; the CLS column of the attention is dropped."""
    features = features if features.dim() == 3 else features[None]
    if attention is not None:
        attention = attention if attention.dim() == 3 else attention[None]
        attention = attention[..., 1:]
    n = features.shape[1]
    side = int(n**0.5)
    grid = (side, side) if side * side == n else (1, n)
    return VisualTokens(grid, features=features, projected=features, attention=attention, **more)


def indices(mask: Tensor) -> Tensor:
    """(B, N) or (N,) keep mask -> (B, K) kept indices."""
    mask = mask.reshape(-1, mask.shape[-1])
    return torch.stack([row.nonzero().flatten() for row in mask])

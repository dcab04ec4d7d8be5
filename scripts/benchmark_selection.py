"""How long each strategy takes to select, as a multiple of plain linear algebra.

    python scripts/benchmark_selection.py --out results/selection_speed.md

The floor, measured in the same rounds, is one float32 Gram matrix of the features, plus one
eigvalsh where the strategy needs a spectrum, or one eigh in double precision where it needs the
eigenvectors (PruneSID: in single precision rounding moves patches between its groups). On CPU: one
thread, CPU time of the process, so that what else runs on the machine counts little. On a GPU: wall
time between synchronisations.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import OmegaConf

from agilepruner.config import build_strategies
from agilepruner.strategies.base import VisualTokens

CONFIGS = Path(__file__).parents[1] / "configs" / "strategy"

# What the official code takes, as ratios to the floor: (N, budget) -> its own timing over the Gram
# matrix (and eigvalsh) where it was timed: one CPU thread, D = 1024, batch 1; 7.6 ms (18.6 ms) at
# N = 576, 190 ms (1323 ms) at N = 2880, all tokens as one set.
OFFICIAL = {
    "visionzip": {(576, 64): 8 / 7.6, (576, 128): 8 / 7.6},
    "cdpruner": {
        (576, 64): 15 / 7.6,
        (576, 128): 13 / 7.6,
        (2880, 320): 309 / 190,
        (2880, 640): 445 / 190,
    },
    "divprune": {
        (576, 64): 18 / 7.6,
        (576, 128): 21 / 7.6,
        (2880, 320): 523 / 190,
        (2880, 640): 1221 / 190,
    },
    "agilepruner": {
        (576, 64): 28 / 18.6,
        (576, 128): 32 / 18.6,
        (2880, 320): 1678 / 1323,
        (2880, 640): 1659 / 1323,
    },
    "prumergeplus": {(576, 64): 48 / 7.6, (576, 128): 65 / 7.6},
    "vispruner": {
        (576, 64): 89 / 7.6,
        (576, 128): 76 / 7.6,
        (2880, 320): 5716 / 190,
        (2880, 640): 4896 / 190,
    },
}
RATIO_GOAL = {"divprune": 1.4, "cdpruner": 1.4, "agilepruner": 1.25}
RATIO_GOAL_576 = {  # of 576 tokens only
    "scope": 1.5,
    "otprune": 1.5,
    "cdpruner_halves": 1.4,
    "prunesid": 1.5,
}
HALF_OF_OFFICIAL = ("vispruner", "visionzip", "prumergeplus")
CHIEF = (*RATIO_GOAL, *HALF_OF_OFFICIAL)  # strategies with a goal
SPECTRAL = ("agilepruner", "erank", "inverse")  # whose floor includes eigvalsh
FLOORS = ("gram", "gram + eigvalsh", "gram + eigh")


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--strategy", nargs="*", help="names; default: all before the LLM")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="N = 576 and batch 1 only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.strategy or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    settings = {
        name: OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=True)
        for name in names
    }
    strategies = dict(build_strategies(settings))
    selecting = {
        name: s
        for name, s in strategies.items()
        if not s.inside and not s.apportions and "resolution" not in s.needs
    }

    shapes = [(1, 24, 24, (64, 128), dim) for dim in (1024, 4096)]
    if not args.small:
        shapes += [(16, 24, 24, (64, 128), dim) for dim in (1024, 4096)]
        shapes += [(1, 48, 60, (320, 640), dim) for dim in (1024, 4096)]
        if args.device == "cuda":
            shapes += [(16, 48, 60, (320, 640), dim) for dim in (1024, 4096)]
    lines = [
        "# Speed of selection",
        "",
        f"`python scripts/benchmark_selection.py`; {hardware(args.device)}. Milliseconds are the "
        f"least of {args.rounds} rounds (a third of them for large inputs), each of which runs "
        "every strategy and the floors in turn: others on the machine only ever add time, most of "
        "it where caches are shared. Ratio: strategy / floor. Merging "
        "strategies include applying their weights. Goal and official: ratios to the floor, the "
        "official code's from its own timings. Large inputs: the strategies with a goal.",
    ]
    chief = {name: s for name, s in selecting.items() if name in CHIEF or args.strategy}
    for batch, rows, columns, budgets, dim in shapes:
        large = batch * rows * columns > 576
        timed = chief if large else selecting
        lines += table(timed, batch, (rows, columns), budgets, dim, args)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


def table(strategies, batch, grid, budgets, dim, args) -> list[str]:
    """One Markdown table: a line per strategy, its milliseconds and ratio at each budget."""
    tokens = synthetic(batch, grid, dim, args.device)
    x, n = tokens.projected, tokens.count
    calls: dict[tuple[str, int], Callable] = {
        ("gram", 0): lambda: x @ x.mT,
        ("gram + eigvalsh", 0): lambda: torch.linalg.eigvalsh(x @ x.mT),
        ("gram + eigh", 0): lambda: torch.linalg.eigh((x @ x.mT).double()),
    }
    if "prunesid" not in strategies:
        del calls["gram + eigh", 0]
    for name, strategy in strategies.items():
        for budget in budgets:
            calls[name, budget] = lambda s=strategy, k=budget: run(s, tokens, k)
    rounds = max(3, args.rounds // (3 if n > 576 or batch > 1 else 1))
    times: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(measure(call, args.device))

    lines = ["", f"## N = {n}, D = {dim}, batch {batch}", ""]
    for key in FLOORS:
        if (key, 0) in times:
            lines.append(f"- {key}: {1e3 * min(times[key, 0]):.1f} ms")
    head = [f"K = {k} (ms) | ratio" for k in budgets]
    lines += ["", f"| strategy | floor | {' | '.join(head)} | goal | official |"]
    lines.append("| --- | --- |" + " ---: |" * (2 * len(budgets) + 2))
    for name in strategies:
        floor = floor_of(name)
        cells = []
        for k in budgets:
            least = min(times[name, k])
            cells.append(f"{1e3 * least:.2f} | {least / min(times[floor, 0]):.2f}")
        official = [OFFICIAL.get(name, {}).get((n, k)) for k in budgets]
        official = [r for r in official if r and dim == 1024 and batch == 1]
        goals = [r / 2 for r in official] if name in HALF_OF_OFFICIAL else []
        goals = [RATIO_GOAL[name]] if name in RATIO_GOAL else goals
        goals = [RATIO_GOAL_576[name]] if name in RATIO_GOAL_576 and n * batch == 576 else goals
        goal_text, official_text = (", ".join(f"{r:.2f}" for r in g) for g in (goals, official))
        lines.append(f"| {name} | {floor} | {' | '.join(cells)} | {goal_text} | {official_text} |")
    return lines


def floor_of(name: str) -> str:
    """The linear algebra that a strategy cannot do without."""
    if name == "prunesid":
        return "gram + eigh"
    constant = name.endswith(("_constant", "_entropy"))
    spectral = not constant and any(word in name for word in SPECTRAL)
    return "gram + eigvalsh" if spectral else "gram"


def run(strategy, tokens: VisualTokens, budget: int) -> torch.Tensor:
    """Select, and mix where the strategy merges."""
    selection = strategy(tokens, budget)
    if selection.weights is None or not strategy.budgeted:
        return selection.indices
    features = tokens.projected if selection.projected else tokens.features
    if selection.weights.shape[2] > tokens.count:
        features = torch.cat([features, tokens.cls[:, None]], dim=1)
    return selection.weights @ features


def measure(call: Callable, device: str) -> float:
    """Seconds of one call."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def synthetic(batch: int, grid: tuple[int, int], dim: int, device: str) -> VisualTokens:
    """Tokens with the correlations of images: smooth over the grid, a few strong directions."""
    torch.manual_seed(0)
    n = grid[0] * grid[1]
    coarse = torch.randn(batch, dim, grid[0] // 4, grid[1] // 4)
    smooth = torch.nn.functional.interpolate(coarse, size=grid, mode="bilinear")
    x = smooth.flatten(2).mT + 0.5 * torch.randn(batch, n, dim) + torch.randn(dim)
    made = {
        "features": x[..., :1024],
        "projected": x,
        "attention": (2 * torch.randn(batch, 16, n + 1)).softmax(dim=-1)[..., 1:],
        "keys": torch.randn(batch, n, 64),
        "cls": torch.randn(batch, 1024),
        "last_query": torch.randn(batch, 1024),
        "last_keys": torch.randn(batch, n + 1, 1024),
        "image_embeds": torch.randn(batch, n, 768),
        "text_embeds": torch.randn(batch, 1, 768),
        "attention_local": (2 * torch.randn(batch, 16, n + 1)).softmax(dim=-1)[..., 1:],
        "received_object": torch.randn(batch, n + 1).softmax(dim=-1)[..., 1:],
        "received_deep": torch.randn(batch, n + 1).softmax(dim=-1)[..., 1:],
    }
    on_device = {name: value.contiguous().to(device) for name, value in made.items()}
    return VisualTokens(grid, seeds=tuple(range(batch)), **on_device)


def hardware(device: str) -> str:
    """What it ran on."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    shared = f"1 thread, CPU time, on a machine shared with other work (load {load:.1f} per core)"
    return f"{model}, {shared}, torch {torch.__version__}"


if __name__ == "__main__":
    main()

"""Measure what sharing saves: all cells in one grid against each cell alone.

    python scripts/benchmark_sweep.py [--limit 40] [--to results/sweep_speed.md]

Both ways run in this process with the same loaded model and documents, so imports and model loading
(which separate commands would pay once per cell) are outside; the gain shown is a lower bound.
Responses are compared one by one. Ratios of one run; absolute times belong to the machine named.
"""

import argparse
import platform
import tempfile
import time
from functools import partial
from pathlib import Path

from hydra import compose, initialize_config_dir
from tabulate import tabulate

from agilepruner.cli import CONFIGS
from agilepruner.runner.answer import Answering, Settings
from agilepruner.runner.journal import Journal
from agilepruner.runner.plan import identify, plan
from agilepruner.runner.run import load_model
from agilepruner.runner.score import header

STRATEGIES = "[vanilla,random,uniform,fastervlm,divprune,agilepruner]"
BENCHMARKS = ("vqav2", "pope", "mmbench_en", "chair")


def main() -> None:
    import torch

    from evals import tasks

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=40, help="documents per benchmark")
    parser.add_argument("--to", type=Path, help="write the table to this Markdown file as well")
    args = parser.parse_args()
    overrides = [f"strategy={STRATEGIES}", "budget=[128,64,32]", f"limit={args.limit}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("config", [*overrides, f"benchmark=[{','.join(BENCHMARKS)}]"])
    run = identify(plan(config))
    adapter = load_model(run.config["model"])
    lines, totals = [], [0.0, 0.0]
    for name in BENCHMARKS:
        settings = run.config["benchmark"][name]
        benchmark = tasks.load(name, settings, run.sources[name], "lmms", args.limit)
        cells = [cell for cell in run.cells if cell.benchmark == name]

        def answer(some, benchmark=benchmark):
            with tempfile.TemporaryDirectory() as folder:
                journals = {c.id: Journal(Path(folder) / c.folder, c.id) for c in some}
                cap = run.config["model"]["max_new_tokens"]
                settings = Settings(workers=2, most_new_tokens=cap)
                head = partial(header, run.config, adapter=adapter)
                answering = Answering(adapter, benchmark, some, journals, settings, head)
                started = time.perf_counter()
                for share in answering.shares():
                    answering.answer(share)
                answering.close()
                spent = time.perf_counter() - started
                entries = {i: dict(journal.entries) for i, journal in journals.items()}
            return spent, {i: {d: e.answer for d, e in es.items()} for i, es in entries.items()}

        answer(cells[:1])  # warm up
        together, shared = answer(cells)
        alone, single = 0.0, {}
        for cell in cells:
            spent, answers = answer([cell])
            alone, single = alone + spent, single | answers
        pairs = [(shared[i][d], single[i][d]) for i in shared for d in shared[i]]
        equal = sum(a == b for a, b in pairs)
        gain = f"{alone / together:.2f} x"
        lines.append([settings["label"], len(cells), f"{together:.1f}", f"{alone:.1f}", gain,
                      f"{equal}/{len(pairs)}"])  # fmt: skip
        totals = [totals[0] + together, totals[1] + alone]
    gain = f"{totals[1] / totals[0]:.2f} x"
    lines.append(["all", "", f"{totals[0]:.1f}", f"{totals[1]:.1f}", gain, ""])
    heads = ["benchmark", "cells", "one grid, s", "each alone, s", "gain", "equal answers"]
    text = (
        "# What sharing saves\n\n"
        f"`python scripts/benchmark_sweep.py --limit {args.limit}` on {platform.processor()}"
        f"{platform.machine()}, torch {torch.__version__}, 2 generation threads, "
        f"model {run.config['model']['name']}.\n\n"
        + tabulate(lines, heads, tablefmt="github", disable_numparse=True)
        + "\n"
    )
    print(text)
    if args.to:
        args.to.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

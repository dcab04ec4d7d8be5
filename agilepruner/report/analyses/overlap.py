"""Do strategies keep the same patches, and do they prefer a place in the image?"""

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding
from agilepruner.report.contrasts import spread
from agilepruner.report.figures import panels
from agilepruner.report.frames import patches_of
from agilepruner.report.sheets import Sheet


def overlap(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Intersection over union of the kept patches of all pairs, and mean maps of what is kept.

    A merged token counts as the patch that it stands for; an image counts once.
    """
    kept = documents[(documents["strategy"] != "vanilla") & documents["selection"].notna()]
    kept = kept.drop_duplicates(["strategy", "parameters", "budget", "image"])
    if kept["strategy"].nunique() < 2:
        raise UserError("It needs two strategies at least: strategy=[fastervlm,divprune].")
    pairs = list(zip(kept["selection"], kept["grid"]))
    sets = {pair: frozenset(patches_of(*pair)) for pair in set(pairs)}
    kept = kept.assign(patches=[sets[pair] for pair in pairs])
    records, sections = [], []
    for budget, group in kept.groupby("budget", sort=False):
        chosen = group.drop_duplicates(["strategy", "image"]).pivot(
            index="image", columns="strategy", values="patches"
        )
        names = [name for name in dict.fromkeys(group["strategy"]) if name in chosen]
        labels = dict(zip(group["strategy"], group["label"]))
        found = {}
        for first, second in combinations(names, 2):
            both = chosen[[first, second]].dropna()
            ratios = pd.Series([len(a & b) / len(a | b) for a, b in both.to_numpy()])
            mean, low, high = spread(ratios)
            found[first, second] = found[second, first] = mean
            about = {"budget": budget, "strategy": first, "other": second, "images": len(both)}
            chance = by_chance(both.to_numpy(), group["grid"].iloc[0])
            records.append({**about, "iou": mean, "low": low, "high": high, "chance": chance})
        lines = [
            [labels[name], *(f"{found[name, o]:.2f}" if o != name else "–" for o in names)]
            for name in names
        ]
        sections.append((f"{budget} tokens of {len(chosen)} images", lines))
    data = pd.DataFrame(records)
    columns = list(dict.fromkeys(kept["label"]))
    benchmarks = ", ".join(dict.fromkeys(cells["benchmark_label"]))
    notes = [f"Mean over images of {benchmarks} of intersection / union of the kept patches."]
    for budget, own in data.groupby("budget", sort=False):
        most = own.loc[own["iou"].idxmax()]
        interval = f"[{most['low']:.2f}, {most['high']:.2f}]"
        notes.append(
            f"At {budget} tokens: {most['strategy']} and {most['other']} agree most, "
            f"{most['iou']:.2f} {interval}; sets drawn at random have {most['chance']:.2f}."
        )
    notes.append("Intervals of every pair: data.csv. The paper prints no overlaps.")
    sheet = Sheet("Overlap of what strategies keep", ["Kept by", *columns], sections, notes)
    return Finding(sheet, data, _figure(kept))


def by_chance(both: np.ndarray, grid: str) -> float:
    """Intersection over union of two sets of these sizes, drawn at random (of the means)."""
    total = np.prod([int(size) for size in grid.split("x")])
    first, second = (np.mean([len(one) for one in column]) for column in both.T)
    shared = first * second / total
    return float(shared / (first + second - shared))


def _figure(kept: pd.DataFrame) -> Figure:
    """A row per budget, a map per strategy: how often each patch is kept, against the mean."""
    budgets = sorted(set(kept["budget"]))
    names = list(dict.fromkeys(kept["strategy"]))
    figure, axes = panels(len(names), len(budgets), width=1.9, height=2.1)
    image = None
    for row, budget in enumerate(budgets):
        for column, name in enumerate(names):
            ax = axes[row, column]
            own = kept[(kept["budget"] == budget) & (kept["strategy"] == name)]
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            if row == 0 and len(own):
                ax.set_title(own["label"].iloc[0], fontsize=8)
            if column == 0:
                ax.set_ylabel(f"{budget} tokens")
            shown = own[own["grid"] == own["grid"].mode().iloc[0]] if len(own) else own
            if shown.empty:
                continue
            tiles, rows, columns = map(int, shown["grid"].iloc[0].split("x"))
            often = np.zeros(tiles * rows * columns)
            for patches in shown["patches"]:
                often[list(patches)] += 1
            often = often.reshape(tiles, rows, columns)[0]  # the first tile: the whole image
            image = ax.imshow(often / max(often.mean(), 1e-9), cmap="cividis", vmin=0, vmax=4)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.7)
        bar.set_label("kept, times the mean of all patches")
    return figure

"""Do strategies keep the same patches, and do they prefer a place in the image?"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, no_comparison
from agilepruner.report.contrasts import enough, judged, of_images, spread, spread_text
from agilepruner.report.figures import panels
from agilepruner.report.frames import patches_of
from agilepruner.report.sheets import Sheet

SAME = 0.02  # difference of two overlaps that does not matter


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
            numbers = {"iou": mean, "low": low, "high": high, "chance": chance}
            records.append({**about, **numbers, "ratios": ratios})
        lines = [
            [labels[name], *(f"{found[name, o]:.2f}" if o != name else "–" for o in names)]
            for name in names
        ]
        sections.append((f"{budget} tokens of {len(chosen)} images", lines))
    data = pd.DataFrame(records)
    columns = list(dict.fromkeys(kept["label"]))
    benchmarks = ", ".join(dict.fromkeys(cells["benchmark_label"]))
    data["verdict"] = _against_chance(data)
    notes = [
        f"Mean over images of {benchmarks} of intersection / union of the kept patches.",
        "The paper says nothing of overlaps.",
    ]
    words = dict(zip(kept["strategy"], kept["label"]))
    for budget, own in data.groupby("budget", sort=False):
        most = own.loc[own["iou"].idxmax()]
        interval = f"[{most['low']:.2f}, {most['high']:.2f}]"
        notes.append(
            f"Here, at {budget} tokens: {words[most['strategy']]} and {words[most['other']]} agree "
            f"most, {most['iou']:.2f} {interval}; sets drawn at random have {most['chance']:.2f}. "
            f"Against chance: {_counts(own)}."
        )
    notes += _places(kept)
    compared = int((data["verdict"] != "").sum())
    notes.append(
        f"Verdicts: of each pair against chance, corrected for {compared} comparisons by "
        f"Holm's method; equivalent: within ±{SAME:g}. Intervals of every pair: data.csv."
    )
    notes.append(no_comparison("the paper prints no overlaps"))
    sheet = Sheet("Overlap of what strategies keep", ["Kept by", *columns], sections, notes)
    return Finding(sheet, data.drop(columns="ratios"), _figure(kept))


def _against_chance(data: pd.DataFrame) -> list[str]:
    """Of each pair: more or less overlap than sets drawn at random have; empty: too few images."""
    known = [
        (place, of_images(line.ratios - line.chance))
        for place, line in enumerate(data.itertuples())
        if enough(line.ratios)
    ]
    found = [""] * len(data)
    judgements = judged([one for _, one in known], [SAME] * len(known), [0] * len(known))
    for (place, _), (verdict, _) in zip(known, judgements):
        found[place] = verdict
    return found


def _counts(own: pd.DataFrame) -> str:
    counts = own.loc[own["verdict"] != "", "verdict"].value_counts()
    texts = [f"{verdict} {count}" for verdict, count in counts.items()]
    return f"of {len(own)} pairs {', '.join(texts)}" if texts else "too few images"


def _places(kept: pd.DataFrame) -> Iterator[str]:
    """The share of kept patches in the middle of the grid, against its share of the grid."""
    tiles, rows, columns = map(int, kept["grid"].mode().iloc[0].split("x"))
    across = np.abs(np.arange(columns) - (columns - 1) / 2) < columns / 4
    down = np.abs(np.arange(rows) - (rows - 1) / 2) < rows / 4
    middle = set(np.flatnonzero(np.tile(np.outer(down, across).ravel(), tiles)))
    whole = tiles * rows * columns
    texts = []
    for label, own in kept[kept["grid"] == kept["grid"].mode().iloc[0]].groupby(
        "label", sort=False
    ):
        shares = pd.Series([len(one & middle) / max(len(one), 1) for one in own["patches"]])
        by_image = shares.groupby(own["image"].to_numpy()).mean()
        texts.append(f"{label} {spread_text([100 * value for value in spread(by_image)], 0)}")
    yield (
        f"Position: percent of the kept patches in the middle half of rows and columns, which is "
        f"{100 * len(middle) / whole:.0f} % of the grid: {'; '.join(texts)}."
    )


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

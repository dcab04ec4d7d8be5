"""Where do AgilePruner's tokens come from: its walk, or the attention order that fills up?"""

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding
from agilepruner.report.contrasts import spread
from agilepruner.report.figures import looks, panels
from agilepruner.report.sheets import Sheet

FILLED = "phase.fallback"


def provenance(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Share of the kept tokens that the walk chose and that the fallback filled, image by image."""
    if FILLED not in documents:
        raise UserError("It needs a strategy with a fallback: strategy=[agilepruner].")
    images = documents.dropna(subset=[FILLED]).drop_duplicates(
        ["strategy", "parameters", "budget", "benchmark", "image"]
    )
    records = []
    keys = ["budget", "strategy", "parameters", "benchmark"]
    for (budget, strategy, parameters, benchmark), group in images.groupby(keys, sort=False):
        filled, low, high = spread(group[FILLED])
        records.append(
            {
                **{"strategy": strategy, "label": group["label"].iloc[0]},
                **{"parameters": parameters, "budget": budget, "benchmark": benchmark},
                **{"benchmark_label": group["benchmark_label"].iloc[0], "images": len(group)},
                **{
                    "walk": 1 - filled,
                    "fallback": filled,
                    "low": max(0, low),
                    "high": min(1, high),
                },
                "largest": group[FILLED].max(),
                "images_filled": (group[FILLED] > 0).mean(),
                "correlation_with_erank": group[FILLED].corr(group["erank_input"]),
            }
        )
    data = pd.DataFrame(records).sort_values(["budget", "fallback"], ignore_index=True)
    sections = []
    for (budget, label), group in data.groupby(["budget", "label"], sort=False):
        lines = [
            [
                line.benchmark_label,
                f"{100 * line.walk:.0f} %",
                f"{100 * line.fallback:.0f} % [{100 * line.low:.0f}, {100 * line.high:.0f}]",
                f"{100 * line.largest:.0f} %",
                f"{100 * line.images_filled:.0f} %",
                str(line.images),
            ]
            for line in group.itertuples()
        ]
        sections.append((f"{label}, {budget} tokens", lines))
    head = ["Images of", "walk", "fallback", "largest", "images with it", "images"]
    notes = [
        "walk: tokens kept for their attention and their distance to those kept before; fallback: "
        "the highest attention left, where the walk ran dry. Means over images, 95 % intervals.",
        "A larger tau_max suppresses more and fills up more: with all tokens from the fallback "
        "AgilePruner is FasterVLM. The paper does not say how often it happens.",
    ]
    sheet = Sheet("Where AgilePruner's tokens come from", head, sections, notes)
    return Finding(sheet, data, _figure(images))


def _figure(images: pd.DataFrame) -> Figure:
    """A histogram of the fallback's share per budget."""
    budgets = sorted(set(images["budget"]))
    figure, axes = panels(len(budgets), width=3.2, height=2.8)
    look = looks(images["strategy"])
    for ax, budget in zip(axes[0], budgets):
        own = images[images["budget"] == budget]
        for strategy, group in own.groupby("strategy"):
            color, label = look[strategy]["color"], group["label"].iloc[0]
            bins = [i / 20 for i in range(21)]
            ax.hist(group[FILLED], bins=bins, color=color, alpha=0.7, label=label)
            ax.axvline(group[FILLED].mean(), color="black", lw=1, ls="--")
        ax.set(title=f"{budget} tokens", xlabel="share from the fallback", ylabel="images")
    return figure

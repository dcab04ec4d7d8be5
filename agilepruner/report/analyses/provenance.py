"""Where do AgilePruner's tokens come from: its walk, or the attention order that fills up?"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, no_comparison
from agilepruner.report.contrasts import (
    ALIKE,
    FEWEST,
    correlation,
    enough,
    interval_text,
    judged,
    of_images,
    spread,
    spread_text,
)
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
                    "low": np.maximum(0, low),
                    "high": np.minimum(1, high),
                },
                "largest": group[FILLED].max(),
                "images_filled": (group[FILLED] > 0).mean(),
                "correlation_with_erank": group[FILLED].corr(group["erank_input"]),
            }
        )
    data = pd.DataFrame(records).sort_values(["budget", "fallback"], ignore_index=True)
    data["verdict"] = _most_of_it(images, data)
    sections = []
    for (budget, label), group in data.groupby(["budget", "label"], sort=False):
        lines = [
            [
                line.benchmark_label,
                f"{100 * line.walk:.0f} %",
                f"{spread_text([100 * v for v in (line.fallback, line.low, line.high)], 0)} %",
                line.verdict,
                f"{100 * line.largest:.0f} %",
                f"{100 * line.images_filled:.0f} %",
                str(line.images),
            ]
            for line in group.itertuples()
        ]
        sections.append((f"{label}, {budget} tokens", lines))
    head = ["Images of", "walk", "fallback", "against half", "largest", "images with it", "images"]
    notes = [
        "walk: tokens kept for their attention and their distance to those kept before; fallback: "
        "the highest attention left, where the walk ran dry. Means over images, 95 % intervals.",
        "A larger tau_max suppresses more and fills up more: with all tokens from the fallback "
        "AgilePruner is FasterVLM.",
        f"against half: whether the fallback fills more than half of the budget; corrected for "
        f"{int((data['verdict'] != '').sum())} comparisons by Holm's method; equivalent: within "
        f"±{ALIKE:g} % of the budget.",
        "The thresholds are distances in one model's feature space. Whether the demo model needs a "
        "tau_max of its own was tried on scenes of another seed: results/tau_max.md.",
        "The paper says nothing of how often its walk runs dry.",
        *_said(images),
        no_comparison("the paper prints no such shares"),
    ]
    sheet = Sheet("Where AgilePruner's tokens come from", head, sections, notes)
    return Finding(sheet, data, _figure(images))


def _most_of_it(images: pd.DataFrame, data: pd.DataFrame) -> list[str]:
    """Of each line: is the fallback's share above one half; empty: too few images."""
    groups = images.groupby(["budget", "parameters", "strategy", "benchmark"])[FILLED]
    known = [
        (place, of_images(values - 0.5))
        for place, line in enumerate(data.itertuples())
        if enough(
            values := groups.get_group(
                (line.budget, line.parameters, line.strategy, line.benchmark)
            )
        )
    ]
    found = [""] * len(data)
    judgements = judged([one for _, one in known], [ALIKE / 100] * len(known), [0] * len(known))
    for (place, _), (verdict, _) in zip(known, judgements):
        found[place] = verdict
    return found


def _said(images: pd.DataFrame) -> Iterator[str]:
    """The fallback's share over all images, a note per budget, and how it goes with complexity."""
    once = images.drop_duplicates(["strategy", "parameters", "budget", "image"])
    for (budget, label), group in once.groupby(["budget", "label"]):
        share = spread_text([100 * value for value in spread(group[FILLED])], 0)
        text = f"Here, at {budget} tokens, the fallback fills {share} % of {label}'s budget"
        if len(group) > FEWEST and min(group[FILLED].std(), group["erank_input"].std()) > 0:
            r = correlation(group["erank_input"].to_numpy(), group[FILLED].to_numpy())
            text += f" ({len(group)} images; correlation with erank {interval_text(r, 2)})"
        yield f"{text}."


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

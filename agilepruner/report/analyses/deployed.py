"""Is what engines ship the method that was published?"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, no_comparison
from agilepruner.report.analyses.overlap import by_chance
from agilepruner.report.contrasts import difference, interval_text, over_benchmarks, spread, wide
from agilepruner.report.estimates import judge
from agilepruner.report.figures import looks, panels
from agilepruner.report.frames import patches_of
from agilepruner.report.sheets import Sheet, signed
from agilepruner.report.statistics import MARGINS

PAIRS = {"dart": "dart_embedding", "cdpruner": "cdpruner_halves"}  # published: as engines ship it
UNIT = ["benchmark", "document", "image"]


def deployed(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Published methods beside their deployed variants: what both keep, and what both answer.

    Compared at the same budget and, as the budget of a method inside the language model is an
    average over layers, also where both leave as many tokens.
    """
    scores = wide(documents, ["strategy", "budget"])
    data = pd.DataFrame(_compared(documents, scores))
    if data.empty:
        raise UserError(
            "It needs a method and its deployed variant: strategy=[dart,dart_embedding]."
        )
    found = judge(list(data["estimate"]), [MARGINS.average] * len(data), [1] * len(data))
    data["verdict"], data["p"] = zip(*found)
    titles = dict(zip(scores["benchmark"], scores["benchmark_label"]))
    labels = dict(zip(documents["strategy"], documents["label"]))
    sections = list(_sections(data, scores, titles, labels))
    head = ["", "budget", "tokens left", *titles.values()]
    head += ["mean", "verdict", "intersection / union", "at random", "at most"]
    count, images = len(scores), scores["image"].nunique()
    notes = [
        f"{count} documents on {images} images. First line of a pair: percent of a full score. "
        "Second: differences to it, paired by document; 95 % intervals by leaving out images, not "
        "corrected.",
        "Tokens left: after the last stage, for a method inside the language model, whose budget "
        "is an average over layers; so a second comparison has as many tokens left in both.",
        "Intersection / union of the kept patches, mean over images; at random: of two sets of "
        "these sizes; at most: of one inside the other.",
        f"Verdicts: corrected for {len(data)} means by Holm's method; equivalent: within "
        f"±{MARGINS.average:g} point.",
        *(
            f"Here, {labels[one.variant]} at {one.variant_budget} against {labels[one.method]} at "
            f"{one.budget}: {one.verdict}, {interval_text(one.estimate)} points; "
            f"intersection / union {one.iou:.2f}."
            for one in data.itertuples()
        ),
        "The paper says nothing of what inference engines ship.",
        no_comparison("it is our question"),
    ]
    sheet = Sheet("Deployed variants", head, sections, notes)
    return Finding(sheet, data.drop(columns="estimate"), _figure(data, labels))


def _kept(documents: pd.DataFrame) -> dict[tuple[str, int], pd.Series]:
    """(strategy, budget) -> the kept patches of each document, a set each."""
    known = documents[documents["selection"].notna()]
    pairs = list(zip(known["selection"], known["grid"]))
    sets = {pair: frozenset(patches_of(*pair)) for pair in set(pairs)}
    known = known.assign(patches=[sets[pair] for pair in pairs])
    return {
        line: group.drop_duplicates(UNIT).set_index(UNIT)["patches"]
        for line, group in known.groupby(["strategy", "budget"], sort=False)
    }


def _compared(documents: pd.DataFrame, scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A record per pair of lines that has equal budgets or as many tokens left."""
    kept = _kept(documents)
    for method, variant in PAIRS.items():
        lines = [[line for line in kept if line[0] == name] for name in (method, variant)]
        for line, other in product(*lines):
            first, second = f"{line[0]}@{line[1]}", f"{other[0]}@{other[1]}"
            if not {first, second} <= set(scores):
                continue
            both = pd.concat([kept[line], kept[other]], axis=1, join="inner")
            sets, images = both.to_numpy(), both.index.get_level_values("image")
            sizes = [float(np.mean([len(one) for one in column])) for column in sets.T]
            if line[1] != other[1] and sizes[0] != sizes[1]:
                continue
            ratios = pd.Series([len(a & b) / len(a | b) for a, b in sets], index=images)
            iou, iou_low, iou_high = spread(ratios.groupby(level=0).mean())
            found = over_benchmarks(scores, second, first)
            low, high = found.interval()
            yield {
                **{"method": method, "budget": line[1], "kept": sizes[0]},
                **{"variant": variant, "variant_budget": other[1], "variant_kept": sizes[1]},
                **{"iou": iou, "iou_low": iou_low, "iou_high": iou_high},
                "chance": by_chance(sets, documents["grid"].dropna().iloc[0]),
                "most": min(sizes) / max(sizes),
                **{"difference": found.point, "low": low, "high": high, "estimate": found},
            }


def _sections(
    data: pd.DataFrame, scores: pd.DataFrame, titles: dict[str, str], labels: dict[str, str]
) -> Iterator[tuple[str, list[list[str]]]]:
    """A section per pair of methods, two lines per comparison."""
    for method, group in data.groupby("method", sort=False):
        lines = []
        for one in group.itertuples():
            first, second = f"{method}@{one.budget}", f"{one.variant}@{one.variant_budget}"
            parts = {name: part for name, part in scores.groupby("benchmark")}
            own = {name: 100 * parts[name][first].mean() for name in titles}
            points = [signed(difference(parts[name], second, first).point, 1) for name in titles]
            lines += [
                [
                    *(labels[str(method)], f"{one.budget}", f"{one.kept:.0f}"),
                    *(f"{own[name]:.1f}" for name in titles),
                    *(f"{np.mean(list(own.values())):.1f}", "", "", "", ""),
                ],
                [
                    *(labels[one.variant], f"{one.variant_budget}", f"{one.variant_kept:.0f}"),
                    *(*points, interval_text(one.estimate), one.verdict),
                    f"{one.iou:.2f} [{one.iou_low:.2f}, {one.iou_high:.2f}]",
                    *(f"{one.chance:.2f}", f"{one.most:.2f}"),
                ],
            ]
        yield f"{labels[str(method)]}, and as deployed", lines


def _figure(data: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Differences of accuracy, and overlaps between what chance gives and what is possible."""
    figure, (axes,) = panels(2, width=4.2, height=0.7 + 0.5 * len(data))
    names = [
        f"{labels[one.variant]} {one.variant_budget}\n{labels[one.method]} {one.budget}"
        for one in data.itertuples()
    ]
    colours = [looks([one])[one]["color"] for one in data["variant"]]
    for y, (one, colour) in enumerate(zip(data.itertuples(), colours)):
        for ax, value, low, high in (
            (axes[0], one.difference, one.low, one.high),
            (axes[1], one.iou, one.iou_low, one.iou_high),
        ):
            error = [[value - low], [high - value]]
            ax.errorbar(value, y, xerr=error, marker="o", ls="", capsize=3, color=colour)
        axes[1].plot([one.chance, one.most], [y, y], ls="", marker="|", ms=14, color="black")
    axes[0].axvline(0, color="black", lw=0.8)
    axes[0].set(xlabel="points, deployed minus published", yticks=range(len(data)))
    axes[0].set_yticklabels(names, fontsize=7)
    axes[1].set(
        xlabel="intersection / union (bars: at random, at most)",
        yticks=range(len(data)),
        yticklabels=[],
        xlim=(0, 1.03),
    )
    for ax in axes:
        ax.margins(y=0.3)
        ax.invert_yaxis()
    return figure

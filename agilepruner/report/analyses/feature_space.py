"""In which feature space does the effective rank have the published values?"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.report.analyses import Finding, no_comparison, printed
from agilepruner.report.analyses.complexity import NAMES
from agilepruner.report.contrasts import (
    ALIKE,
    enough,
    interval_text,
    judged,
    minus,
    of_images,
    spread,
    spread_text,
)
from agilepruner.report.figures import NEUTRAL, panels
from agilepruner.report.sheets import Sheet

PUBLISHED_OF = "llava_1_5_7b"


def feature_space(cells: pd.DataFrame, documents: pd.DataFrame, images: pd.DataFrame) -> Finding:
    """Mean effective rank of each benchmark in four spaces, beside the published one."""
    spaces = [name for name in images.columns if name.endswith("centred")]
    strata = documents.drop_duplicates(["benchmark", "image"])[["benchmark", "image", "stratum"]]
    about = images.merge(strata, on=["benchmark", "image"], how="left")
    named = about["benchmark_label"].where(
        ~about["benchmark"].isin(list(NAMES)), about["benchmark"].map(NAMES)
    )
    mme = (about["benchmark"] == "mme") & about["stratum"].notna()
    about["what"] = named.where(~mme, "MME: " + about["stratum"].astype(str))
    said = printed("feature_space").set_index("what")["value"]
    records = [
        {
            **{"what": what, "space": space, "images": len(group), "published": said.get(what)},
            **dict(zip(("erank", "low", "high"), spread(group[space]))),
        }
        for what, group in about.groupby("what")
        for space in spaces
    ]
    data = pd.DataFrame(records)
    lines = []
    for what, own in data.groupby("what", sort=False):
        texts = [spread_text((r.erank, r.low, r.high)) for r in own.itertuples()]
        value = own["published"].iloc[0]
        shown = "–" if pd.isna(value) else f"{value:.0f}"
        lines.append([str(what), str(own["images"].iloc[0]), *texts, shown])
    notes = [
        "Of the singular values, in double precision, without the rounding of the released N x N "
        "spectrum. The released code measures projected, centred tokens; notes on the paper's "
        "formula have no centring.",
        "The last column is LLaVA-1.5-7B's, second-hand: it answers the question for that model "
        "only.",
    ]
    notes += _compared(data, about, spaces, set(cells["model"]) == {PUBLISHED_OF})
    head = ["Images of", "images", *spaces, "published"]
    sheet = Sheet("Feature space of the effective rank", head, [("", lines)], notes)
    return Finding(sheet, data, _figure(data, spaces))


def _compared(
    data: pd.DataFrame, about: pd.DataFrame, spaces: list[str], same_model: bool
) -> Iterator[str]:
    """Notes: which space has the published values, and in which POPE is above ScienceQA."""
    yield (
        "The paper says: the images of POPE have an effective rank of 106, those of ScienceQA of "
        "74, and so on (last column)."
    )
    parts = {what: group for what, group in about.groupby("what")}
    low, high = (parts.get(what) for what in ("ScienceQA", "POPE"))
    if low is not None and high is not None and enough(low[spaces[0]], high[spaces[0]]):
        found = [minus(of_images(high[space]), of_images(low[space])) for space in spaces]
        margins = [ALIKE / 100 * about[space].mean() for space in spaces]
        verdicts = judged(found, margins, [0] * len(spaces))
        texts = [
            f"{space} {interval_text(one)}: {verdict}"
            for space, one, (verdict, _) in zip(spaces, found, verdicts)
        ]
        yield (
            f"Here, POPE minus ScienceQA: {'; '.join(texts)} (Holm's correction for {len(spaces)} "
            f"comparisons; equivalent: within ±{ALIKE:g} % of the mean)."
        )
    known = data.dropna(subset=["published"])
    if not same_model or known.empty:
        yield no_comparison(f"the published values are those of {PUBLISHED_OF}")
        return
    misses = 100 * (known["erank"] / known["published"] - 1)
    by_space = misses.abs().groupby(known["space"]).mean().sort_values()
    texts = [f"{space} by {miss:.0f} %" for space, miss in by_space.items()]
    yield f"Here, the published values are missed, on average: {', '.join(texts)}."
    inside = (known["low"] <= known["published"]) & (known["published"] <= known["high"])
    counts = inside.groupby(known["space"]).sum()
    best = by_space.index[0]
    yield (
        f"Agreement with the paper: of {known['what'].nunique()} published values "
        f"{counts[best]} lie in the interval of the closest space ({best}); "
        + ", ".join(f"{space} {counts[space]}" for space in by_space.index[1:])
        + "."
    )


def _figure(data: pd.DataFrame, spaces: list[str]) -> Figure:
    """A panel per space: the mean of each group of images."""
    figure, axes = panels(len(spaces), width=2.8, height=3.0)
    for ax, space in zip(axes[0], spaces):
        own = data[data["space"] == space].reset_index(drop=True)
        error = [own["erank"] - own["low"], own["high"] - own["erank"]]
        ax.errorbar(own["erank"], own.index, xerr=error, fmt="o", ms=4, color=NEUTRAL, capsize=2)
        ax.set_yticks(own.index, own["what"] if space == spaces[0] else [""] * len(own))
        ax.set(title=space, xlabel="effective rank")
    return figure

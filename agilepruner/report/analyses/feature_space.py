"""In which feature space does the effective rank have the published values?"""

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.report.analyses import Finding, printed
from agilepruner.report.contrasts import spread
from agilepruner.report.figures import NEUTRAL, panels
from agilepruner.report.sheets import Sheet

NAMES = {"scienceqa_img": "ScienceQA", "pope": "POPE"}  # as the paper names them


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
        texts = [f"{r.erank:.1f} [{r.low:.1f}, {r.high:.1f}]" for r in own.itertuples()]
        value = own["published"].iloc[0]
        shown = "–" if pd.isna(value) else f"{value:.0f}"
        lines.append([str(what), str(own["images"].iloc[0]), *texts, shown])
    notes = [
        "By singular values, so without the rounding of the released N x N spectrum. The released "
        "code measures projected, centred tokens; notes on the paper's formula have no centring.",
        "The last column is LLaVA-1.5-7B's, second-hand: it answers the question for that model "
        "only.",
    ]
    if set(cells["model"]) == {"llava_1_5_7b"}:
        notes.append(_closest(data))
    head = ["Images of", "images", *spaces, "published"]
    sheet = Sheet("Feature space of the effective rank", head, [("", lines)], notes)
    return Finding(sheet, data, _figure(data, spaces))


def _closest(data: pd.DataFrame) -> str:
    """Which space misses the published values least, in percent of them."""
    known = data.dropna(subset=["published"])
    if known.empty:
        return "No published value for these images."
    misses = 100 * (known["erank"] / known["published"] - 1).abs()
    by_space = misses.groupby(known["space"]).mean().sort_values()
    texts = [f"{space} by {miss:.0f} %" for space, miss in by_space.items()]
    return f"The published values are missed, on average: {', '.join(texts)}."


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

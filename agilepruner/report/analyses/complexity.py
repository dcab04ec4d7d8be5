"""How complex are the images of each benchmark: effective rank and attention entropy."""

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import pearsonr

from agilepruner.report.analyses import Finding, printed
from agilepruner.report.figures import NEUTRAL, panels
from agilepruner.report.sheets import Sheet

MEASURES = {"erank_input": "effective rank", "entropy": "attention entropy (nats)"}


def complexity(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Means per benchmark and MME subtask, their correlation and histograms.

    An image counts once per benchmark, however many documents ask about it.
    """
    plain = documents[documents["strategy"] == "vanilla"]
    images = plain.drop_duplicates(["benchmark", "stratum", "image"])
    data = _groups(images)
    unique = images.drop_duplicates("image")
    both = unique.dropna(subset=list(MEASURES))
    head = ["Images of", "images", "erank", "± sd", "entropy", "± sd"]
    model = cells["model"].iloc[0]
    measured = [
        [
            line.what,
            str(line.images),
            *(f"{value:.1f}" for value in (line.erank, line.erank_sd)),
            *(f"{value:.2f}" for value in (line.entropy, line.entropy_sd)),
        ]
        for line in data.itertuples()
    ]
    sections = [(f"Measured: {model}, suite {cells['suite'].iloc[0]}", measured)]
    said = printed("complexity").pivot(index="what", columns="metric", values="value")
    lines = [
        [what, "", f"{one['erank']:.0f}", "", f"{one['entropy']:.2f}", ""]
        for what, one in said.sort_values("erank").iterrows()
    ]
    if lines:
        sections.append(("Published: LLaVA-1.5-7B (second-hand)", lines))
    notes = ["erank: of all projected tokens; entropy: of the CLS attention; each image once."]
    if len(both) > 2:
        r = pearsonr(both["erank_input"], both["entropy"]).statistic
        notes.append(
            f"Correlation of erank and entropy over {len(both)} images (Pearson): {r:.2f}. "
            "The paper says that both rise together: 0.63 in one note on it, above 0.8 in another."
        )
    notes += _extremes(unique)
    sheet = Sheet("Complexity of images", head, sections, notes)
    return Finding(sheet, data, _figure(images, both))


def _groups(images: pd.DataFrame) -> pd.DataFrame:
    """A line per benchmark and, where its documents have strata, per stratum; by erank."""
    groups = [(one["benchmark_label"].iloc[0], one) for _, one in images.groupby("benchmark")]
    for _, one in images[images["stratum"] != ""].groupby(["benchmark", "stratum"]):
        groups.append((f"{one['benchmark_label'].iloc[0]}: {one['stratum'].iloc[0]}", one))
    records = []
    for what, group in groups:
        one = group.drop_duplicates("image")
        rank, entropy = one["erank_input"], one["entropy"]
        records.append(
            {
                "what": what,
                "benchmark": one["benchmark"].iloc[0],
                "images": len(one),
                "erank": rank.mean(),
                "erank_sd": rank.std(),
                "entropy": entropy.mean(),
                "entropy_sd": entropy.std(),
            }
        )
    return pd.DataFrame(records).sort_values("erank", ignore_index=True)


def _extremes(images: pd.DataFrame) -> list[str]:
    """Which single image is the simplest and which the most complex."""
    found = []
    for name, words in (("idxmin", "lowest"), ("idxmax", "highest")):
        one = images.loc[getattr(images["erank_input"], name)()]
        kind = f", {one['kind']}" if one["kind"] else ""
        found.append(
            f"{words} erank {one['erank_input']:.1f}: document {one['document']} of "
            f"{one['benchmark_label']}{kind}, entropy {one['entropy']:.2f}"
        )
    return ["; ".join(found).capitalize() + "."]


def _figure(images: pd.DataFrame, both: pd.DataFrame) -> Figure:
    """Boxes of images per benchmark, one measure against the other, and a histogram of each."""
    figure, axes = panels(3, 2, width=3.8, height=3.3)
    once = images.drop_duplicates(["benchmark", "image"])
    order = once.groupby("benchmark_label")["erank_input"].mean().sort_values().index
    for ax, (name, label) in zip(axes[0], MEASURES.items()):
        values = [once[once["benchmark_label"] == one][name].dropna() for one in order]
        box = ax.boxplot(
            values,
            orientation="horizontal",
            tick_labels=list(order),
            widths=0.6,
            patch_artist=True,
            flierprops={"markersize": 3, "markeredgecolor": NEUTRAL},
            medianprops={"color": "black"},
        )
        for patch in box["boxes"]:
            patch.set(facecolor="#D9DEE3", edgecolor=NEUTRAL)
        ax.set(xlabel=label, title="Images of each benchmark")
        ax.grid(visible=False, axis="y")
    axes[0, 2].scatter(both["entropy"], both["erank_input"], s=9, color=NEUTRAL, alpha=0.6, lw=0)
    axes[0, 2].set(xlabel=MEASURES["entropy"], ylabel=MEASURES["erank_input"], title="Every image")
    unique = images.drop_duplicates("image")
    for ax, (name, label) in zip(axes[1], MEASURES.items()):
        ax.hist(unique[name].dropna(), bins=30, color=NEUTRAL)
        ax.set(xlabel=label, ylabel="images", title="Histogram of all images")
    axes[1, 2].set_axis_off()
    return figure

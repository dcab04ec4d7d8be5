"""Does an image's effective rank survive noise, blur, low contrast and JPEG? What does it cost?"""

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.report.analyses import Finding, printed
from agilepruner.report.contrasts import spread
from agilepruner.report.figures import NEUTRAL, panels
from agilepruner.report.sheets import Sheet, signed


def robustness(cells: pd.DataFrame, documents: pd.DataFrame, images: pd.DataFrame) -> Finding:
    """Change of the effective rank under corruptions of three strengths, image by image."""
    once = images.drop_duplicates("image")
    kinds = [name for name in once.columns if name.split(" ")[-1] in ("1", "2", "3")]
    records = []
    for name in kinds:
        kind, strength = name.split(" ")
        change = once[name] - once["clean"]
        deviation, low, high = spread(change.abs())
        numbers = {"deviation": deviation, "low": low, "high": high, "change": change.mean()}
        correlation = once[name].corr(once["clean"], method="spearman")
        about = {"kind": kind, "strength": int(strength), "images": len(once)}
        records.append({**about, **numbers, "spearman": correlation})
    data = pd.DataFrame(records)
    lines = [
        [
            f"{line.kind} {line.strength}",
            f"{line.deviation:.2f} [{line.low:.2f}, {line.high:.2f}]",
            signed(line.change, 2),
            f"{line.spearman:.2f}",
        ]
        for line in data.itertuples()
    ]
    mean = data["deviation"].mean()
    clean = once["clean"].mean()
    sections = [(f"Measured: {cells['model'].iloc[0]}, {len(once)} images", lines)]
    said = printed("robustness")
    published = [
        [f"15 corruptions, {one.what}", f"{one.value:.2f}", "", ""]
        for one in said[said["metric"] == "deviation"].itertuples()
    ]
    if published:
        sections.append(("Published, LLaVA-1.5-7B, second-hand", published))
    notes = [
        f"Mean absolute change of erank, 95 % intervals over images; erank is {clean:.1f} on clean "
        f"images. Mean of the {len(data)} lines: {mean:.2f}, {100 * mean / clean:.0f} % of it.",
        "rank order: Spearman's correlation with the clean images. Kinds and strengths are our "
        "choice; the published means are of 15 corruptions and have no unit in our source.",
        _cost(cells, once),
    ]
    head = ["Corruption", "mean deviation", "change", "rank order"]
    sheet = Sheet("Robustness of the effective rank", head, sections, notes)
    return Finding(sheet, data, _figure(data))


def _cost(cells: pd.DataFrame, once: pd.DataFrame) -> str:
    """What the effective rank takes, beside the tower and AgilePruner's whole cell."""
    took, tower = once["milliseconds"].median(), once["encode_milliseconds"].median()
    text = (
        f"Cost of erank at batch 1: {took:.2f} ms an image (median); the vision tower {tower:.1f}"
    )
    own = cells[cells["strategy"] == "agilepruner"]
    parts = [f"seconds_{part}" for part in ("encode", "select", "generate")]
    if len(own) and set(parts) <= set(own.columns):
        whole = 1000 * own[parts].sum().sum() / own["n"].sum()
        text += f", an answer {whole:.1f} (batched): {100 * took / whole:.0f} %"
    return f"{text}. Published: 3.65 ms on an RTX 4090, LLaVA-1.5-7B."


def _figure(data: pd.DataFrame) -> Figure:
    """Deviation and rank order by strength, a line per kind."""
    figure, axes = panels(2, width=3.8, height=3.0)
    styles = zip(data.groupby("kind", sort=False), ("-", "--", ":", "-."), "osD^")
    for (kind, own), line, marker in styles:
        error = [own["deviation"] - own["low"], own["high"] - own["deviation"]]
        look = {"color": NEUTRAL, "ls": line, "marker": marker, "ms": 5, "label": kind}
        axes[0, 0].errorbar(own["strength"], own["deviation"], error, capsize=2, **look)
        axes[0, 1].plot(own["strength"], own["spearman"], **look)
    axes[0, 0].set(xlabel="strength", ylabel="mean |change| of erank", xticks=[1, 2, 3])
    axes[0, 1].set(xlabel="strength", ylabel="rank order (Spearman)", xticks=[1, 2, 3])
    axes[0, 1].set_ylim(top=1.02)
    axes[0, 0].legend()
    return figure

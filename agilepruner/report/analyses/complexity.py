"""How complex are the images of each benchmark: effective rank and attention entropy."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.report.analyses import Finding, Pictures, agreement, no_comparison, printed
from agilepruner.report.contrasts import (
    ALIKE,
    FEWEST,
    UNRELATED,
    average_of,
    correlation,
    enough,
    interval_text,
    judged,
    minus,
    of_images,
)
from agilepruner.report.estimates import Estimate
from agilepruner.report.figures import NEUTRAL, panels, sheet_of_images
from agilepruner.report.sheets import Sheet

MEASURES = {"erank_input": "effective rank", "entropy": "attention entropy (nats)"}
SHORT = {"erank_input": "erank", "entropy": "entropy"}
NAMES = {"scienceqa_img": "ScienceQA", "pope": "POPE"}  # as the paper names them
LEVEL = 90  # effective rank: the paper's simple sets are below it, its complex ones above
SIGNS = {"higher": "above zero", "lower": "below zero"}  # verdicts on a correlation
SHOWN = 6  # images at each extreme


def complexity(cells: pd.DataFrame, documents: pd.DataFrame, pictures: Pictures) -> Finding:
    """Means per benchmark and MME subtask, their correlation, histograms and the extremes.

    An image counts once per benchmark, however many documents ask about it.
    """
    plain = documents[documents["strategy"] == "vanilla"]
    images = plain.drop_duplicates(["benchmark", "stratum", "image"])
    groups = list(_groups(images))
    data = _means(groups)
    unique = images.drop_duplicates("image")
    both = unique.dropna(subset=list(MEASURES))
    head = ["Images of", "images", "erank", "± sd", "entropy", "± sd"]
    model = cells["model"].iloc[0]
    measured = [
        [
            line.what,
            str(line.images),
            *(_shown(value, 1) for value in (line.erank, line.erank_sd)),
            *(_shown(value, 2) for value in (line.entropy, line.entropy_sd)),
        ]
        for line in data.itertuples()
    ]
    sections = [(f"Measured: {model}, suite {cells['suite'].iloc[0]}", measured)]
    said = printed("complexity").pivot(index="what", columns="metric", values="value")
    said = said.dropna(subset=list(SHORT.values())) if len(said) else said
    lines = [
        [what, "", f"{one['erank']:.0f}", "", f"{one['entropy']:.2f}", ""]
        for what, one in said.sort_values("erank").iterrows()
    ]
    if lines:
        sections.append(
            ("Published: LLaVA-1.5-7B (single images: its page, else second-hand)", lines)
        )
    notes = ["erank: of all projected tokens; entropy: of the CLS attention; each image once."]
    notes += _compared(dict(groups), said, both)
    ends = {
        (name, end): unique.dropna(subset=[name]).sort_values(name, ascending=end == "lowest")
        for name in MEASURES
        for end in ("lowest", "highest")
    }
    notes.append(_extremes(ends))
    sheet = Sheet("Complexity of images", head, sections, notes)
    return Finding(sheet, data, _figure(images, both, ends, pictures))


def _shown(value: float, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def _groups(images: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The images of each benchmark and, where its documents have strata, of each stratum."""
    for benchmark, group in images.groupby("benchmark"):
        label = NAMES.get(str(benchmark), group["benchmark_label"].iloc[0])
        yield label, group.drop_duplicates("image")
        for stratum, part in group[group["stratum"] != ""].groupby("stratum"):
            yield f"{label}: {stratum}", part.drop_duplicates("image")


def _means(groups: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """A line per group, by erank."""
    records = [
        {
            **{"what": what, "benchmark": one["benchmark"].iloc[0], "images": len(one)},
            **{"erank": one["erank_input"].mean(), "erank_sd": one["erank_input"].std()},
            **{"entropy": one["entropy"].mean(), "entropy_sd": one["entropy"].std()},
        }
        for what, one in groups
    ]
    return pd.DataFrame(records).sort_values("erank", ignore_index=True)


def _compared(
    groups: dict[str, pd.DataFrame], said: pd.DataFrame, both: pd.DataFrame
) -> Iterator[str]:
    """Notes: do both measures rise together, and are the paper's simple sets the simple ones."""
    questions: list[tuple[str, str, Estimate, float]] = []
    if len(both) > FEWEST and min(both[name].std() for name in MEASURES) > 0:
        r = correlation(*(both[name].to_numpy() for name in MEASURES))
        text = f"correlation of erank and entropy over {len(both)} images (Pearson)"
        questions.append((text, interval_text(r, 2), r, UNRELATED))
    for name, short in SHORT.items():
        sides: dict[str, list[Estimate]] = {"complex": [], "simple": []}
        used = []
        for what, one in said.iterrows():
            values = groups[what][name].dropna() if what in groups else pd.Series(dtype=float)
            if enough(values):
                side = "simple" if one["erank"] < LEVEL else "complex"
                sides[side].append(of_images(values))
                used.append(f"{what} ({side})")
        if all(sides.values()):
            found = minus(*(average_of(sides[side]) for side in ("complex", "simple")))
            mean = sum(one.point for side in sides.values() for one in side) / len(used)
            text = f"{short} of the paper's complex sets minus its simple ones, {', '.join(used)}"
            margin = ALIKE / 100 * mean
            questions.append(
                (text, interval_text(found, 1 if short == "erank" else 2), found, margin)
            )
    yield (
        "The paper says: erank and entropy rise together (a correlation of 0.63 in one note on it, "
        "above 0.8 in another), and ScienceQA and MME's OCR, calculation and translation are "
        f"simpler than POPE and MME's position, scene and count (erank below and above {LEVEL})."
    )
    estimates = [one for _, _, one, _ in questions]
    judgements = judged(estimates, [margin for *_, margin in questions], [0] * len(questions))
    for (text, value, _, _), (verdict, _) in zip(questions, judgements):
        words = SIGNS.get(verdict, verdict) if "Pearson" in text else verdict
        yield f"Here, {text}: {value}, {words}."
    yield (
        f"Verdicts: corrected for {len(questions)} comparisons by Holm's method; sets are taken as "
        f"independent; equivalent: within ±{UNRELATED:g} (correlation), {ALIKE:g} % of the mean."
    )
    if questions:
        yield agreement([("higher", verdict) for verdict, _ in judgements])
    else:
        yield no_comparison("none of the paper's sets has enough images here")


def _extremes(ends: dict[tuple[str, str], pd.DataFrame]) -> str:
    """Which single images are at the ends; the figure shows them."""
    found = []
    for (name, end), images in ends.items():
        one = images.iloc[0]
        kind = f" ({one['kind']})" if one["kind"] else ""
        digits = 1 if name == "erank_input" else 2
        found.append(
            f"{end} {SHORT[name]} {one[name]:.{digits}f}: document {one['document']} of "
            f"{one['benchmark_label']}{kind}"
        )
    return f"Single images, drawn in the figure: {'; '.join(found)}."


def _figure(
    images: pd.DataFrame,
    both: pd.DataFrame,
    ends: dict[tuple[str, str], pd.DataFrame],
    pictures: Pictures,
) -> Figure:
    """Boxes of images per benchmark, both measures, a histogram of each; the images at the ends."""
    figure, axes = panels(3, 2, width=3.8, height=3.1, below=4 * 1.75)
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
    rows = []
    for (name, end), found in ends.items():
        few = found.head(SHOWN)
        captions = [
            f"erank {one.erank_input:.1f}, entropy {one.entropy:.2f}\n"
            f"{one.benchmark_label} {one.document}"
            for one in few.itertuples()
        ]
        rows.append((f"{end.capitalize()} {SHORT[name]}", pictures(few), captions))
    sheet_of_images(figure, rows, SHOWN)
    return figure

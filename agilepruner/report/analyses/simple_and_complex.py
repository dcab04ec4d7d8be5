"""Does attention win on simple images and diversity on complex ones?"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, agreement, printed
from agilepruner.report.contrasts import FEWEST, difference, interval_text, judged, minus
from agilepruner.report.estimates import Estimate, average_of
from agilepruner.report.figures import looks, panels
from agilepruner.report.sheets import Sheet
from agilepruner.report.statistics import MARGINS

THIRDS = ("simple", "middle", "complex")
CONTRAST = "complex − simple"
PUBLISHED = "Published, LLaVA-1.5-7B, second-hand: diversity minus attention"
BY = {"erank_input": "erank", "entropy": "entropy"}
ATTENTION, DIVERSITY = "fastervlm", "divprune"


def simple_and_complex(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Scores minus vanilla's in thirds of erank and of entropy, and the interaction.

    Thirds are of the images of each benchmark, so that every third holds the same benchmarks (our
    choice: thirds of all images together would compare benchmarks). The interaction is diversity
    minus attention on complex images, minus the same on simple ones: above zero, says the paper.
    """
    wide = side_by_side(documents)
    pairs = list(_pairs(cells))
    sections, records = [], []
    asked: list[tuple[int, str, Estimate]] = []  # the interaction: budget, measure, estimate
    for measure, name in BY.items():
        thirds = split(wide, measure)
        lines = []
        for label, strategy, budget, first, second in pairs:
            found = [mean_difference(third, first, second) for third in thirds]
            found.append(minus(found[2], found[0]))
            if not strategy:
                asked.append((budget, name, found[3]))
            lines.append([label, *map(interval_text, found), f"{found[3].p:.3f}"])
            known = {"by": name, "label": label, "strategy": strategy, "budget": budget}
            records += [
                {**known, "images": part, **_numbers(one)}
                for part, one in zip((*THIRDS, CONTRAST), found)
            ]
        sizes = ", ".join(f"{len(third)} documents" for third in thirds)
        names = ", ".join(dict.fromkeys(thirds[0]["benchmark_label"]))
        sections.append((f"By {name}: {sizes} ({names})", lines))
    lines = list(_published())
    if lines:
        sections.append((f"{PUBLISHED}, by erank below or above 90 (our split)", lines))
    head = ["Points", *(f"{third} images" for third in THIRDS), CONTRAST, "p of 0"]
    notes = [
        "Mean over benchmarks of the mean difference per document, percent of a full score; 95 % "
        "intervals by leaving out images, not corrected for the number of lines.",
        "Thirds are of each benchmark's own images (our choice); a benchmark with fewer than "
        f"{FEWEST} images in a third is left out.",
        f"The paper says that the last column is above zero for {DIVERSITY} minus {ATTENTION}.",
    ]
    data = pd.DataFrame(records)
    verdicts = judged([one for *_, one in asked], [MARGINS.average] * len(asked), [0] * len(asked))
    for (budget, name, one), (verdict, p) in zip(asked, verdicts):
        notes.append(
            f"Here, at {budget} tokens by {name}: {interval_text(one)}, {verdict} (p {p:.2f})."
        )
    notes.append(
        f"Verdicts on that column: corrected for {len(asked)} comparisons by Holm's method; "
        f"equivalent: within ±{MARGINS.average:g} point."
    )
    notes.append(agreement(("higher", verdict) for verdict, _ in verdicts))
    sheet = Sheet("Scores on simple and on complex images", head, sections, notes)
    return Finding(sheet, data, _figure(data))


def side_by_side(documents: pd.DataFrame) -> pd.DataFrame:
    """A line per benchmark and document, a column of scores per strategy and budget."""
    about = ["benchmark", "benchmark_label", "document", "image"]
    plain = documents[documents["strategy"] == "vanilla"]
    if plain.empty:
        raise UserError("It compares with vanilla: leave vanilla=true.")
    known = plain[[*about, *BY]].set_index(["benchmark", "document"])
    named = documents.assign(column=documents["strategy"] + "@" + documents["budget"].astype(str))
    scores = named.pivot_table(index=["benchmark", "document"], columns="column", values="score")
    return known.join(scores).dropna().reset_index()


def _pairs(cells: pd.DataFrame) -> Iterator[tuple[str, str, int, str, str]]:
    """What is compared: (label, strategy, budget, column, column that it is held against)."""
    vanilla = cells[cells["strategy"] == "vanilla"].iloc[0]
    base = f"vanilla@{vanilla['budget']}"
    pruned = cells[cells["strategy"] != "vanilla"]
    for budget, group in pruned.groupby("budget", sort=False):
        lines = group.drop_duplicates("strategy")
        for line in lines.itertuples():
            own = f"{line.strategy}@{budget}"
            yield f"{line.label} at {budget}, minus vanilla", line.strategy, budget, own, base
        if {ATTENTION, DIVERSITY} <= set(lines["strategy"]):
            both = [f"{one}@{budget}" for one in (DIVERSITY, ATTENTION)]
            yield f"{DIVERSITY} minus {ATTENTION} at {budget}", "", budget, both[0], both[1]


def split(wide: pd.DataFrame, measure: str) -> list[pd.DataFrame]:
    """Three frames: the documents of the simple, middle and complex third of images.

    Raises:
        UserError: no benchmark has enough images.
    """
    thirds: list[list[pd.DataFrame]] = [[], [], []]
    for _, group in wide.groupby("benchmark", sort=False):
        images = group.groupby("image")[measure].first().sort_values().index
        if len(images) >= 3 * FEWEST:
            for third, part in zip(thirds, np.array_split(np.asarray(images), 3)):
                third.append(group[group["image"].isin(part)])
    if not thirds[0]:
        raise UserError(
            f"No benchmark has {3 * FEWEST} images, {FEWEST} for each third: raise the limit."
        )
    return [pd.concat(third) for third in thirds]


def mean_difference(third: pd.DataFrame, first: str, second: str) -> Estimate:
    """Mean over benchmarks of the mean difference."""
    groups = [group for _, group in third.groupby("benchmark")]
    return average_of([difference(group, first, second) for group in groups])


def _numbers(one: Estimate) -> dict[str, float]:
    low, high = one.interval()
    return {"difference": one.point, "low": low, "high": high, "p": one.p}


def _published() -> Iterator[list[str]]:
    """Diversity minus attention where the paper prints both, by the erank of the images."""
    said = printed("simple_and_complex").pivot(index="what", columns="strategy", values="value")
    erank = printed("complexity").query("metric == 'erank'").set_index("what")["value"]
    for what in erank.sort_values().index:
        if what in said.index:
            points = said.loc[what, "diversity"] - said.loc[what, "attention"]
            third = "simple" if erank[what] < 90 else "complex"
            texts = [f"{points:+.1f}".replace("-", "−") if t == third else "" for t in THIRDS]
            yield [f"{what} (erank {erank[what]:.0f})", *texts, "", ""]


def _figure(data: pd.DataFrame) -> Figure:
    """Differences to vanilla by third, a panel per measure."""
    budgets = list(dict.fromkeys(data["budget"]))
    figure, axes = panels(2, len(budgets), width=4.4, height=3.2)
    look = looks(data["strategy"])
    for (row, budget), (ax, by) in product(enumerate(budgets), enumerate(BY.values())):
        here = data[(data["by"] == by) & (data["budget"] == budget)]
        here = here[(here["strategy"] != "") & (here["images"] != CONTRAST)]
        strategies = list(dict.fromkeys(here["strategy"]))
        for i, strategy in enumerate(strategies):
            own = here[here["strategy"] == strategy]
            x = np.arange(3) + 0.12 * (i - (len(strategies) - 1) / 2)
            error = [own["difference"] - own["low"], own["high"] - own["difference"]]
            label = own["label"].iloc[0].split(" at ")[0]
            style = look[strategy]
            axes[row, ax].errorbar(
                x, own["difference"], error, capsize=2, lw=1.2, ms=5, label=label, **style
            )
        axes[row, ax].axhline(0, color="black", lw=0.8)
        axes[row, ax].set_xticks(range(3), THIRDS)
        axes[row, ax].set(title=f"Thirds by {by}, {budget} tokens", ylabel="points minus vanilla")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure

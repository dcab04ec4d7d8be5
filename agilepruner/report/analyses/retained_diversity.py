"""How much of an image's diversity do the kept tokens keep?"""

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.report.analyses import Finding, agreement, printed
from agilepruner.report.contrasts import ALIKE, FEWEST, judged, of_images, spread, spread_text
from agilepruner.report.estimates import Estimate
from agilepruner.report.figures import looks, panels
from agilepruner.report.sheets import Sheet

BOUND = "greedy_erank"  # how diverse a selection of that size can be, as far as a search finds
MOST = "divprune"  # of the methods, says the paper
PRINTED_AT = 64  # tokens


def retained_diversity(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Effective rank of the kept tokens per strategy and budget, beside what was offered.

    A strategy that merges keeps mixtures, whose rank is measured as they are. An image counts once.
    """
    once = documents.drop_duplicates(["strategy", "parameters", "budget", "image"])
    once = once.dropna(subset=["erank_kept"])
    eranks = once.pivot_table(index="image", columns=["budget", "strategy"], values="erank_kept")
    records = []
    for (budget, strategy), group in once.groupby(["budget", "strategy"], sort=False):
        images = group.groupby("image")[["erank_kept", "erank_input", "attention_kept"]].mean()
        kept, low, high = spread(images["erank_kept"])
        records.append(
            {
                "strategy": strategy,
                "label": group["label"].iloc[0],
                "budget": budget,
                "images": len(images),
                "erank_kept": kept,
                "low": low,
                "high": high,
                "erank_offered": images["erank_input"].mean(),
                "attention_kept": images["attention_kept"].mean(),
            }
        )
    data = pd.DataFrame(records)
    best = data[data["strategy"] == BOUND].set_index("budget")["erank_kept"]
    data["erank_greedy"] = data["budget"].map(best)
    data["verdict"] = _verdicts(data, eranks)
    data = data.sort_values(["budget", "erank_kept"], ascending=[False, True], ignore_index=True)
    sections = []
    for budget, group in data.groupby("budget", sort=False):
        lines = [
            [
                line.label,
                spread_text((line.erank_kept, line.low, line.high), 2),
                line.verdict,
                f"{line.erank_offered:.2f}",
                f"{100 * line.erank_kept / line.erank_offered:.0f} %",
                "–"
                if pd.isna(line.erank_greedy)
                else f"{100 * line.erank_kept / line.erank_greedy:.0f} %",
                f"{line.attention_kept:.4f}",
                str(line.images),
            ]
            for line in group.itertuples()
        ]
        sections.append((f"{budget} tokens of each image", lines))
    said = printed("retained_diversity").sort_values("value")
    labels = dict(zip(data["strategy"], data["label"]))
    lines = [
        [labels.get(one.strategy, one.strategy), f"{one.value:.2f}", *[""] * 6]
        for one in said.itertuples()
    ]
    if lines:
        sections.append(("Published, LLaVA-1.5-7B, POPE at 64 tokens, second-hand", lines))
    names = ", ".join(dict.fromkeys(cells["benchmark_label"]))
    head = ["Strategy", "erank kept", f"against {labels.get(MOST, MOST)}", "offered", "of it"]
    head += ["of greedy", "attention", "images"]
    notes = [f"erank: effective rank, of the images of {names}; 95 % intervals over images."]
    notes.append(
        "of greedy: of the rank that a greedy search for the highest one reaches (greedy_erank), "
        "a yardstick and no method; attention: mean CLS attention of the kept patches."
    )
    compared = data[data["verdict"] != ""]
    notes.append(
        f"against {labels.get(MOST, MOST)}: the mean difference over images, each image paired "
        f"with itself; corrected for {len(compared)} comparisons by Holm's method; equivalent: "
        f"within ±{ALIKE:g} % of its rank. better: more diverse, and no more is meant."
    )
    notes.append(
        "The paper says: DivPrune keeps the most diversity, hybrid methods much less, in the order "
        f"of its values (POPE, {PRINTED_AT} tokens)."
    )
    for budget, group in data.groupby("budget", sort=False):
        words = []
        for verdict, own in group[group["verdict"] != ""].groupby("verdict"):
            words.append(f"{verdict}: {', '.join(own['label'])}")
        if words:
            notes.append(
                f"Here, at {budget} tokens, rank against {labels[MOST]}: {'; '.join(words)}."
            )
    shown = data[(data["budget"] == PRINTED_AT) & data["strategy"].isin(said["strategy"])]
    order = " < ".join(shown.sort_values("erank_kept")["label"])
    if len(shown) > 1:
        notes.append(f"Here, at {PRINTED_AT} tokens, the published methods: {order}.")
    pairs = [("worse", one.verdict) for one in shown.itertuples() if one.verdict]
    notes.append(agreement(pairs))
    sheet = Sheet("Retained diversity", head, sections, notes)
    return Finding(sheet, data, _figure(data))


def _verdicts(data: pd.DataFrame, eranks: pd.DataFrame) -> list[str]:
    """Of each line of the table: its rank against ``MOST``'s at its budget; empty: not compared."""
    compared: list[tuple[int, Estimate, float]] = []
    for place, line in enumerate(data.itertuples()):
        pair = [(line.budget, line.strategy), (line.budget, MOST)]
        if line.strategy in (MOST, "vanilla") or not set(pair) <= set(eranks.columns):
            continue
        both = eranks[pair].dropna()
        if len(both) >= FEWEST:
            found = of_images(both[pair[0]] - both[pair[1]])
            compared.append((place, found, ALIKE / 100 * both[pair[1]].mean()))
    verdicts = [""] * len(data)
    estimates = [one for _, one, _ in compared]
    judgements = judged(estimates, [margin for *_, margin in compared], [1] * len(compared))
    for (place, *_), (verdict, _) in zip(compared, judgements):
        verdicts[place] = verdict
    return verdicts


def _figure(data: pd.DataFrame) -> Figure:
    """Rank of the kept tokens against their number."""
    figure, axes = panels(1, width=5.6, height=3.8)
    ax, look = axes[0, 0], looks(data["strategy"])
    pruned = data[data["strategy"] != "vanilla"].sort_values("budget")
    order = pruned.groupby("strategy")["erank_kept"].mean().sort_values(ascending=False).index
    for strategy in order:
        own = pruned[pruned["strategy"] == strategy]
        error = [own["erank_kept"] - own["low"], own["high"] - own["erank_kept"]]
        ax.errorbar(
            own["budget"],
            own["erank_kept"],
            error,
            capsize=2,
            lw=1.4,
            ms=5,
            label=own["label"].iloc[0],
            **look[strategy],
        )
    ax.axhline(data["erank_offered"].mean(), color="black", lw=0.8, ls="--", label="offered")
    ax.set_xscale("log", base=2)
    budgets = sorted(set(pruned["budget"]))
    ax.set_xticks(budgets, budgets)
    ax.set(xlabel="tokens kept", ylabel="effective rank", title="Diversity of the kept tokens")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure

"""What does the share of tokens chosen by attention do to hallucination and recall?"""

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, printed
from agilepruner.report.contrasts import estimate, left_out, spread
from agilepruner.report.figures import looks, panels
from agilepruner.report.lines import Aggregate
from agilepruner.report.sheets import Sheet

STRATEGY = "fastervlm_divprune"
MEASURES = {  # name in data.csv -> title, aggregate, its parts in the documents frame
    "chair_s": ("Cs ↓", Aggregate("mean"), ["part.hallucinated"]),
    "chair_i": ("Ci ↓", Aggregate("ratio"), ["part.false_mentions", "part.mentions"]),
    "recall": ("Recall ↑", Aggregate("ratio"), ["part.found", "part.objects"]),
}
MEASUREMENTS = {
    "length": "part.length",
    "erank_kept": "erank_kept",
    "attention_kept": "attention_kept",
}
TITLES = {name: title for name, (title, _, _) in MEASURES.items()}
TITLES |= {"length": "Len", "erank_kept": "erank kept", "attention_kept": "attention kept"}
DIGITS = {"attention_kept": 4}


def hallucination(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """CHAIR and the rank of the kept tokens for each share of FasterVLM, DivPrune for the rest."""
    captions = documents[documents["benchmark"] == "chair"]
    shares = cells.set_index("cell").get("parameter.share", pd.Series(dtype=float))
    captions = captions.assign(share=captions["cell"].map(shares))
    if captions["share"].nunique() < 2:
        raise UserError(f"It needs chair and several values of strategy.{STRATEGY}.share.")
    records = []
    keys = ["strategy", "budget", "share"]
    for (strategy, budget, share), group in captions.groupby(keys, dropna=False):
        if strategy not in ("vanilla", STRATEGY):
            continue
        about = {"strategy": strategy, "budget": budget, "share": share, "captions": len(group)}
        for name, (_, rule, parts) in MEASURES.items():
            one = estimate(left_out(rule, group, parts))
            low, high = one.interval()
            numbers = {"value": one.point, "low": max(0.0, low), "high": min(100.0, high)}
            records.append({**about, "measure": name, **numbers})
        for name, column in MEASUREMENTS.items():
            mean, low, high = spread(group[column].dropna())
            records.append({**about, "measure": name, "value": mean, "low": low, "high": high})
    data = pd.DataFrame(records)
    return Finding(_sheet(data), data, _figure(data))


def _sheet(data: pd.DataFrame) -> Sheet:
    """A line per share, after vanilla."""
    sections = []
    for budget, group in data.groupby("budget", sort=False):
        lines = []
        for share, own in group.groupby("share", dropna=False):
            known = own.set_index("measure")
            texts = [
                "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(
                    *known.loc[name, ["value", "low", "high"]], d=DIGITS.get(name, 1)
                )
                for name in TITLES
            ]
            lines.append(["vanilla" if pd.isna(share) else f"share {share:g}", *texts])
        sections.append((f"{budget} tokens, {group['captions'].iloc[0]} captions", lines))
    sections.sort(key=lambda section: -int(section[0].split()[0]))
    said = printed("hallucination").pivot(index="parameter", columns="metric", values="value")
    lines = [
        [f"share {share:g}", *(f"{one[name]:.{DIGITS.get(name, 1)}f}" for name in TITLES)]
        for share, one in said.iterrows()
    ]
    if lines:
        sections.append(("Published, LLaVA-1.5-7B at 64 tokens, second-hand", lines))
    head = ["Share by attention", *TITLES.values()]
    notes = [
        "FasterVLM chooses the share, DivPrune the rest: 0 is DivPrune, 1 is FasterVLM.",
        "Cs, Ci, Recall in percent, Len in tokens; 95 % intervals over images.",
        "attention kept: mean CLS attention of the kept patches; an even share of 576 is 0.0017.",
        "The paper says: Cs, Ci, Recall and the rank of the kept tokens fall as the share rises.",
    ]
    for budget, group in data[data["strategy"] == STRATEGY].groupby("budget"):
        ranks = group[group["measure"] == "erank_kept"].sort_values("share")["value"]
        said = "falls" if (ranks.diff().dropna() < 0).all() else "does not fall steadily"
        apart = [TITLES[name] for name in list(MEASURES)[:2] if _apart(group, name)]
        told = f"differs on {', '.join(apart)}" if apart else "cannot be told apart"
        notes.append(
            f"Here, at {budget} tokens: the rank of the kept tokens {said} as the share rises; "
            f"hallucination of the smallest and the largest share {told} (by their intervals)."
        )
    return Sheet("Hallucination against the attention share", head, sections, notes)


def _apart(group: pd.DataFrame, measure: str) -> bool:
    """Whether the intervals of the smallest and the largest share do not overlap."""
    own = group[group["measure"] == measure].sort_values("share")
    first, last = own.iloc[0], own.iloc[-1]
    return bool(first["low"] > last["high"] or last["low"] > first["high"])


def _figure(data: pd.DataFrame) -> Figure:
    """A panel per measure; vanilla as a line."""
    figure, axes = panels(len(TITLES), width=2.6, height=2.9)
    look = looks([STRATEGY])[STRATEGY]
    for ax, (name, title) in zip(axes[0], TITLES.items()):
        own = data[data["measure"] == name]
        for budget, line in own[own["strategy"] == STRATEGY].groupby("budget"):
            error = [line["value"] - line["low"], line["high"] - line["value"]]
            label = f"{budget} tokens"
            ax.errorbar(line["share"], line["value"], error, capsize=2, label=label, ms=5, **look)
        plain = own[own["strategy"] == "vanilla"]
        if len(plain) and not name.endswith("_kept"):
            ax.axhline(plain["value"].iloc[0], color="black", lw=0.8, ls="--", label="vanilla")
        ax.set(title=title, xlabel="share by attention")
    axes[0, 0].legend(fontsize=7)
    return figure

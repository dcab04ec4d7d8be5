"""What does the share of tokens chosen by attention do to hallucination and recall?"""

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, printed
from agilepruner.report.contrasts import estimate, left_out, spread
from agilepruner.report.figures import looks, panels
from agilepruner.report.lines import Aggregate
from agilepruner.report.sheets import Sheet
from agilepruner.report.statistics import Estimate

STRATEGY = "fastervlm_divprune"
MEASURES = {  # name in data.csv -> title, aggregate, its parts in the documents frame
    "chair_s": ("Cs ↓", Aggregate("mean"), ["part.hallucinated"]),
    "chair_i": ("Ci ↓", Aggregate("ratio"), ["part.false_mentions", "part.mentions"]),
    "recall": ("Recall ↑", Aggregate("ratio"), ["part.found", "part.objects"]),
    "length": ("Len", Aggregate("mean", points=1.0), ["part.length"]),
}


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
            found = left_out(rule, group, parts)
            scale = 100.0 if name != "length" else float(group["part.length"].max())
            records.append({**about, "measure": name, **_numbers(estimate(found, scale))})
        mean, low, high = spread(group["erank_kept"].dropna())
        records.append({**about, "measure": "erank_kept", "value": mean, "low": low, "high": high})
    data = pd.DataFrame(records)
    return Finding(_sheet(data), data, _figure(data))


def _numbers(one: Estimate) -> dict[str, float]:
    low, high = one.interval()
    return {"value": one.point, "low": low, "high": high}


def _sheet(data: pd.DataFrame) -> Sheet:
    """A line per share, after vanilla."""
    sections = []
    for budget, group in data.groupby("budget", sort=False):
        lines = []
        for share, own in group.groupby("share", dropna=False):
            known = own.set_index("measure")
            texts = [
                f"{known.loc[name, 'value']:.1f} ±"
                f"{(known.loc[name, 'high'] - known.loc[name, 'low']) / 2:.1f}"
                for name in (*MEASURES, "erank_kept")
            ]
            lines.append(["vanilla" if pd.isna(share) else f"share {share:g}", *texts])
        sections.append((f"{budget} tokens, {group['captions'].iloc[0]} captions", lines))
    sections.sort(key=lambda section: -int(section[0].split()[0]))
    said = printed("hallucination").pivot(index="parameter", columns="metric", values="value")
    lines = [
        [f"share {share:g}", *(f"{one[name]:.1f}" for name in (*MEASURES, "erank_kept"))]
        for share, one in said.iterrows()
    ]
    if lines:
        sections.append(("Published, LLaVA-1.5-7B at 64 tokens, second-hand", lines))
    head = ["Share by attention", *(title for title, _, _ in MEASURES.values()), "erank kept"]
    notes = [
        "FasterVLM chooses the share, DivPrune the rest: 0 is DivPrune, 1 is FasterVLM.",
        "Cs, Ci, Recall in percent, Len in tokens; ±: half of a 95 % interval over images.",
        "The paper says: Cs, Ci, Recall and the rank of the kept tokens fall as the share rises.",
    ]
    return Sheet("Hallucination against the attention share", head, sections, notes)


def _figure(data: pd.DataFrame) -> Figure:
    """A panel per measure; vanilla as a line."""
    panel = {**{name: title for name, (title, _, _) in MEASURES.items()}, "erank_kept": "erank"}
    figure, axes = panels(len(panel), width=2.6, height=2.9)
    look = looks([STRATEGY])[STRATEGY]
    for ax, (name, title) in zip(axes[0], panel.items()):
        own = data[data["measure"] == name]
        for budget, line in own[own["strategy"] == STRATEGY].groupby("budget"):
            error = [line["value"] - line["low"], line["high"] - line["value"]]
            label = f"{budget} tokens"
            ax.errorbar(line["share"], line["value"], error, capsize=2, label=label, ms=5, **look)
        plain = own[own["strategy"] == "vanilla"]
        if len(plain) and name != "erank_kept":
            ax.axhline(plain["value"].iloc[0], color="black", lw=0.8, ls="--", label="vanilla")
        ax.set(title=title, xlabel="share by attention")
    axes[0, 0].legend(fontsize=7)
    return figure

"""What does the share of tokens chosen by attention do to hallucination and recall?"""

from collections.abc import Iterator
from math import isfinite
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, agreement, no_comparison, printed
from agilepruner.report.contrasts import (
    ALIKE,
    FEWEST,
    SCALE,
    estimate,
    interval_text,
    judged,
    left_out,
    of_images,
    spread,
    spread_text,
)
from agilepruner.report.estimates import paired
from agilepruner.report.figures import looks, panels
from agilepruner.report.lines import Aggregate
from agilepruner.report.sheets import Sheet
from agilepruner.report.statistics import MARGINS

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
UNITS = {"chair_s": "percent", "chair_i": "percent", "recall": "percent", "length": "tokens"}
DIGITS = {"erank_kept": 2, "attention_kept": 4}
BETTER = {"chair_s": -1, "chair_i": -1, "recall": 1}  # the others are only higher or lower
SAYS = {  # of a larger share, at 64 tokens
    **{"chair_s": "better", "chair_i": "better", "recall": "worse"},
    **{"length": "lower", "erank_kept": "lower", "attention_kept": "higher"},
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
        about["of"] = "value"
        for name, (_, rule, parts) in MEASURES.items():
            one = estimate(left_out(rule, group, parts))
            low, high = one.interval()
            numbers = {"value": one.point, "low": max(0.0, low), "high": min(100.0, high)}
            records.append({**about, "measure": name, **numbers})
        for name, column in MEASUREMENTS.items():
            mean, low, high = spread(group[column].dropna())
            records.append({**about, "measure": name, "value": mean, "low": low, "high": high})
    values = pd.DataFrame(records)
    differences = pd.DataFrame(_differences(captions[captions["strategy"] == STRATEGY]))
    if len(differences):
        judgements = judged(
            list(differences["estimate"]), list(differences["margin"]), list(differences["better"])
        )
        differences["verdict"] = [verdict for verdict, _ in judgements]
        differences["p"] = [p for _, p in judgements]
    sheet = _sheet(values, differences)
    plain = differences.drop(columns=["estimate", "margin", "better"], errors="ignore")
    return Finding(sheet, pd.concat([values, plain], ignore_index=True), _figure(values))


def _differences(captions: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each share minus the smallest one, on the same images."""
    for budget, group in captions.groupby("budget"):
        shares = sorted(set(group["share"]))
        base = group[group["share"] == shares[0]]
        for share in shares[1:]:
            own = group[group["share"] == share]
            both = sorted(set(own["image"]) & set(base["image"]))
            if len(both) < FEWEST:
                continue
            pair = [one[one["image"].isin(both)] for one in (own, base)]
            for name in TITLES:
                if name in MEASURES:
                    _, rule, parts = MEASURES[name]
                    first, second = (left_out(rule, one, parts) for one in pair)
                    found = paired(first, second, SCALE)
                    margin = MARGINS.benchmark
                else:
                    first, second = (
                        one.groupby("image")[MEASUREMENTS[name]].mean() for one in pair
                    )
                    found = of_images((first - second).dropna())
                    margin = ALIKE / 100 * second.mean()
                if not isfinite(found.error):
                    continue
                low, high = found.interval()
                yield {
                    **{"strategy": STRATEGY, "budget": budget, "share": share, "measure": name},
                    **{"captions": len(own), "of": f"minus share {shares[0]:g}"},
                    **{"value": found.point, "low": low, "high": high},
                    **{"estimate": found, "margin": margin, "better": BETTER.get(name, 0)},
                }


def _sheet(data: pd.DataFrame, differences: pd.DataFrame) -> Sheet:
    """A line per share, after vanilla; then each share minus the smallest."""
    sections = []
    for budget, group in data.groupby("budget", sort=False):
        lines = []
        for share, own in group.groupby("share", dropna=False):
            known = own.set_index("measure")
            texts = [
                spread_text(known.loc[name, ["value", "low", "high"]], DIGITS.get(name, 1))
                for name in TITLES
            ]
            lines.append(["vanilla" if pd.isna(share) else f"share {share:g}", *texts])
        sections.append((f"{budget} tokens, {group['captions'].iloc[0]} captions", lines))
    sections.sort(key=lambda section: -int(section[0].split()[0]))
    sections += _minus(differences)
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
        "Cs, Ci, Recall in percent, Len in tokens; 95 % intervals over images, not corrected.",
        "attention kept: mean CLS attention of the kept patches; an even share of 576 is 0.0017.",
        f"Verdicts: of the same images, corrected for {len(differences)} comparisons by Holm's "
        f"method; equivalent: within ±{MARGINS.benchmark:g} points of Cs, Ci and Recall, else "
        f"within ±{ALIKE:g} % of the mean.",
        "The paper says: Cs, Ci, Recall, length and the rank of the kept tokens fall, and their "
        "attention rises, as the share rises from 0 to 0.75 (64 tokens).",
    ]
    notes += _said(differences, [share for share in said.index if share > 0])
    return Sheet("Hallucination against the attention share", head, sections, notes)


def _said(differences: pd.DataFrame, published: list[float]) -> Iterator[str]:
    """What the largest share does, and whether the largest published one does what is printed."""
    if differences.empty:
        yield no_comparison(f"it needs {FEWEST} images")
        return
    for (budget, share), own in differences.groupby(["budget", "share"]):
        if share == differences["share"].max():
            words = ", ".join(f"{TITLES[one.measure]} {one.verdict}" for one in own.itertuples())
            yield f"Here, at {budget} tokens, share {share:g} against the smallest: {words}."
    common = set(published) & set(differences["share"])
    if not common:
        yield no_comparison("it needs shares that the paper has")
        return
    own = differences[differences["share"] == max(common)]
    yield f"Compared with what the paper says: share {max(common):g}, the largest that it has."
    yield agreement((SAYS[one.measure], one.verdict) for one in own.itertuples())


def _minus(differences: pd.DataFrame) -> Iterator[tuple[str, list[list[str]]]]:
    if differences.empty:
        return
    for (budget, of), group in differences.groupby(["budget", "of"], sort=False):
        lines = []
        for share, own in group.groupby("share"):
            found = own.set_index("measure")
            texts = [
                f"{interval_text(found.loc[name, 'estimate'], DIGITS.get(name, 1))} "
                f"{found.loc[name, 'verdict']}"
                if name in found.index
                else "–"
                for name in TITLES
            ]
            lines.append([f"share {share:g}", *texts])
        yield f"{budget} tokens, {of}", lines


def _figure(data: pd.DataFrame) -> Figure:
    """A panel per measure; vanilla as a line."""
    figure, axes = panels(3, 2, width=3.4, height=2.5)
    look = looks([STRATEGY])[STRATEGY]
    for ax, (name, title) in zip(axes.flat, TITLES.items()):
        own = data[data["measure"] == name]
        for budget, line in own[own["strategy"] == STRATEGY].groupby("budget"):
            error = [line["value"] - line["low"], line["high"] - line["value"]]
            label = f"{budget} tokens"
            ax.errorbar(line["share"], line["value"], error, capsize=2, label=label, ms=5, **look)
        plain = own[own["strategy"] == "vanilla"]
        if len(plain) and not name.endswith("_kept"):
            ax.axhline(plain["value"].iloc[0], color="black", lw=0.8, ls="--", label="vanilla")
        ax.set(title=title, xlabel="share by attention", ylabel=UNITS.get(name, ""))
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure

"""Why is the number of tokens fixed? Budgets spread by complexity against fixed ones."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, agreement, printed
from agilepruner.report.contrasts import interval_text, over_benchmarks, wide
from agilepruner.report.estimates import judge
from agilepruner.report.figures import looks, panels
from agilepruner.report.sheets import Sheet
from agilepruner.report.statistics import MARGINS

FIXED = {  # strategy that spreads -> the one that it is held against
    "agilepruner_spread": "agilepruner",
    "agilepruner_inverse": "agilepruner",
    "divprune_spread": "divprune",
}
KEYS = ["strategy", "parameters", "budget"]


def adaptive_budgets(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Spread budgets against fixed ones, at equal mean tokens and at equal mean FLOPs.

    Prefill costs more than in proportion, so a spread budget costs a little more than a fixed one
    of the same mean. At equal FLOPs it is held against a line between two fixed budgets: of each
    benchmark, their scores weighted so that the FLOPs are its own.
    """
    scores = wide(documents, KEYS)
    costs = cells.assign(name=cells[KEYS].astype(str).agg("@".join, axis=1))
    flops = costs.pivot_table(index="benchmark", columns="name", values="flops_total")
    about = costs.drop_duplicates(KEYS).set_index("name")
    records = []
    for strategy, base in FIXED.items():
        fixed = about[about["strategy"] == base].sort_values("budget")
        for name, line in about[about["strategy"] == strategy].iterrows():
            same = fixed.index[fixed["budget"] == line["budget"]]
            if same.empty:
                continue
            own = costs[costs["name"] == name]
            known = {
                **{"strategy": strategy, "label": line["label"], "budget": line["budget"]},
                "kept_mean": own["kept_mean"].mean(),
                "kept_min": own["kept_min"].min(),
                "kept_max": own["kept_max"].max(),
                "flops_share": 100 * float((flops[name] / flops[same[0]]).mean()),
            }
            found = {"tokens": over_benchmarks(scores, str(name), str(same[0]))}
            at_flops = _at_flops(scores, flops, str(name), list(fixed.index))
            if at_flops is not None:
                with_line = scores.assign(at_flops=at_flops)
                found["FLOPs"] = over_benchmarks(with_line, str(name), "at_flops")
            for equal, one in found.items():
                low, high = one.interval()
                records.append(
                    {
                        **known,
                        **{"equal": equal, "difference": one.point, "low": low, "high": high},
                        "estimate": one,
                    }
                )
    if not records:
        raise UserError(f"It needs a strategy that spreads and its own: {FIXED}.")
    data = pd.DataFrame(records)
    judged = judge(list(data["estimate"]), [MARGINS.average] * len(data), [1] * len(data))
    data["verdict"] = [verdict for verdict, _ in judged]
    data["p"] = [p for _, p in judged]
    head = ["Strategy", "tokens, min to max", "FLOPs"]
    head += ["at equal tokens", "verdict", "at equal FLOPs", "verdict"]
    notes = [
        "A budget is the mean over the documents of each benchmark; least and most of any image. "
        "The rule is ours, see the strategy SpreadBudget.",
        "FLOPs: in percent of those at the fixed budget of the same mean. Equal FLOPs: against a "
        "line between two fixed budgets; – where its own are not between two.",
        "Points: percent of a full score, mean over benchmarks of the mean difference per "
        "document; 95 % intervals by leaving out images, not corrected.",
        f"Verdicts: corrected for {len(data)} comparisons by Holm's method; equivalent: within "
        f"±{MARGINS.average:g} point.",
        "The paper says: an adaptive number of tokens does better than a fixed one that is larger "
        "(Table 13, by a rule that is not published).",
        *_said(data),
        agreement(
            ("better", v) for v in data[data["strategy"] != "agilepruner_inverse"]["verdict"]
        ),
    ]
    sections = [*_measured(data, scores), *_published()]
    sheet = Sheet("Adaptive budgets", head, sections, notes)
    return Finding(sheet, data.drop(columns="estimate"), _figure(data))


def _at_flops(
    scores: pd.DataFrame, flops: pd.DataFrame, name: str, fixed: list[str]
) -> pd.Series | None:
    """Scores on the line between the two fixed budgets around the FLOPs of ``name``.

    Args:
        scores: of ``wide``.
        flops: mean per document: a line per benchmark, a column per line of the table.
        name: the column that is held against the line.
        fixed: columns of the fixed budgets, ascending.

    Returns:
        a score per document; None where a benchmark has no fixed budgets around.
    """
    found = pd.Series(np.nan, index=scores.index)
    for benchmark, group in scores.groupby("benchmark"):
        cost, own = flops.loc[benchmark, fixed].to_numpy(dtype=float), flops.loc[benchmark, name]
        above = int(np.searchsorted(cost, own))
        if above == 0 or above == len(cost):
            return None
        share = (own - cost[above - 1]) / (cost[above] - cost[above - 1])
        low, high = group[fixed[above - 1]], group[fixed[above]]
        found[group.index] = (1 - share) * low + share * high
    return found


def _measured(data: pd.DataFrame, scores: pd.DataFrame) -> Iterator[tuple[str, list[list[str]]]]:
    where = f"{len(scores)} documents, {scores['image'].nunique()} images"
    for budget, group in data.groupby("budget", sort=False):
        lines = []
        for label, own in group.groupby("label", sort=False):
            first, found = own.iloc[0], own.set_index("equal")
            texts: list[str] = []
            for equal in ("tokens", "FLOPs"):
                if equal in found.index:
                    one = found.loc[equal]
                    texts += [interval_text(one["estimate"]), str(one["verdict"])]
                else:
                    texts += ["–", ""]
            kept = f"{first['kept_mean']:.1f}, {first['kept_min']:.0f} to {first['kept_max']:.0f}"
            lines.append([str(label), kept, f"{first['flops_share']:.2f} %", *texts])
        yield f"Mean of {budget} tokens, minus the same strategy with {budget} ({where})", lines


def _published() -> Iterator[tuple[str, list[list[str]]]]:
    lines = [
        [one.strategy, f"{one.budget:g}", "", f"{one.value:.1f} % of vanilla", *("", "", "")]
        for one in printed("adaptive_budgets").itertuples()
    ]
    if lines:
        yield "Published, LLaVA-1.5-7B, Average, second-hand", lines


def _said(data: pd.DataFrame) -> Iterator[str]:
    for equal, group in data.groupby("equal", sort=False):
        words = []
        for verdict, own in group.groupby("verdict", sort=False):
            budgets = own.groupby("label", sort=False)["budget"].agg(
                lambda values: ", ".join(map(str, sorted(values)))
            )
            each = "; ".join(f"{label} ({at})" for label, at in budgets.items())
            words.append(f"{verdict}: {'all of them' if len(own) == len(group) > 1 else each}")
        yield f"Here, at equal mean {equal}, spread against fixed: {'. '.join(words)}."


def _figure(data: pd.DataFrame) -> Figure:
    """Points against the fixed budget, a panel for equal tokens and one for equal FLOPs."""
    shown = list(dict.fromkeys(data["equal"]))
    figure, axes = panels(len(shown), width=4.8, height=3.6)
    labels = list(dict.fromkeys(data["label"]))
    budgets = sorted(set(data["budget"]))
    for ax, equal in zip(axes[0], shown):
        for i, label in enumerate(labels):
            own = data[(data["label"] == label) & (data["equal"] == equal)].sort_values("budget")
            if own.empty:
                continue
            x = [budgets.index(b) + 0.13 * (i - (len(labels) - 1) / 2) for b in own["budget"]]
            error = [own["difference"] - own["low"], own["high"] - own["difference"]]
            name = own["strategy"].iloc[0]
            look = looks([FIXED[name]])[FIXED[name]]  # of the strategy whose budget is spread
            if "entropy" in label:
                look = {**look, "markerfacecolor": "white"}
            if "inverse" in label:
                look = {**look, "marker": "x"}
            ax.errorbar(x, own["difference"], error, ls="", capsize=2, ms=5, label=label, **look)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(budgets)), budgets)
        ax.set(title=f"At equal mean {equal}", xlabel="mean tokens", ylabel="points minus fixed")
        ax.set_xlim(-0.6, len(budgets) - 0.4)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(shown), fontsize=8)
    return figure

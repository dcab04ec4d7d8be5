"""How much does AgilePruner depend on its settings?"""

from collections.abc import Iterator
from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report.analyses import Finding, agreement, printed
from agilepruner.report.contrasts import (
    ALIKE,
    FEWEST,
    interval_text,
    judged,
    of_images,
    over_benchmarks,
    wide,
)
from agilepruner.report.estimates import Estimate, judge
from agilepruner.report.figures import NEUTRAL, looks, panels
from agilepruner.report.sheets import Sheet
from agilepruner.report.statistics import MARGINS

DEFAULT, CONSTANT = "agilepruner", "agilepruner_constant"
SWEEPS = {  # strategy that varies one setting -> setting, and what a table says of it
    "agilepruner_slope": ("slope", "slope"),
    "agilepruner_erank_avg": ("erank_avg", "erank_avg"),
    "agilepruner_tau_max": ("tau_max", "tau_max"),
    CONSTANT: ("tau", "constant threshold (Table 12)"),
    "agilepruner_entropy": ("entropy_avg", "entropy in place of erank (Table 11)"),
    "agilepruner_attention": ("attention", "attention that ranks the patches"),
    "agilepruner_compared": ("compared", "features whose distances count"),
}
CURVES = ("slope", "erank_avg", "tau_max", "tau")  # settings that are drawn


def sensitivity(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Each setting varied alone: the score against the default's, and how many selections change.

    A document's selection has changed when not the very same patches are kept.
    """
    keys = ["strategy", "parameters", "budget"]
    scores = wide(documents, keys)
    chosen = documents.pivot_table(
        index=["benchmark", "document"],
        columns=documents[keys].astype(str).agg("@".join, axis=1),
        values="selection",
        aggfunc="first",
    )
    about = cells.drop_duplicates(keys)
    ranks = documents.groupby(keys)["erank_kept"].mean()
    records = []
    for base in about[about["strategy"] == DEFAULT].itertuples():
        default = f"{DEFAULT}@{base.parameters}@{base.budget}"
        for strategy, (setting, words) in SWEEPS.items():
            lines = about[(about["strategy"] == strategy) & (about["budget"] == base.budget)]
            if lines.empty:
                continue
            for _, line in lines.sort_values(f"parameter.{setting}").iterrows():
                key = (strategy, line["parameters"], line["budget"])
                own = "@".join(map(str, key))
                found = over_benchmarks(scores, own, default)
                low, high = found.interval()
                both = chosen[[own, default]].dropna()
                records.append(
                    {
                        **{"budget": base.budget, "setting": setting, "words": words},
                        **{"value": line[f"parameter.{setting}"], "difference": found.point},
                        **{"low": low, "high": high, "estimate": found},
                        "changed": 100 * float((both[own] != both[default]).mean()),
                        "erank_kept": float(ranks[key]),
                    }
                )
    if not records:
        raise UserError(f"It needs {DEFAULT} and variants of it: {', '.join(SWEEPS)}.")
    data = pd.DataFrame(records)
    family = list(data["estimate"])
    judgements = judge(family, [MARGINS.average] * len(family), [1] * len(family))
    data["verdict"] = [verdict for verdict, _ in judgements]
    data["p"] = [p for _, p in judgements]
    defaults = {
        name: float(value)
        for name in CURVES
        if (value := _default(about, name)) is not None and name != "tau"
    }
    rises = list(_rises(documents, about))
    sheet = Sheet(
        "Sensitivity of AgilePruner",
        ["Setting", "minus the default", "verdict", "selections changed", "erank kept"],
        [*_measured(data, scores), *_published()],
        [
            f"Default: {', '.join(f'{name} {value:g}' for name, value in defaults.items())}. One "
            "setting is varied at a time.",
            "Points: percent of a full score, mean over benchmarks of the mean difference per "
            "document; 95 % intervals by leaving out images, not corrected.",
            f"Verdicts: corrected for {len(family)} comparisons by Holm's method; equivalent: "
            f"within ±{MARGINS.average:g} point.",
            "slope and erank_avg are one setting: only slope / erank_avg enters the threshold.",
            "Layers: attention_local is the CLS attention at a quarter of the tower's depth, "
            "received_* what patches receive from all patches at 3/8 of it or at the penultimate "
            "layer. The language model sees the same features throughout.",
            "The paper says: entropy does about as well as erank (Table 11), and the larger a "
            "constant threshold, the higher the rank of the kept tokens (Table 12, whose numbers "
            "none of our sources has).",
            *_said(data),
            *(
                f"Here, at {budget} tokens, rank of the kept tokens, tau {low:g} to {high:g}: "
                f"{interval_text(one, 2)}, {verdict}."
                for budget, low, high, one, verdict in rises
            ),
            f"Ranks: image by image, corrected for {len(rises)} comparisons; equivalent: within "
            f"±{ALIKE:g} %. Where the walk runs dry the fallback keeps the highest attention, so "
            "a larger threshold need not keep more diversity (analysis=provenance).",
            agreement(
                [
                    *(("equivalent", v) for v in data[data["setting"] == "entropy_avg"]["verdict"]),
                    *(("higher", verdict) for *_, verdict in rises),
                ]
            ),
        ],
    )
    return Finding(sheet, data.drop(columns="estimate"), _figure(data, defaults))


def _rises(
    documents: pd.DataFrame, about: pd.DataFrame
) -> Iterator[tuple[int, float, float, Estimate, str]]:
    """What each step of the constant threshold does to the rank of the kept tokens.

    Returns:
        budget, threshold and the next one, difference of the ranks, its verdict.
    """
    own = documents[documents["strategy"] == CONSTANT]
    if own.empty:
        return
    taus = about[about["strategy"] == CONSTANT].set_index("parameters")["parameter.tau"]
    taus = taus[~taus.index.duplicated()].astype(float)
    ranks = own.assign(tau=own["parameters"].map(taus)).pivot_table(
        index="image", columns=["budget", "tau"], values="erank_kept"
    )
    steps = [
        (budget, low, high, both[budget, high] - both[budget, low], both[budget, low].mean())
        for budget in sorted({budget for budget, _ in ranks.columns})
        for low, high in pairwise(sorted(ranks[budget].columns))
        if len(both := ranks[[(budget, low), (budget, high)]].dropna()) >= FEWEST
    ]
    estimates = [of_images(change) for *_, change, _ in steps]
    margins = [ALIKE / 100 * mean for *_, mean in steps]
    judgements = judged(estimates, margins, [0] * len(steps))
    for (budget, low, high, *_), one, (verdict, _) in zip(steps, estimates, judgements):
        yield budget, low, high, one, verdict


def _default(about: pd.DataFrame, name: str) -> float | None:
    values = about.loc[about["strategy"] == DEFAULT].get(f"parameter.{name}")
    return None if values is None or values.dropna().empty else float(values.dropna().iloc[0])


def _measured(data: pd.DataFrame, scores: pd.DataFrame) -> Iterator[tuple[str, list[list[str]]]]:
    where = f"{len(scores)} documents, {scores['image'].nunique()} images"
    for (budget, words), group in data.groupby(["budget", "words"], sort=False):
        yield (
            f"{words}, {budget} tokens ({where})",
            [
                [
                    f"{line.value:g}" if isinstance(line.value, float) else str(line.value),
                    interval_text(line.estimate),
                    line.verdict,
                    f"{line.changed:.0f} %",
                    f"{line.erank_kept:.1f}",
                ]
                for line in group.itertuples()
            ],
        )


def _published() -> Iterator[tuple[str, list[list[str]]]]:
    """Average, percent of vanilla, of both measures of complexity."""
    said = printed("sensitivity")
    trend = said[said["metric"] == "erank_kept"]
    said = said[said["metric"] == "average"].pivot(
        index="budget", columns="strategy", values="value"
    )
    lines = [
        [
            f"entropy in place of erank, {int(budget)} tokens",
            f"{one['agilepruner_entropy'] - one['agilepruner']:+.2f}".replace("-", "−"),
            *("", "", ""),
        ]
        for budget, one in said.sort_index(ascending=False).iterrows()
    ]
    if lines:
        yield "Published, LLaVA-1.5-7B, Average in percent of vanilla, second-hand", lines
    if len(trend):
        rising = "rises with it" if trend["value"].iloc[0] > 0 else "falls with it"
        text = "Published, LLaVA-1.5-7B, rank of the kept tokens, second-hand"
        yield text, [["constant threshold (Table 12)", "", "", "", rising]]


def _said(data: pd.DataFrame) -> Iterator[str]:
    for budget, group in data.groupby("budget", sort=False):
        counts = group["verdict"].value_counts()
        verdicts = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield (
            f"Here, at {budget} tokens, of {len(group)} settings against the default: {verdicts}."
        )
        for line in group[group["setting"] == "entropy_avg"].itertuples():
            yield f"Here, at {budget} tokens, entropy in place of erank: {line.verdict}."


def _figure(data: pd.DataFrame, defaults: dict[str, float]) -> Figure:
    """Above: points against the default. Below: how many documents change their selection."""
    shown = [name for name in CURVES if name in set(data["setting"])]
    figure, axes = panels(max(len(shown), 1), 2, width=2.9, height=2.5)
    look = looks([DEFAULT])[DEFAULT]
    for column, name in enumerate(shown):
        above, below = axes[:, column]
        for budget, group in data[data["setting"] == name].groupby("budget"):
            if name in defaults:  # itself: no difference, nothing changed
                none = dict.fromkeys(["difference", "low", "high", "changed"], 0.0)
                default = pd.DataFrame([{"value": defaults[name], **none}])
                group = pd.concat([group[list(default)], default]).sort_values("value")
            value = group["value"].astype(float)
            error = [group["difference"] - group["low"], group["high"] - group["difference"]]
            above.errorbar(
                value, group["difference"], error, capsize=2, ms=5, label=f"{budget} tokens", **look
            )
            below.plot(value, group["changed"], ms=5, **look)
        above.axhline(0, color="black", lw=0.8)
        for ax in (above, below):
            if name in defaults:
                ax.axvline(defaults[name], color=NEUTRAL, lw=0.8, ls="--")
        above.set(title="constant threshold" if name == "tau" else name)
        below.set(xlabel="tau" if name == "tau" else name, ylim=(-4, 104))
    axes[0, 0].set(ylabel="points minus the default")
    axes[1, 0].set(ylabel="selections changed, %")
    return figure

"""Does a share of attention that follows the image's complexity beat a fixed one?"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from agilepruner.errors import UserError
from agilepruner.report import published
from agilepruner.report.analyses import Finding, agreement
from agilepruner.report.contrasts import difference, interval_text, over_benchmarks, wide
from agilepruner.report.estimates import judge
from agilepruner.report.figures import looks, panels
from agilepruner.report.sheets import Sheet, signed
from agilepruner.report.statistics import MARGINS

METHODS = {
    "bat": "BAT",
    "vispruner": "VisPruner",
    "fastervlm_divprune": "FasterVLM + DivPrune",
}
VARIANTS = {"erank": "+ erank", "inverse": "+ inverse"}
ALL, ALL_LABEL = "all", "All, averaged per document"
MEAN = "mean"  # over benchmarks


def enhancement(cells: pd.DataFrame, documents: pd.DataFrame) -> Finding:
    """Each hybrid with a fixed share, the erank-guided one and its inverse, by budget.

    Guided: the more complex an image, the smaller the share of its tokens that attention chooses.
    Inverse: the control of the same size that does the opposite.
    """
    budgets = sorted(set(cells["budget"]), reverse=True)
    scores = _with_all(wide(documents, ["strategy", "budget"]), budgets)
    data = pd.DataFrame(_differences(scores, budgets))
    if data.empty:
        raise UserError("It needs a hybrid and its variant, e.g. strategy=[bat,bat_erank].")
    whole = data["benchmark"] == MEAN
    for own, margin in ((whole, MARGINS.average), (~whole, MARGINS.benchmark)):  # a family each
        family = list(data.loc[own, "estimate"])
        found = judge(family, [margin] * len(family), [1] * len(family))
        data.loc[own, "verdict"] = [verdict for verdict, _ in found]
        data.loc[own, "p"] = [p for _, p in found]
    titles = dict(zip(scores["benchmark"], scores["benchmark_label"]))
    sections = [*_measured(data, scores, titles), *_published(titles)]
    head = ["Method", *titles.values(), "mean of differences", "verdict"]
    notes = [
        "First line of a method: percent of a full score with a fixed share of one half. Below it: "
        "differences to that line, paired by document; 95 % intervals by leaving out images, not "
        "corrected.",
        f"Verdicts: corrected for {int(whole.sum())} means by Holm's method; "
        f"equivalent: within ±{MARGINS.average:g} point.",
        "All: the three methods' scores of a document averaged, which tells smaller differences.",
        "Published differences are ours, of printed values (corrected where one is surely "
        "misprinted) and printed averages: agilepruner audit-paper has the printed ones.",
        "The mapping from erank to share is our choice (the paper: linear), as is the port of BAT; "
        "the README's table of strategies says which.",
        "The paper says: guided beats fixed for each method at each budget, and inverse loses.",
        *_said(data),
        agreement(_claims(data)),
    ]
    sheet = Sheet("Image-aware enhancement", head, sections, notes)
    return Finding(sheet, data.drop(columns="estimate"), _figure(data))


def _with_all(scores: pd.DataFrame, budgets: list[int]) -> pd.DataFrame:
    """The scores with those of a method "all": each document's mean over the methods."""
    for budget in budgets:
        for ending in ("", *(f"_{variant}" for variant in VARIANTS)):
            columns = [f"{method}{ending}@{budget}" for method in METHODS]
            if set(columns) <= set(scores):
                scores[f"{ALL}{ending}@{budget}"] = scores[columns].mean(axis=1)
    return scores


def _differences(scores: pd.DataFrame, budgets: list[int]) -> Iterator[dict]:
    for budget in budgets:
        for method, label in {**METHODS, ALL: ALL_LABEL}.items():
            for variant, words in VARIANTS.items():
                first, second = f"{method}_{variant}@{budget}", f"{method}@{budget}"
                if not {first, second} <= set(scores):
                    continue
                parts = {name: group for name, group in scores.groupby("benchmark", sort=False)}
                found = {name: difference(group, first, second) for name, group in parts.items()}
                found[MEAN] = over_benchmarks(scores, first, second)
                for benchmark, one in found.items():
                    low, high = one.interval()
                    yield {
                        **{"method": method, "label": label, "variant": variant, "words": words},
                        **{"budget": budget, "benchmark": benchmark, "difference": one.point},
                        **{"low": low, "high": high, "estimate": one},
                    }


def _measured(
    data: pd.DataFrame, scores: pd.DataFrame, titles: dict[str, str]
) -> Iterator[tuple[str, list[list[str]]]]:
    count, images = len(scores), scores["image"].nunique()
    for budget, group in data.groupby("budget", sort=False):
        lines = []
        for (method, label), own in group.groupby(["method", "label"], sort=False):
            fixed = 100 * scores.groupby("benchmark")[f"{method}@{budget}"].mean()
            mean = f"{fixed[list(titles)].mean():.1f}"
            lines.append([label, *(f"{fixed[name]:.1f}" for name in titles), mean, ""])
            for words, line in own.groupby("words", sort=False):
                found = line.set_index("benchmark")
                points = [signed(found.loc[name, "difference"], 1) for name in titles]
                whole = found.loc[MEAN]
                lines.append(
                    [words, *points, interval_text(whole["estimate"]), str(whole["verdict"])]
                )
        yield f"Measured at {budget} tokens: {count} documents, {images} images", lines


def _published(titles: dict[str, str]) -> Iterator[tuple[str, list[list[str]]]]:
    """The paper's scores and differences, in its own units, where it has them."""
    numbers = [n for n in published.load() if n.source.startswith("analysis_enhancement")]
    budgets = sorted({n.budget for n in numbers if n.strategy in METHODS}, reverse=True)
    for budget in budgets:
        lines = []
        for method, label in METHODS.items():
            own = {n.benchmark: n for n in numbers if (n.strategy, n.budget) == (method, budget)}
            if not own:
                continue
            lines.append([label, *_texts(titles, own), f"{_average(own):.2f}", ""])
            for variant, words in VARIANTS.items():
                name = (f"{method}_{variant}", budget)
                theirs = {n.benchmark: n for n in numbers if (n.strategy, n.budget) == name}
                if theirs:
                    change = signed(_average(theirs) - _average(own), 2)
                    lines.append([words, *_texts(titles, theirs, own), change, ""])
        yield f"Published, LLaVA-1.5-7B at {budget} tokens (mean: of percent of vanilla)", lines


def _texts(titles: dict[str, str], own: dict, base: dict | None = None) -> Iterator[str]:
    for name in titles:
        if name not in own:
            yield "–"
        else:
            digits = 0 if name == "mme" else 1
            value = own[name].value
            yield f"{value:.{digits}f}" if not base else signed(value - base[name].value, digits)


def _average(own: dict) -> float:
    """The printed average; it is on every line of a method."""
    return float(next(iter(own.values())).printed_average)


def _said(data: pd.DataFrame) -> Iterator[str]:
    whole = data[data["benchmark"] == MEAN]
    for budget, group in whole.groupby("budget", sort=False):
        words = []
        for verdict, own in group.groupby("verdict", sort=False):
            names = [f"{METHODS.get(one.method, 'all')} {one.words}" for one in own.itertuples()]
            which = "all of them" if len(own) == len(group) > 1 else ", ".join(names)
            words.append(f"{verdict}: {which}")
        yield f"Here, at {budget} tokens, against the fixed share: {'; '.join(words)}."


def _claims(data: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Guided better, inverse worse: of each method at each budget."""
    whole = data[(data["benchmark"] == MEAN) & (data["method"] != ALL)]
    for line in whole.itertuples():
        yield "better" if line.variant == "erank" else "worse", str(line.verdict)


def _figure(data: pd.DataFrame) -> Figure:
    """Mean difference to the fixed share, a panel per budget."""
    whole = data[data["benchmark"] == MEAN]
    budgets = list(dict.fromkeys(whole["budget"]))
    figure, axes = panels(len(budgets), width=4.8, height=2.8)
    for ax, budget in zip(axes[0], budgets):
        group = whole[whole["budget"] == budget]
        methods = list(dict.fromkeys(group["method"]))
        for i, (variant, words) in enumerate(VARIANTS.items()):
            own = group[group["variant"] == variant].set_index("method").reindex(methods)
            name = f"vispruner_{variant}"  # a variant has one colour, methods have their place
            look = looks([name])[name]
            error = [own["difference"] - own["low"], own["high"] - own["difference"]]
            x = np.arange(len(methods)) + 0.16 * (2 * i - 1)
            ax.errorbar(x, own["difference"], error, ls="", capsize=3, ms=6, label=words, **look)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(
            range(len(methods)),
            [f"{METHODS.get(name, 'all')}".replace(" + ", "\n+ ") for name in methods],
            fontsize=8,
        )
        ax.set(title=f"{budget} tokens", ylabel="points minus the fixed share")
        ax.margins(x=0.2)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure

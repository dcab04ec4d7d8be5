"""Effective rank and attention entropy rise together."""

from collections.abc import Iterator
from math import sqrt

import numpy as np

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.contrasts import FEWEST
from agilepruner.report.statistics import Estimate, jackknife

MARGIN = 0.1  # a correlation that explains 1 % of the variance


class ErankAndEntropy(Claim):
    """Pearson's correlation over images, each counted once."""

    says = "Effective rank and attention entropy of an image rise together."
    source = (
        "AgilePruner (second-hand: a correlation of 0.63 in one note on it, above 0.8 in another)"
    )
    strategies = ("vanilla",)
    benchmarks = ("gqa", "scienceqa_img", "textvqa", "pope", "mme")

    def parts(self, measured: Measured) -> Iterator[Part]:
        documents = measured.documents(("vanilla",))
        images = documents.dropna(subset=["erank_input", "entropy"]).drop_duplicates("image")
        if len(images) <= FEWEST or min(images["erank_input"].std(), images["entropy"].std()) == 0:
            return
        yield Part(
            "correlation (Pearson) of erank and entropy",
            measured.table.full,
            1,
            correlation(images["erank_input"].to_numpy(), images["entropy"].to_numpy()),
            MARGIN,
            len(images),
            len(images),
            "",
            strategy="vanilla",
            benchmark="+".join(dict.fromkeys(images["benchmark"])),
        )


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's correlation of (n,) and (n,), with the jackknife's error."""
    n, whole = len(x), np.array([x.sum(), y.sum(), x @ x, y @ y, x @ y])
    without = whole - np.stack([x, y, x * x, y * y, x * y], axis=1)  # (n, 5)

    def r(sums: np.ndarray, count: int) -> np.ndarray:
        sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        return (sxy - sx * sy / count) / np.sqrt((sxx - sx * sx / count) * (syy - sy * sy / count))

    error = sqrt(jackknife(r(without, n - 1)))
    return Estimate(float(r(whole, n)), error, n - 1)

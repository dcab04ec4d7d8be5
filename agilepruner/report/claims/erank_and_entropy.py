"""Effective rank and attention entropy rise together."""

from collections.abc import Iterator

from agilepruner.report.claims import Claim, Measured, Part
from agilepruner.report.contrasts import FEWEST, UNRELATED, correlation


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
            UNRELATED,
            len(images),
            len(images),
            "",
            strategy="vanilla",
            benchmark="+".join(dict.fromkeys(images["benchmark"])),
        )

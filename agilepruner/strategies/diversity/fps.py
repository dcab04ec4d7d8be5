"""FPSPruner: farthest point sampling of the tokens."""

from dataclasses import dataclass
from typing import ClassVar

from agilepruner.linalg import centred, gram
from agilepruner.strategies.base import Selection, Strategy, VisualTokens, keep
from agilepruner.strategies.geometry import farthest_first


@dataclass(frozen=True)
class FPS(Strategy):
    """Repeatedly add the token whose nearest selected token is farthest, in Euclidean distance.

    FPSPruner of AgilePruner's tables (arXiv 2603.01236) is described in one sentence of a caption
    and has no released code. DivPrune is the same walk with cosine distances and another start.
    """

    family: ClassVar = "diversity"
    label: ClassVar = "FPSPruner"
    needs: ClassVar = {"projected"}
    paper: ClassVar = "2603.01236"
    choice: ClassVar = (
        "Euclidean distance between projected tokens; starts at the token farthest from their mean"
    )

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        products = gram(centred(tokens.projected))  # (B, N, N)
        square = products.diagonal(dim1=1, dim2=2).clone()  # (B, N) squared distance from the mean
        distances = products.mul_(-2).add_(square[:, :, None]).add_(square[:, None, :])  # squared
        return keep(farthest_first(distances, square.argmax(dim=1, keepdim=True), budget))

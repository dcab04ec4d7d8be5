"""Another layer: any strategy, choosing by what another layer of the vision tower says."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from agilepruner.ranges import Rule
from agilepruner.strategies.base import Selection, Strategy, VisualTokens
from agilepruner.strategies.wrapping import Wrapping

before_the_model = Rule(
    "a strategy that prunes before the language model",
    lambda inner: isinstance(inner, Strategy) and not inner.inside,
)
COMPARED = ("features", "projected", "keys")


@dataclass(frozen=True)
class OtherLayer(Wrapping):
    """Rank by another attention, or compare other features, than the strategy was made for.

    Our way to ask how much the layer matters: the language model sees the same tokens, only the
    choice among them is made elsewhere. Layers are those that models capture for some strategy.

    Attributes:
        inner: a strategy that prunes before the language model.
        attention: what stands for the CLS attention of the penultimate layer (``attention``): the
            same at a quarter of the depth (``attention_local``), or what patches receive from all
            patches at 3/8 of the depth (``received_object``) or at the penultimate layer
            (``received_deep``).
        compared: the features that the strategy compares: its ``own``, the penultimate layer's
            (``features``), the same after the projector (``projected``), or that layer's ``keys``.
    """

    inner: Annotated[Any, before_the_model]
    attention: Literal["attention", "attention_local", "received_object", "received_deep"] = (
        "attention"
    )
    compared: Literal["own", "features", "projected", "keys"] = "own"

    choice: ClassVar = "chosen by another layer: a question of ours"

    @property
    def family(self) -> str:  # type: ignore[override]
        """As the inner strategy."""
        return str(self.inner.family)

    @property
    def label(self) -> str:  # type: ignore[override]
        """The inner strategy's name and what is another."""
        changed: list[str] = [self.attention] if self.attention != "attention" else []
        changed += [self.compared] if self.compared != "own" else []
        return f"{self.inner.label} by {', '.join(changed) or 'its own layers'}"

    @property
    def needs(self) -> set[str]:  # type: ignore[override]
        """What the inner strategy needs, from the layers that are asked for."""
        return {self._source(name) for name in self.inner.needs}

    def _source(self, name: str) -> str:
        """The capture that stands for one which the inner strategy needs."""
        if name == "attention":
            return self.attention
        return self.compared if name in COMPARED and self.compared != "own" else name

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        seen = {name: getattr(tokens, self._source(name)) for name in self.inner.needs}
        if seen.get("attention") is not None and seen["attention"].dim() == 2:
            seen["attention"] = seen["attention"][:, None]  # (B, N) -> (B, 1, N)
        # What was computed of the strategy's own layers is another number here.
        selection: Selection = self.inner.select(replace(tokens, shared=None, **seen), budget)
        return selection

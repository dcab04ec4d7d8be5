"""PruMerge and PruMerge+: attended patches absorb their neighbours, one token sums up the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agilepruner.strategies.base import Selection, Strategy, VisualTokens, top
from agilepruner.strategies.geometry import unit

NEIGHBOURS = 32  # hard-coded in the released code


@dataclass(frozen=True)
class PruMerge(Strategy):
    """Keep the most attended patches, each plus its 32 nearest others, and one summary token.

    PruMerge (arXiv 2403.15388): attention is the softmax of the last ViT layer's raw CLS query
    with all raw keys, as ONE head of full width; nearest is by cosine of those keys among all
    other patches. A kept patch becomes itself PLUS the attention-weighted sum of its neighbours
    (not normalised, as in the released code); the extra token is the same sum over all patches
    not kept. Output in order of choice, the extra token last: budget + 1 tokens, as published.
    """

    family: ClassVar = "attention"
    label: ClassVar = "PruMerge"
    golden: ClassVar = "same rule as the adaptive cases"
    needs: ClassVar = {"last_query", "last_keys", "features"}
    merges: ClassVar = True
    paper: ClassVar = "2403.15388"
    choice: ClassVar = (
        "at a fixed budget: the budget's most attended patches, plus the summary token"
    )
    extra: ClassVar = 1

    def select(self, tokens: VisualTokens, budget: int) -> Selection:
        attention = cls_attention(tokens.last_query, tokens.last_keys)  # (B, N)
        directions = unit(tokens.last_keys[:, 1:])  # (B, N, C)
        order = top(attention, tokens.count).tolist()
        images = [
            merge(self._centres(a, o, budget), a, d)
            for a, o, d in zip(attention, order, directions)
        ]
        return Selection(
            pad_sequence([i for i, _ in images], batch_first=True, padding_value=-1),
            pad_sequence([w for _, w in images], batch_first=True),
        )

    def _centres(self, attention: Tensor, order: list[int], budget: int) -> list[int]:
        """Patches to keep of one image, in the order of the output."""
        return order[:budget]


@dataclass(frozen=True)
class PruMergeAdaptive(PruMerge):
    """PruMerge as released: as many patches as have outlying attention, whatever the budget."""

    label: ClassVar = "PruMerge (adaptive)"
    golden: ClassVar = "42Shawn/LLaVA-PruMerge"
    choice: ClassVar = ""
    budgeted: ClassVar = False

    def _centres(self, attention: Tensor, order: list[int], budget: int) -> list[int]:
        return order[: int(len(order) * outlier_ratio(attention))]


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge at half the budget, the other half evenly spaced (the released training branch).

    Patches that are both attended and on the even spacing come out twice, as in the released code.
    Differs from it where its rounded spacing would miss the budget: then spacing is exact.
    """

    label: ClassVar = "PruMerge+"
    golden: ClassVar = "42Shawn/LLaVA-PruMerge"
    choice: ClassVar = (
        "fixed budget by the released training branch; which branch the published rows used is open"
    )
    equivariant: ClassVar = False

    def _centres(self, attention: Tensor, order: list[int], budget: int) -> list[int]:
        n, attended = len(order), budget // 2
        spaced = budget - attended
        step = 2 * n // budget
        even = list(range(step // 2, n - 1, step))
        if len(even) != spaced:
            even = [(2 * i + 1) * n // (2 * spaced) for i in range(spaced)]
        return order[:attended] + even


@dataclass(frozen=True)
class PruMergePlusAdaptive(PruMerge):
    """PruMerge+ as released: outlying patches and three times as many evenly spaced ones.

    Differs from the released code where that divides by zero: without outliers the most attended
    patch counts as one; with more than a third of outliers every patch is kept.
    """

    label: ClassVar = "PruMerge+ (adaptive)"
    golden: ClassVar = "same merge as the fixed cases"
    choice: ClassVar = "without outliers the most attended patch counts as one"
    budgeted: ClassVar = False
    equivariant: ClassVar = False

    def _centres(self, attention: Tensor, order: list[int], budget: int) -> list[int]:
        n = len(order)
        ratio = outlier_ratio(attention) or 1 / n
        attended = order[: int(n * ratio)]
        step = max(1, int(int(1 / ratio) / 3))
        return attended + sorted(set(range(0, n - 1, step)) - set(attended))


def cls_attention(query: Tensor, keys: Tensor) -> Tensor:
    """(B, C) CLS query, (B, N + 1, C) keys, CLS first -> (B, N): softmax with CLS, then without."""
    logits = (query[:, None].float() @ keys.float().mT).squeeze(1) * query.shape[-1] ** -0.5
    return logits.softmax(dim=-1)[:, 1:]


def outlier_ratio(attention: Tensor) -> float:
    """Share of the patches (N,) whose attention is above Q3 + 1.5 IQR."""
    low, high = attention.quantile(attention.new_tensor([0.25, 0.75])).tolist()
    return int((attention > high + 1.5 * (high - low)).sum()) / attention.numel()


def merge(centres: list[int], attention: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Output tokens of one image: the centres with their neighbours, then the summary.

    A centre that comes twice counts as two tokens, and as in the released code each repetition
    hides one of the first patches not kept.

    Args:
        centres: patches to keep, in output order.
        attention: (N,) of the CLS token.
        directions: (N, C) keys of length 1.

    Returns:
        (K + 1,) patch of each output token, N for the summary; (K + 1, N) mixing weights.
    """
    n, count = len(attention), len(centres)
    kept = torch.tensor(centres, dtype=torch.long, device=attention.device)
    free = torch.ones(n, dtype=torch.bool, device=kept.device)
    free[kept] = False
    others = free.nonzero().flatten()[count - len(set(centres)) :]
    candidates = torch.cat([others, kept])
    similarity = directions[kept] @ directions[candidates].T  # (K, N - repetitions hidden)
    similarity[:, len(others) :].fill_diagonal_(-torch.inf)  # not itself
    nearest = candidates[similarity.topk(min(NEIGHBOURS, n - 1), dim=1).indices]

    weights = torch.zeros(count + 1, n, device=kept.device)
    weights[:count].scatter_add_(1, nearest, attention[nearest])
    weights[torch.arange(count, device=kept.device), kept] += 1
    weights[count, others] = attention[others]
    return torch.cat([kept, kept.new_tensor([n])]), weights

"""Read queries and keys of one attention layer while the tower runs on SDPA, untouched."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class QueryKeyTap:
    """Raw q_proj and k_proj outputs of one attention module's last call, (B, T, C) each."""

    def __init__(self) -> None:
        self.queries: Tensor | None = None
        self.keys: Tensor | None = None

    def cls_attention(self, heads: int) -> Tensor:
        """(B, H, T - 1): softmaxed attention of token 0 to every other token, per head.

        The softmax runs over all T keys, in float32, and the CLS column is dropped afterwards,
        which is ``output_attentions`` of the eager layer without its T x T maps.
        """
        if self.queries is None or self.keys is None:
            raise RuntimeError("the tapped attention layer did not run")
        query = self.queries[:, 0].unflatten(-1, (heads, -1))  # (B, H, d)
        keys = self.keys.unflatten(-1, (heads, -1))  # (B, T, H, d)
        logits = torch.einsum("bhd,bthd->bht", query, keys) * query.shape[-1] ** -0.5
        return logits.softmax(dim=-1, dtype=torch.float32)[..., 1:]


@contextmanager
def tap(attention: nn.Module) -> Iterator[QueryKeyTap]:
    """Capture q_proj and k_proj of ``attention`` for the calls inside the block."""
    captured = QueryKeyTap()

    def keep_queries(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        captured.queries = output

    def keep_keys(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        captured.keys = output

    hooks = [
        attention.q_proj.register_forward_hook(keep_queries),
        attention.k_proj.register_forward_hook(keep_keys),
    ]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()

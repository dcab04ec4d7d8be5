"""Read queries and keys of one attention layer while the tower runs on SDPA, untouched."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def at_depth(depth: float, layers: Sized) -> int:
    """The layer (0-based) at the end of a share of the depth, rounded; at least the first."""
    return max(1, round(depth * len(layers))) - 1


class QueryKeyTap:
    """Queries and keys, (B, T, C), of one attention module's last call, heads not split."""

    def __init__(self) -> None:
        self.queries: Any = None
        self.keys: Any = None

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

    def received_attention(self, heads: int, cls: bool = True, chunk: int = 128) -> Tensor:
        """(B, T) or (B, T - 1): softmaxed attention that every token but a CLS token receives.

        The mean over heads and over all T queries, float32, with the softmax over all T keys.
        ``chunk`` queries at a time: no T x T maps are kept.
        """
        if self.queries is None or self.keys is None:
            raise RuntimeError("the tapped attention layer did not run")
        queries, keys = (x.unflatten(-1, (heads, -1)) for x in (self.queries, self.keys))
        received = torch.zeros(keys.shape[:2], device=keys.device)  # (B, T)
        for part in queries.split(chunk, dim=1):
            logits = torch.einsum("bqhd,bthd->bhqt", part, keys) * part.shape[-1] ** -0.5
            received += logits.softmax(dim=-1, dtype=torch.float32).sum(dim=(1, 2))
        return received[:, int(cls) :] / (heads * keys.shape[1])


@contextmanager
def tap(attention: Any) -> Iterator[QueryKeyTap]:
    """Capture q_proj and k_proj of ``attention`` for the calls inside the block.

    Where a norm over all heads follows (InternViT's q_norm and k_norm), its output.
    """
    captured = QueryKeyTap()

    def keep_queries(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        captured.queries = output

    def keep_keys(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        captured.keys = output

    hooks = [
        getattr(attention, "q_norm", attention.q_proj).register_forward_hook(keep_queries),
        getattr(attention, "k_norm", attention.k_proj).register_forward_hook(keep_keys),
    ]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


class PackedTap:
    """What one attention module of Qwen's tower was called with, and its raw qkv output.

    Images are packed one after the other in one sequence of P patches.
    """

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.qkv: Tensor | None = None  # (P, 3 C)
        self.rotary: tuple[Tensor, Tensor] | None = None  # cosine and sine, (P, head size)
        self.bounds: list[int] = []  # where each image begins, and the end

    def received_attention(self, square: int, chunk: int = 512) -> Tensor:
        """(P / square,): attention that each ``square`` consecutive patches receive.

        The mean over heads and queries of the softmaxed attention, float32, summed over the square:
        over one image it sums to 1. ``chunk`` queries at a time: no P x P maps are kept.
        """
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

        if self.qkv is None or self.rotary is None:
            raise RuntimeError("the tapped attention layer did not run")
        queries, keys, _ = self.qkv.unflatten(-1, (3, self.heads, -1)).unbind(1)  # (P, H, d)
        queries, keys = apply_rotary_pos_emb_vision(queries, keys, *self.rotary)
        received = torch.zeros(len(keys), device=keys.device)
        for start, end in zip(self.bounds, self.bounds[1:]):
            mine = keys[start:end]
            for part in queries[start:end].split(chunk):
                logits = torch.einsum("qhd,khd->hqk", part, mine) * part.shape[-1] ** -0.5
                received[start:end] += logits.softmax(dim=-1, dtype=torch.float32).sum(dim=(0, 1))
            received[start:end] /= self.heads * (end - start)
        return received.view(-1, square).sum(dim=1)


@contextmanager
def tap_packed(attention: Any) -> Iterator[PackedTap]:
    """Capture qkv, rotary embeddings and image bounds of ``attention`` (Qwen's tower)."""
    captured = PackedTap(attention.num_heads)

    def keep_call(_module: nn.Module, _inputs: object, named: dict[str, Any]) -> None:
        captured.rotary = named["position_embeddings"]
        captured.bounds = named["cu_seqlens"].tolist()

    def keep_qkv(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        captured.qkv = output

    hooks = [
        attention.register_forward_pre_hook(keep_call, with_kwargs=True),
        attention.qkv.register_forward_hook(keep_qkv),
    ]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()

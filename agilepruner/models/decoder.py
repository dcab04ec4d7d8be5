"""Pruning inside the language model: visual tokens really leave between decoder layers.

    with shorten(language_model, strategy, budget, visual, attention_mask) as prefill:
        output = model.generate(...)          # plain generate, greedy, dynamic cache
    prefill.visual                            # visual tokens per row and layer
    prefill.kept                              # which ones, per stage and row

``visual`` and ``attention_mask`` are the (B, L) masks of the left-padded prompt as the language
model sees it (visual placeholders expanded). Pre-hooks on the decoder layers do the rest: before a
stage's layer the hidden states, masks and positions of the prompt shorten, so every later layer
computes less and writes a shorter KV cache. The model's attention implementation is untouched; the
ranking attention is computed for the few query tokens it takes, from the keys already there.

Per row, the number of stages is the model's and the counts are the row's: rows with different
numbers of visual tokens are left-padded anew at each stage.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from agilepruner.strategies.base import top
from agilepruner.strategies.decoder.schedule import DecoderStrategy, Stage, received
from agilepruner.strategies.decoder.sparsevlm import raters


@dataclass
class Prompt:
    """The prompt as one stretch of layers sees it: left-padded rows of tokens.

    Attributes:
        mask: (B, L) bool, tokens that are no padding.
        visual: (B, L) bool, tokens that are visual.
        origin: (B, L) position in the first layer's prompt; -1 for padding and merged tokens.
        rotary: cosine and sine of the positions, (B, L, d) each.
    """

    mask: Tensor
    visual: Tensor
    origin: Tensor
    rotary: tuple[Tensor, Tensor]
    padded: bool = field(init=False)

    def __post_init__(self) -> None:
        self.padded = not bool(self.mask.all())


class Prefill:
    """Hooks that shorten the prompt of each ``generate`` call, and what they did.

    Attributes:
        visual: (B, layers) visual tokens that each decoder layer saw, of the last call.
        kept: per stage, per row: original prompt positions of the visual tokens kept by rank.
    """

    def __init__(
        self,
        language_model: Any,
        strategy: DecoderStrategy,
        plans: Sequence[Sequence[Stage]],
        visual: Tensor,
        attention_mask: Tensor | None = None,
    ) -> None:
        """Prepare for prompts of one shape.

        Args:
            language_model: the decoder (``layers``, ``rotary_emb``, ``config``), e.g.
                ``model.model.language_model`` of a LLaVA.
            strategy: ranks, recycles, and says what becomes of the positions.
            plans: stages of each row; the same layers in every row.
            visual: (B, L) bool, where the visual tokens are; contiguous in each row.
            attention_mask: (B, L) of the left padding; None: no padding.
        """
        mask = torch.ones_like(visual) if attention_mask is None else attention_mask.bool()
        if visual.shape != mask.shape or len(plans) != len(visual):
            raise ValueError(
                f"visual is {tuple(visual.shape)}, attention_mask {tuple(mask.shape)}, plans are "
                f"{len(plans)}; expected one (B, L) for both and B plans"
            )
        for row in visual:
            at = row.nonzero().flatten()
            if len(at) == 0 or at[-1] - at[0] + 1 != len(at):
                raise ValueError("each prompt needs exactly one contiguous run of visual tokens")
        starts = {tuple(stage.layer for stage in plan) for plan in plans}
        if len(starts) != 1:
            raise ValueError(f"rows of one batch have stages at different layers: {starts}")
        self.model = language_model
        self.strategy = strategy
        self.plans = plans
        self.starts = list(starts.pop())
        self._first_mask = mask
        self._first_visual = visual.bool()
        self.visual: Tensor = torch.empty(0)
        self.kept: list[list[Tensor]] = []
        self._prompts: list[Prompt] = []  # as of each stage, the whole one first
        self._prefilling = False
        self._raters: list[Tensor] = []  # per row, positions in the whole prompt
        self._normed: Tensor | None = None  # input of the previous layer's attention
        self._deep: dict[int, Tensor] = {}  # layer -> DeepStack features still to be added
        self._decoding: dict[int, tuple[Any, Any]] = {}  # stage -> mask and rotary of this step

    @contextmanager
    def hooks(self) -> Iterator["Prefill"]:
        """Attach to the model's layers for the block."""
        layers = self.model.layers
        handles = [layers[0].register_forward_pre_hook(self._begin, with_kwargs=True)]
        handles.append(self.model.register_forward_pre_hook(self._take_deep, with_kwargs=True))
        for index in range(min(self.starts, default=len(layers)), len(layers)):
            handles.append(
                layers[index].register_forward_pre_hook(self._layer_hook(index), with_kwargs=True)
            )
        if self.strategy.ranks != "next":
            for start in self.starts:
                handles.append(
                    layers[start - 1].self_attn.register_forward_pre_hook(
                        self._keep_normed, with_kwargs=True
                    )
                )
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _take_deep(self, _model: Any, args: tuple, named: dict[str, Any]) -> tuple[tuple, dict]:
        """DeepStack features that would be added behind the first stage are added here instead."""
        self._deep = {}
        given, mask = named.get("deepstack_visual_embeds"), named.get("visual_pos_masks")
        if given is None or mask is None or not self.starts:
            return args, named
        if len(given) >= len(self.model.layers):
            raise ValueError("DeepStack features for every decoder layer cannot be pruned inside")
        first = self.starts[0]
        for layer, features in enumerate(given[first:], first + 1):
            whole = features.new_zeros(*mask.shape, features.shape[-1])
            whole[mask] = features
            self._deep[layer] = whole  # (B, L, D), added before this layer
        return args, {**named, "deepstack_visual_embeds": given[:first]}

    def _add_deep(self, hidden: Tensor, index: int) -> Tensor:
        """Hidden states with the DeepStack features of what is still there; merged tokens: none."""
        prompt, whole = self._prompts[-1], self._deep[index]
        at = prompt.origin.clamp_min(0)[:, :, None].expand(-1, -1, whole.shape[-1])
        there = (prompt.visual & (prompt.origin >= 0))[:, :, None]
        return torch.where(there, hidden + whole.gather(1, at).to(hidden.dtype), hidden)

    def _begin(self, _layer: Any, args: tuple, named: dict[str, Any]) -> None:
        """At the first layer: is this the prefill of a new call, or a decoding step?"""
        hidden, cache = _hidden(args, named), named.get("past_key_values")
        self._decoding = {}
        self._prefilling = cache is None or cache.get_seq_length(0) == 0
        if not self._prefilling:
            return
        mask, visual = self._first_mask.to(hidden.device), self._first_visual.to(hidden.device)
        if hidden.shape[:2] != visual.shape:
            raise ValueError(
                f"the language model sees {tuple(hidden.shape[:2])} tokens, the visual mask is "
                f"{tuple(visual.shape)}: give the masks of the prompt after expanding placeholders"
            )
        origin = torch.arange(hidden.shape[1], device=hidden.device).expand(mask.shape)
        rotary = named["position_embeddings"]
        rotary = tuple(part.expand(len(hidden), -1, -1) for part in rotary)
        self._prompts = [Prompt(mask, visual, origin.where(mask, -1), rotary)]
        self.kept = []
        self.visual = visual.sum(dim=1, keepdim=True).expand(-1, len(self.model.layers)).clone()
        if self.strategy.queries == "raters":
            self._raters = [self._choose_raters(*row) for row in zip(hidden, visual)]

    def _choose_raters(self, embeds: Tensor, visual: Tensor) -> Tensor:
        """Positions of the text tokens after the image that rate it."""
        end = int(visual.nonzero()[-1]) + 1
        return end + raters(embeds[visual], embeds[end:]).nonzero().flatten()

    def _keep_normed(self, _attention: Any, args: tuple, named: dict[str, Any]) -> None:
        if self._prefilling:
            self._normed = _hidden(args, named)

    def _layer_hook(self, index: int) -> Any:
        def shorten_layer(layer: Any, args: tuple, named: dict[str, Any]) -> tuple[tuple, dict]:
            hidden = _hidden(args, named)
            cache = named.get("past_key_values")
            if self._prefilling and index in self._deep:
                hidden = self._add_deep(hidden, index)
            if self._prefilling and index in self.starts:
                hidden = self._stage(index, layer, hidden, cache)
            stage = sum(start <= index for start in self.starts)
            mask, rotary = self._context(stage, index, hidden, cache, named["position_embeddings"])
            named = {
                **named,
                "attention_mask": mask,
                "position_embeddings": rotary,
                "position_ids": None,  # gaps would read as packed sequences
            }
            if args:
                return (hidden, *args[1:]), named
            return args, {**named, "hidden_states": hidden}

        return shorten_layer

    def _stage(self, index: int, layer: Any, hidden: Tensor, cache: Any) -> Tensor:
        """Rank, drop and recycle before layer ``index``; the shorter hidden states."""
        before, number = self._prompts[-1], self.starts.index(index)
        keys = self._keys(index, layer, hidden, cache, before)
        rows, kept = [], []
        for row in range(len(hidden)):
            stage = self.plans[row][number]
            visual = before.visual[row].nonzero().flatten()
            if self.strategy.ranks == "states":
                scores = hidden.new_zeros(len(visual))
                chosen = self._choose(hidden[row], keys[row], before.mask[row], visual, stage.keep)
            else:
                scores = self._scores(row, index, hidden[row], keys[row], before)
                chosen = top(scores, stage.keep).sort().values
            stays = torch.ones(len(visual), dtype=torch.bool, device=hidden.device)
            stays[chosen] = False
            dropped = visual[stays]
            merged = self.strategy.recycle(hidden[row, dropped], scores[stays])
            if len(merged) != stage.merged:
                raise ValueError(f"planned {stage.merged} merged tokens, got {len(merged)}")
            there = before.mask[row].nonzero().flatten()
            front = torch.cat([there[there < visual[0]], visual[chosen]])
            back = there[there > visual[-1]]
            rows.append((front, merged, back))
            kept.append(before.origin[row, visual[chosen]])
        self.kept.append(kept)
        hidden, after = self._assemble(hidden, rows, before, number)
        self._prompts.append(after)
        self.visual[:, index:] = after.visual.sum(dim=1, keepdim=True)
        return hidden

    def _choose(
        self, hidden: Tensor, keys: Tensor, mask: Tensor, visual: Tensor, keep: int
    ) -> Tensor:
        """Numbers of the visual tokens of one row that its states choose, without the padding."""
        states = self.model.norm(hidden[mask])  # (L, D)
        keys = keys[:, mask].transpose(0, 1).flatten(1)  # (kv heads, L, d) -> (L, heads * d)
        first = int(mask[: visual[0]].sum())
        return self.strategy.choose(states, keys, first, len(visual), keep)

    def _scores(self, row: int, index: int, hidden: Tensor, keys: Tensor, before: Prompt) -> Tensor:
        """(V,) rank of one row's visual tokens: softmaxed attention of the query tokens."""
        layer = self.model.layers[index - (self.strategy.ranks == "previous")]
        if self.strategy.ranks == "previous":
            assert self._normed is not None
            normed = self._normed[row]
        else:
            normed = layer.input_layernorm(hidden)
        if self.strategy.queries == "last":
            asking = torch.tensor([len(normed) - 1], device=hidden.device)  # left padding
        else:  # text keeps its distance from the end
            asking = self._raters[row] + len(normed) - self._first_mask.shape[1]
        rotary = tuple(part[row : row + 1, asking] for part in before.rotary)
        queries = _heads(layer.self_attn, "q", normed[asking][None])
        queries = _rotate(layer.self_attn, queries, rotary)[0]  # (H, Q, d)
        keys = keys.repeat_interleave(len(queries) // len(keys), dim=0)  # (H, L, d)
        logits = (queries @ keys.mT).float() * layer.self_attn.scaling  # (H, Q, L)
        position = torch.arange(len(normed), device=hidden.device)
        seen = before.mask[row] & (position <= asking[:, None])  # (Q, L)
        attention = logits.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        return received(attention[:, :, before.visual[row]])

    def _keys(self, index: int, layer: Any, hidden: Tensor, cache: Any, before: Prompt) -> Tensor:
        """(B, kv heads, L, d) rotated keys of the layer that ranks."""
        if self.strategy.ranks != "next" and cache is not None:
            return cache.layers[index - 1].keys
        if self.strategy.ranks != "next":
            assert self._normed is not None
            layer, normed = self.model.layers[index - 1], self._normed
        else:
            normed = layer.input_layernorm(hidden)
        keys = _heads(layer.self_attn, "k", normed)
        return _rotate(layer.self_attn, keys, before.rotary)

    def _assemble(
        self, hidden: Tensor, rows: list[tuple[Tensor, Tensor, Tensor]], before: Prompt, number: int
    ) -> tuple[Tensor, Prompt]:
        """Left-pad rows of (positions before, merged tokens, positions after) to one batch."""
        sizes = [len(front) + len(merged) + len(back) for front, merged, back in rows]
        length = max(sizes)
        new = hidden.new_zeros(len(rows), length, hidden.shape[2])
        gather = torch.zeros(len(rows), length, dtype=torch.long, device=hidden.device)
        real = torch.zeros(len(rows), length, dtype=torch.bool, device=hidden.device)
        mask = torch.zeros_like(real)
        visual = torch.zeros_like(real)
        for row, ((front, merged, back), size) in enumerate(zip(rows, sizes)):
            end = length - len(back)
            start = end - len(merged)
            new[row, start:end] = merged
            gather[row, length - size : start] = front
            gather[row, end:] = back
            mask[row, length - size :] = True
            real[row] = mask[row]
            real[row, start:end] = False
            visual[row, start:end] = True
        moved = hidden.gather(1, gather[:, :, None].expand(-1, -1, hidden.shape[2]))
        new = torch.where(real[:, :, None], moved, new)
        visual |= real & before.visual.gather(1, gather)
        origin = before.origin.gather(1, gather).where(real, -1)
        if self.strategy.positions == "reset":
            rotary = self._rotary(hidden, (mask.cumsum(dim=1) - 1).clamp_min(0))
        else:
            cosine, sine = before.rotary
            at = gather[:, :, None].expand(-1, -1, cosine.shape[-1])
            rotary = (cosine.gather(1, at), sine.gather(1, at))
        return new, Prompt(mask, visual, origin, rotary)

    def _context(
        self, stage: int, index: int, hidden: Tensor, cache: Any, rotary: Any
    ) -> tuple[Any, Any]:
        """Attention mask and rotary embeddings for the layers of a stage, made once per step."""
        if stage in self._decoding:
            return self._decoding[stage]
        prompt = self._prompts[stage]
        length = hidden.shape[1]
        seen = 0 if cache is None else cache.get_seq_length(index)
        new = 0 if self._prefilling else seen + length - prompt.mask.shape[1]
        mask = torch.nn.functional.pad(prompt.mask, (0, new), value=True)
        if self._prefilling:
            rotary = prompt.rotary
        elif self.strategy.decoding == "compact":
            rotary = self._rotary(hidden, (mask.cumsum(dim=1) - 1)[:, -length:])
        attention_mask = create_causal_mask(
            config=self.model.config,
            inputs_embeds=hidden,
            attention_mask=mask if prompt.padded else None,
            past_key_values=cache,
            position_ids=None,
            layer_idx=index,
        )
        self._decoding[stage] = attention_mask, rotary
        return self._decoding[stage]

    def _rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine at (B, L) positions; M-RoPE gets the same in time, height and width."""
        if hasattr(self.model.rotary_emb, "mrope_section"):
            positions = positions.expand(3, -1, -1)
        return self.model.rotary_emb(hidden, position_ids=positions)


@contextmanager
def shorten(
    language_model: Any,
    strategy: DecoderStrategy,
    budget: int,
    visual: Tensor,
    attention_mask: Tensor | None = None,
) -> Iterator[Prefill]:
    """Prune by ``strategy`` at ``budget`` in the ``generate`` calls of the block; see the module.

    Args:
        language_model: the decoder, e.g. ``model.model.language_model``.
        strategy: a decoder strategy.
        budget: visual tokens per row, on average over the decoder layers.
        visual: (B, L) bool, where the visual tokens are.
        attention_mask: (B, L), 0 at the left padding.

    Raises:
        UserError: the budget is impossible at this depth.
    """
    layers = len(language_model.layers)
    plans = [strategy.plan(layers, count, budget) for count in visual.sum(dim=1).tolist()]
    with Prefill(language_model, strategy, plans, visual, attention_mask).hooks() as prefill:
        yield prefill


def _hidden(args: tuple, named: dict[str, Any]) -> Tensor:
    return args[0] if args else named["hidden_states"]


def _heads(attention: Any, kind: str, normed: Tensor) -> Tensor:
    """Queries ("q") or keys ("k") of an attention module: (B, L, D) -> (B, heads, L, d)."""
    states = getattr(attention, f"{kind}_proj")(normed).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{kind}_norm", None)  # of each head, as Qwen3 has it
    return (states if norm is None else norm(states)).transpose(1, 2)


def _rotate(attention: Any, states: Tensor, rotary: tuple[Tensor, ...]) -> Tensor:
    """Rotary positions by the model family's own function."""
    apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    return apply(states, states, *rotary)[0]

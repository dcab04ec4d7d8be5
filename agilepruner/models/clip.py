"""CLIP's joint image-text space, for models whose vision tower was taken from a CLIP checkpoint."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class JointSpace:
    """Patches and questions in the space where CLIP compares images with texts (CDPruner).

    LLaVA's own weights hold neither the text tower nor the two projections; they are read, in
    float32, from the checkpoint that its vision tower was taken from, at first use.

    Args:
        path: directory or hub name of a ``CLIPModel``.
        device: where to compute.
        revision: hub commit; None takes the newest.
    """

    def __init__(self, path: str, device: Any = "cpu", revision: str | None = None) -> None:
        self.path, self.device, self.revision = path, device, revision
        self._parts: tuple[Any, ...] | None = None
        self.question = lru_cache(maxsize=4096)(self._question)

    def _load(self) -> tuple[Any, ...]:
        """Text tower, text projection, norm and projection of patches, tokenizer."""
        if self._parts is None:
            from transformers import CLIPModel, CLIPTokenizer

            where: dict[str, Any] = {"revision": self.revision}
            model = CLIPModel.from_pretrained(self.path, dtype=torch.float, **where)
            parts = (
                model.text_model,
                model.text_projection,
                model.vision_model.post_layernorm,
                model.visual_projection,
            )
            tokenizer = CLIPTokenizer.from_pretrained(self.path, **where)
            self._parts = (*(part.eval().to(self.device) for part in parts), tokenizer)
        return self._parts

    def patches(self, hidden: Tensor) -> Tensor:
        """Hidden states of patches (B, N, C) -> their embeddings (B, N, E), float32."""
        _, _, norm, projection, _ = self._load()
        return projection(norm(hidden.float()))

    def _question(self, text: str) -> Tensor:
        """A text -> the embedding of each of its segments (M, E), float32.

        As in CDPruner's code: the tokens (begin and end included) are cut into segments of the
        tower's 77 positions, the last one padded with zeros.
        """
        tower, projection, *_, tokenizer = self._load()
        length = tower.config.max_position_embeddings
        ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
        segments = F.pad(ids, (0, -ids.shape[1] % length)).view(-1, length)
        mask = F.pad(torch.ones_like(ids), (0, -ids.shape[1] % length)).view(-1, length)
        with torch.inference_mode():
            pooled = tower(segments.to(self.device), mask.to(self.device)).pooler_output
            return projection(pooled)

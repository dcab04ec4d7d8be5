"""CLIP's joint image-text space, for models whose vision tower was taken from a CLIP checkpoint."""

from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from agilepruner.models.checkpoints import fetching
from agilepruner.models.text import PlainText


class JointSpace:
    """Patches and questions in the space where CLIP compares images with texts (CDPruner).

    LLaVA's own weights hold neither the text tower nor the two projections; they are read, in
    float32, from the checkpoint that its vision tower was taken from, at first use.

    Args:
        path: directory or hub name of a ``CLIPModel``.
        device: where to compute.

    Raises:
        UserError: at first use, when the checkpoint cannot be had.
    """

    def __init__(self, path: str, device: Any) -> None:
        self.path, self.device = path, device
        self.question = lru_cache(maxsize=4096)(self._question)

    @cached_property
    def _clip(self) -> Any:
        """The checkpoint without its vision layers."""
        from transformers import CLIPModel

        with fetching(self.path, "joint_space"):
            model = CLIPModel.from_pretrained(self.path, dtype=torch.float)
        del model.vision_model.encoder  # the model's own tower runs instead
        return model.eval().to(self.device)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        with fetching(self.path, "joint_space"):
            return CLIPTokenizer.from_pretrained(self.path)

    def patches(self, hidden: Tensor) -> Tensor:
        """Hidden states of patches (B, N, C) -> their embeddings (B, N, E), float32."""
        normed = self._clip.vision_model.post_layernorm(hidden.float())
        return self._clip.visual_projection(normed)

    def _question(self, text: str) -> Tensor:
        """A text -> the embedding of each of its segments (M, E), float32.

        As in CDPruner's code: the tokens (begin and end included) are cut into segments of the
        tower's 77 positions, the last one padded with zeros.
        """
        tower = self._clip.text_model
        length = tower.config.max_position_embeddings
        tokens = torch.tensor(
            [PlainText(self._tokenizer).encode("{question}", text, verbose=False)]
        )
        ids, mask = (
            F.pad(each, (0, -each.shape[1] % length)).view(-1, length)
            for each in (tokens, torch.ones_like(tokens))
        )
        with torch.inference_mode():
            pooled = tower(ids.to(self.device), mask.to(self.device)).pooler_output
            return self._clip.text_projection(pooled)

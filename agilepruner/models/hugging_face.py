"""What every adapter of a transformers model does the same way: prompts, batches, generation."""

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from agilepruner.errors import UserError, unknown
from agilepruner.models.base import Adapter, Generation, Visual
from agilepruner.models.decoder import shorten
from agilepruner.strategies.decoder.schedule import DecoderStrategy


class HuggingFaceAdapter(Adapter):
    """A transformers vision-language model, without patches.

    Pruned visual tokens enter through ``mm_encoder_outputs`` with as many placeholders in the
    prompt. With every token kept, that is plain ``model.generate`` to the last bit (tested).

    Args:
        model: the loaded model, in eval mode.
        tokenizer: its tokenizer.
        image_processor: its image processor, PIL backend.
        prompt: template with the image placeholder once and ``{question}``.
        placeholder: the image placeholder's text in ``prompt``.
        split_at_image: tokenize the text before and after the placeholder by itself, as LLaVA's own
            code does. A SentencePiece tokenizer then begins the second part with its word mark.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        prompt: str,
        placeholder: str = "<image>",
        split_at_image: bool = False,
    ) -> None:
        if prompt.count(placeholder) != 1 or prompt.count("{question}") != 1:
            raise UserError(
                f"The model's prompt must hold {placeholder} once and {{question}} once: {prompt!r}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.prompt = prompt
        self.placeholder = placeholder
        self.split_at_image = split_at_image
        self.config = model.config
        self.image_token = model.config.image_token_id
        self.environment = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attention": model.config._attn_implementation,
            "image_processor": type(image_processor).__name__,
        }
        commit = getattr(model.config, "_commit_hash", None)
        if commit:  # of the hub; a directory has none
            self.environment["revision"] = commit

    def tokenize(self, question: str) -> list[int]:
        if self.split_at_image:
            before, after = self.prompt.split(self.placeholder)
            ids = self.tokenizer(before.replace("{question}", question))["input_ids"]
            rest = self.tokenizer(after.replace("{question}", question), add_special_tokens=False)
            ids = [*ids, self.image_token, *rest["input_ids"]]
        else:
            ids = self.tokenizer(self.prompt.replace("{question}", question))["input_ids"]
        if ids.count(self.image_token) != 1:
            raise ValueError(
                f"the prompt holds {ids.count(self.image_token)} image placeholders, expected 1: "
                f"{self.prompt.replace('{question}', question)!r}"
            )
        return ids

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        visuals: Sequence[Visual],
        max_new_tokens: int,
        pruning: tuple[DecoderStrategy, int] | None = None,
    ) -> list[Generation]:
        output, rows, pads = self.run(prompts, visuals, max_new_tokens, pruning)
        length = len(rows[0]) + pads[0]
        answers = output.sequences[:, length:].tolist()
        # The last generated token is never fed back, so it is not in the cache.
        lengths = [
            layer.keys.shape[-2] - (len(answers[0]) - 1) for layer in output.past_key_values.layers
        ]
        results = []
        for answer, row, pad, visual in zip(answers, rows, pads, visuals):
            text_tokens = len(row) - len(visual)
            prefill = tuple(size - pad for size in lengths)
            results.append(
                Generation(
                    text=self.tokenizer.decode(answer, skip_special_tokens=True).strip(),
                    new_tokens=self._count_new(answer),
                    prefill=prefill,
                    visual=tuple(size - text_tokens for size in prefill),
                )
            )
        return results

    def run(
        self,
        prompts: Sequence[list[int]],
        visuals: Sequence[Visual],
        max_new_tokens: int,
        pruning: tuple[DecoderStrategy, int] | None = None,
        **settings: Any,
    ) -> tuple[Any, list[list[int]], list[int]]:
        """``model.generate`` on left-padded rows.

        Returns:
            its output (sequences and cache), the unpadded rows of token ids, their left padding.
        """
        rows = [self._expand(ids, len(visual)) for ids, visual in zip(prompts, visuals)]
        length = max(map(len, rows))
        pads = [length - len(row) for row in rows]
        filler = self._filler()
        ids = torch.tensor([[filler] * pad + row for pad, row in zip(pads, rows)])
        mask = torch.tensor([[0] * pad + [1] * len(row) for pad, row in zip(pads, rows)])
        device = self.model.device
        ids, mask = ids.to(device), mask.to(device)
        pruned: Any = nullcontext()
        if pruning is not None:
            decoder = self.model.model.language_model
            pruned = shorten(decoder, *pruning, ids == self.image_token, mask)
        embeds: Any = [visual.embeds for visual in visuals]
        encoded = BaseModelOutputWithPooling(pooler_output=embeds)
        with pruned:
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                mm_encoder_outputs={"image": encoded},
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=filler,
                return_dict_in_generate=True,
                **self.positions(prompts, visuals, pads),
                **settings,
            )
        return output, rows, pads

    def positions(
        self, prompts: Sequence[list[int]], visuals: Sequence[Visual], pads: Sequence[int]
    ) -> dict[str, Tensor]:
        """Arguments of ``model.generate`` that place the tokens; none: one after the other.

        Contiguous positions after pruning (reset) are what the pruning papers' LLaVA code has.
        """
        return {}

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """(..., C) tower features -> (..., D) as the language model sees them."""

    def _expand(self, ids: list[int], count: int) -> list[int]:
        """Repeat the image placeholder ``count`` times."""
        at = ids.index(self.image_token)
        return ids[:at] + [self.image_token] * count + ids[at + 1 :]

    def _filler(self) -> int:
        """Token for the left padding, which the attention mask hides."""
        filler = self.model.generation_config.pad_token_id
        return self._end_tokens()[0] if filler is None else filler

    def _end_tokens(self) -> list[int]:
        end = self.model.generation_config.eos_token_id
        return end if isinstance(end, list) else [end]

    def _count_new(self, answer: list[int]) -> int:
        """Generated tokens up to and including the end token."""
        ends = [i for i, token in enumerate(answer) if token in self._end_tokens()]
        return ends[0] + 1 if ends else len(answer)


def content_seed(image: Image.Image, tile: int = 0) -> int:
    """A 63-bit integer from the pixels: the image's own seed (or its tile's), on every machine."""
    digest = hashlib.sha256(image.tobytes()).digest()
    return ((int.from_bytes(digest[:8], "big") >> 1) + tile) % 2**63


@contextmanager
def fetching(path: str, setting: str) -> Iterator[None]:
    """Say in a sentence that a checkpoint cannot be had; ``setting`` of ``model.load`` names it.

    Raises:
        UserError: with the cause and what to do.
    """
    try:
        yield
    except OSError as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"'{path}' cannot be loaded: {cause}. Give a directory with model.load.{setting}=..., "
            "or a hub name where the hub can be reached (`hf auth login` for gated ones)."
        ) from error


def load_checkpoint(
    model_class: str,
    path: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
    image_processor: dict[str, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """A checkpoint's model (in eval mode), tokenizer and image processor.

    Args:
        model_class: name of the transformers class.
        path: directory or hub name.
        revision: hub commit; None takes the newest.
        dtype: name of a torch dtype.
        device: ``auto`` takes a GPU when there is one.
        attention: attention implementation of the language model and the tower.
        image_processor: changes to the checkpoint's, or another one, see ``image_processor_for``.

    Raises:
        UserError: it cannot be had.
    """
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # a log file needs no bars
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with fetching(path, "path"):
        model = getattr(transformers, model_class).from_pretrained(
            path, revision=revision, dtype=getattr(torch, dtype), attn_implementation=attention
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path, revision=revision)
        processor = image_processor_for(path, revision, image_processor)
    return model.eval().to(device), tokenizer, processor


def image_processor_for(path: str, revision: str | None, settings: dict[str, Any] | None) -> Any:
    """The checkpoint's image processor with changed settings, or the class named by ``type``.

    Always the PIL backend, so that results do not depend on whether torchvision is installed.

    Raises:
        UserError: ``type`` is no PIL image processor of transformers.
    """
    import transformers

    settings = dict(settings or {})
    if "type" not in settings:
        return transformers.AutoImageProcessor.from_pretrained(
            path, revision=revision, backend="pil", **settings
        )
    name = settings.pop("type")
    known = [n for n in dir(transformers) if n.endswith("ImageProcessorPil")]
    if name not in known:
        raise unknown("image processor", name, known)
    return getattr(transformers, name)(**settings)

"""What every adapter of a transformers model does the same way: prompts, batches, generation."""

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from agilepruner import ranks
from agilepruner.errors import UserError, unknown
from agilepruner.models.base import Adapter, Generation, Layout, Visual, centred
from agilepruner.models.checkpoints import fetching, local
from agilepruner.models.decoder import Prefill, shorten
from agilepruner.models.text import PlainText
from agilepruner.strategies.base import VisualTokens
from agilepruner.strategies.decoder.schedule import DecoderStrategy


class NonFinite:
    """A logits processor that changes nothing and remembers the rows with NaN or +inf.

    The flags stay on the device until they are asked for, so that no step waits for them.
    """

    def __init__(self) -> None:
        self._bad: Tensor | None = None

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        bad = (scores.isnan() | (scores == torch.inf)).any(dim=-1)
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def rows(self) -> set[int]:
        """Rows of the batch that had any."""
        return set() if self._bad is None else set(self._bad.nonzero().flatten().tolist())


@dataclass(frozen=True)
class Prepared:
    """An image before the tower: what the image processor returns, and the image's own seed."""

    batch: Mapping[str, Tensor]
    seed: int

    def seeds(self, tiles: int) -> tuple[int, ...]:
        """Of each of the image's tiles."""
        return tuple((self.seed + tile) % 2**63 for tile in range(tiles))


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
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._plain_text = PlainText(tokenizer, [placeholder])
        self.environment = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attention": model.config._attn_implementation,
            "image_processor": type(image_processor).__name__,
        }

    def prepare(self, image: Image.Image) -> Prepared:
        """The image as the checkpoint's processor makes it, and its seed."""
        return Prepared(
            self.image_processor(images=[image], return_tensors="pt"), content_seed(image)
        )

    def tokenize(self, question: str) -> list[int]:
        if self.split_at_image:
            before, after = self.prompt.split(self.placeholder)
            ids = self._plain_text.encode(before, question)
            rest = self._plain_text.encode(after, question, add_special_tokens=False)
            ids = [*ids, self.image_token, *rest]
        else:
            ids = self._plain_text.encode(self.prompt, question)
        if ids.count(self.image_token) != 1:
            raise ValueError(
                f"the prompt holds {ids.count(self.image_token)} image placeholders, expected 1"
            )
        return ids

    @torch.inference_mode()
    def encode(
        self,
        images: Sequence[Image.Image],
        needs: frozenset[str],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[VisualTokens]:
        return self.encode_prepared(prepared or [self.prepare(image) for image in images], needs)

    @abstractmethod
    def encode_prepared(
        self, prepared: Sequence[Prepared], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """One pass of the tower over what ``prepare`` made of the images; see ``encode``."""

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        visuals: Sequence[Visual],
        max_new_tokens: int,
        pruning: tuple[DecoderStrategy, int] | None = None,
    ) -> list[Generation]:
        watch = NonFinite()
        prefills: list[Prefill] = []
        output, rows, pads = self.run(
            prompts, visuals, max_new_tokens, pruning, prefills, logits_processor=[watch]
        )
        stages = self._stages(prefills, rows, pads)
        found = watch.rows()
        length = len(rows[0]) + pads[0]
        answers = output.sequences[:, length:].tolist()
        # The last generated token is never fed back, so it is not in the cache.
        lengths = [
            layer.keys.shape[-2] - (len(answers[0]) - 1) for layer in output.past_key_values.layers
        ]
        results = []
        for i, (answer, row, pad, visual) in enumerate(zip(answers, rows, pads, visuals)):
            text_tokens = len(row) - len(visual)
            prefill = tuple(size - pad for size in lengths)
            results.append(
                Generation(
                    text=self.tokenizer.decode(answer, skip_special_tokens=True).strip(),
                    new_tokens=self._count_new(answer),
                    prefill=prefill,
                    visual=tuple(size - text_tokens for size in prefill),
                    problem="the logits hold NaN or infinite values" if i in found else "",
                    stages=stages[i],
                )
            )
        return results

    def run(
        self,
        prompts: Sequence[list[int]],
        visuals: Sequence[Visual],
        max_new_tokens: int,
        pruning: tuple[DecoderStrategy, int] | None = None,
        prefills: list[Prefill] | None = None,
        **settings: Any,
    ) -> tuple[Any, list[list[int]], list[int]]:
        """``model.generate`` on left-padded rows; what pruning inside did goes to ``prefills``.

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
            decoder = self.model.get_decoder()
            pruned = shorten(decoder, *pruning, ids == self.image_token, mask)
        with pruned as prefill:
            if prefills is not None and prefill is not None:
                prefills.append(prefill)
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                mm_encoder_outputs={"image": self.encoder_outputs(visuals)},
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=filler,
                return_dict_in_generate=True,
                **self.positions(prompts, visuals, pads),
                **settings,
            )
        return output, rows, pads

    def _stages(
        self, prefills: Sequence[Prefill], rows: Sequence[list[int]], pads: Sequence[int]
    ) -> list[tuple[tuple[int, ...], ...]]:
        """Per row and stage inside the language model: the visual tokens that were kept."""
        if not prefills:
            return [()] * len(rows)
        (prefill,) = prefills
        starts = [pad + row.index(self.image_token) for pad, row in zip(pads, rows)]
        kept = [[each.tolist() for each in stage] for stage in prefill.kept]
        return [
            tuple(tuple(at - start for at in stage[i] if at >= 0) for stage in kept)
            for i, start in enumerate(starts)
        ]

    def layout(self, tokens: VisualTokens, image: Image.Image) -> Layout:
        width, height = image.size
        if getattr(self.image_processor, "do_pad", False):
            side = max(width, height)
        elif getattr(self.image_processor, "do_center_crop", False):
            side = min(width, height)
        else:
            return Layout()
        return Layout(centred(side / width, side / height))

    def encoder_outputs(self, visuals: Sequence[Visual]) -> Any:
        """The images as the model takes them from its own encoder."""
        embeds: Any = [visual.embeds for visual in visuals]
        return BaseModelOutputWithPooling(pooler_output=embeds)

    def positions(
        self, prompts: Sequence[list[int]], visuals: Sequence[Visual], pads: Sequence[int]
    ) -> dict[str, Tensor]:
        """Arguments of ``model.generate`` that place the tokens; none: one after the other.

        (B, n): where positions are kept, a token has that of its place in the unpruned prompt, and
        the text goes on behind the unpruned image. Generated tokens follow the last one.
        """
        if not any(visual.pruned and self.keeps_positions(visual) for visual in visuals):
            return {}
        placed = []
        for ids, visual, pad in zip(prompts, visuals, pads):
            at, kept = ids.index(self.image_token), self.keeps_positions(visual)
            image = visual.places if kept else torch.arange(len(visual))
            text = torch.arange(len(ids) - 1)
            behind = text[at:] + self.reach(visual)
            placed.append(torch.cat([torch.zeros(pad).long(), text[:at], at + image, behind]))
        return {"position_ids": torch.stack(placed).to(self.model.device)}

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


def content_seed(image: Image.Image) -> int:
    """A 63-bit integer from the pixels: the image's own seed, on every machine."""
    digest = hashlib.sha256(image.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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
        device: ``auto`` takes a GPU when there is one, and its own under torchrun.
        attention: attention implementation of the language model and the tower.
        image_processor: changes to the checkpoint's, or another one, see ``image_processor_for``.

    Raises:
        UserError: it cannot be had.
    """
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # a log file needs no bars
    device = ranks.device(device, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if ":" in device:
        torch.cuda.set_device(device)
    place = str(local(path, revision))
    with fetching(path, "path"):
        model, report = getattr(transformers, model_class).from_pretrained(
            place,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            # A GPU's weights go there tensor by tensor, not by way of a second copy on the CPU.
            **({"device_map": {"": device}} if device.startswith("cuda") else {}),
        )
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(place)
        processor = image_processor_for(place, image_processor)
    check_weights(path, model, report)
    return model.eval().to(device), tokenizer, processor


def check_weights(path: str, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the config, or no numbers.

    Args:
        path: of the checkpoint, for the message.
        model: as loaded.
        report: ``from_pretrained``'s loading info.

    Raises:
        UserError: with one name of each kind of fault.
    """
    extra = [key for key in report.get("unexpected_keys", ()) if ".layers." in key]
    for kind, keys in (
        ("lacks weights that its config asks for", report.get("missing_keys", ())),
        ("holds weights of other shapes than its config", report.get("mismatched_keys", ())),
        ("holds layers that its config does not have", extra),
        ("has weights that cannot be read", report.get("error_msgs", ())),
    ):
        if keys:
            raise UserError(
                f"'{path}' {kind} ({len(keys)}, e.g. {sorted(map(str, keys))[0]}). transformers "
                "would go on with random or missing ones. Use the config and weights of one model."
            )
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(
                f"'{path}': the weights {name} hold NaN or infinite values. Download or convert "
                "the checkpoint again; in float16 large weights overflow, bfloat16 has the range."
            )


def image_processor_for(path: str, settings: dict[str, Any] | None) -> Any:
    """The checkpoint's image processor with changed settings, or the class named by ``type``.

    Always the PIL backend, so that results do not depend on whether torchvision is installed.

    Raises:
        UserError: ``type`` is no PIL image processor of transformers.
    """
    import transformers

    settings = dict(settings or {})
    if "type" not in settings:
        return transformers.AutoImageProcessor.from_pretrained(path, backend="pil", **settings)
    name = settings.pop("type")
    known = [n for n in dir(transformers) if n.endswith("ImageProcessorPil")]
    if name not in known:
        raise unknown("image processor", name, known)
    return getattr(transformers, name)(**settings)

"""Every model and strategy of this project as a model of lmms-eval.

    lmms-eval --model agilepruner --model_args model=llava_1_5_7b,strategy=divprune,budget=64 \
        --tasks pope --batch_size 32

lmms-eval finds it by an entry point, loads the documents and scores the answers; images are encoded
and prompts answered by the code that answers them in a run of ours.
"""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from agilepruner.errors import UserError, unknown
from agilepruner.places import CONFIGS
from agilepruner.runner.answer import Answering
from agilepruner.runner.journal import Journal
from evals.tasks import Document

log = logging.getLogger(__name__)

NAME = "agilepruner"


@dataclass
class Requests:
    """Requests of one task as the documents that ``Answering`` answers.

    Attributes:
        documents: one per request. pictures: of each, ``doc_to_visual`` and its arguments.
        max_new_tokens: the task's limit, None where it sets none. stop: its stop strings.
    """

    documents: list[Document]
    pictures: list[tuple[Any, Any, int]]
    max_new_tokens: int | None
    stop: tuple[str, ...]

    def image(self, document: Document) -> tuple[Image.Image, str]:
        """The document's one image.

        Raises:
            ValueError: it shows none or several.
        """
        return _image(*self.pictures[document.index]), ""


@dataclass
class _Group:
    contexts: list[str] = field(default_factory=list)
    pictures: list[tuple[Any, Any, int]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class Pruned(lmms):
    """A model and a strategy at a budget.

    Args:
        strategy: config name.
        budget: visual tokens kept per image; not for vanilla.
        model: config name; may be left out where ``pretrained`` is the checkpoint of one.
        pretrained: a checkpoint, instead of the one that the model's config names.
        batch_size: sequences per generation call.
        device: where the model goes; the config's own choice where lmms-eval says ``cuda``.
        settings: any other setting of ours, as on our command line, e.g.
            ``strategy.agilepruner.tau_max=0.3`` or ``positions=keep``.

    Raises:
        UserError: what is asked for is impossible; with the fix.
    """

    def __init__(
        self,
        strategy: str = "vanilla",
        budget: int | None = None,
        model: str | None = None,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        from agilepruner.overrides import composed
        from agilepruner.runner.plan import plan
        from agilepruner.runner.run import load_model

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "agilepruner answers in one process under lmms-eval. For several GPUs run "
                "agilepruner itself under torchrun (docs/clusters.md)."
            )
        if strategy != "vanilla" and budget is None:
            raise UserError(f"strategy={strategy} needs budget=..., e.g. budget=64.")
        words = [f"model={model or _model_of(pretrained)}", f"strategy=[{strategy}]"]
        words += ["vanilla=false", "protocol=lmms", "benchmark=[pope]"]
        words += [f"budget=[{budget}]"] if budget is not None else []
        words += [f"model.load.path='{pretrained}'"] if pretrained else []
        if device is not None and not device.startswith("cuda"):
            words.append(f"model.load.device={device}")
        if not str(batch_size).isdecimal():
            log.warning("agilepruner finds no batch size by itself: batch_size=%s is 1", batch_size)
        words.append(f"batch_size={batch_size if str(batch_size).isdecimal() else 1}")
        words += [f"{key}={value}" for key, value in settings.items()]
        planned = plan(composed(words))
        if len(planned.cells) != 1:
            raise UserError("Under lmms-eval a model is one strategy at one budget.")
        self.config = planned.config
        self.cell = replace(planned.cells[0], key=NAME)
        self.adapter = load_model(self.config["model"])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests.

        Raises:
            RuntimeError: documents failed; with their number and the first one's reason.
        """
        groups: dict[tuple, _Group] = defaultdict(_Group)
        for place, request in enumerate(requests):
            context, settings, doc_to_visual, doc, task, split = request.args
            group = groups[task, split, *_limits(settings)]
            group.contexts.append(context)
            group.pictures.append((doc_to_visual, self.task_dict[task][split], doc))
            group.places.append(place)
        answers = [""] * len(requests)
        for (task, _, tokens, stop), group in groups.items():
            documents = [
                Document(i, text, _key(picture))
                for i, (text, picture) in enumerate(zip(group.contexts, group.pictures))
            ]
            given = self._answer(Requests(documents, group.pictures, tokens, stop), task)
            for place, answer in zip(group.places, given):
                answers[place] = answer
        return answers

    def _answer(self, asked: Requests, task: str) -> list[str]:
        from agilepruner.runner.run import settings_of

        settings = settings_of(self.config, self.adapter)
        with TemporaryDirectory(prefix="agilepruner-") as folder:
            journal = Journal(Path(folder), self.cell.id)
            benchmark: Any = asked
            journals = {self.cell.id: journal}
            answering = Answering(
                self.adapter, benchmark, [self.cell], journals, settings, lambda cell: {}
            )
            try:
                for share in answering.shares():
                    answering.answer(share)
            finally:
                answering.close()
            entries = journal.entries
        failed = [e for e in entries.values() if e.answer is None]
        missing = len(asked.documents) - len(entries)
        if failed or missing:
            first = failed[0].error if failed else "not answered"
            raise RuntimeError(
                f"{task}: {len(failed) + missing} of {len(asked.documents)} documents failed, the "
                f"first: {first}"
            )
        return [entries[d.index].answer or "" for d in asked.documents]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not possible: every answer is to one prompt."""
        raise NotImplementedError("agilepruner answers one prompt about one image, not rounds")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not possible: the benchmarks of the paper generate."""
        raise NotImplementedError("agilepruner generates answers; it gives no log-likelihoods")


def _limits(settings: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """Most new tokens and stop strings of a request.

    Raises:
        UserError: it asks to sample.
    """
    if (settings.get("temperature") or 0) > 0 or (settings.get("num_beams") or 1) > 1:
        raise UserError(f"agilepruner answers greedily; the task asks for {dict(settings)}.")
    stop = settings.get("until") or []
    return settings.get("max_new_tokens"), (stop,) if isinstance(stop, str) else tuple(stop)


def _image(doc_to_visual: Any, documents: Any, index: int) -> Image.Image:
    visuals = doc_to_visual(documents[index])
    if len(visuals) != 1 or not isinstance(visuals[0], Image.Image):
        raise ValueError(f"document {index} shows {len(visuals)} images, expected 1")
    return visuals[0]


def _key(picture: tuple[Any, Any, int]) -> str:
    """Equal for documents that show the same image, so that it is encoded once."""
    try:
        image = _image(*picture)
        said = f"{image.mode} {image.size}".encode()
        return hashlib.sha256(said + image.tobytes()).hexdigest()
    except Exception:  # it fails with its reason when it is answered
        return f"document {picture[2]}"


def _model_of(pretrained: str | None) -> str:
    """The model config that names a checkpoint.

    Raises:
        UserError: none does.
    """
    from omegaconf import OmegaConf

    known = {}
    for path in sorted((CONFIGS / "model").glob("*.yaml")):
        load: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if "${" not in (checkpoint := str(load["load"]["path"])):  # else a folder of this project
            known[checkpoint] = path.stem
    models = ", ".join(sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml")))
    if pretrained in known:
        return known[pretrained]
    if pretrained is None:
        raise UserError(f"Say which model: model=..., one of {models}.")
    raise UserError(
        f"{unknown('checkpoint', pretrained, known)} For another checkpoint of a known family add "
        f"model=..., one of {models}."
    )

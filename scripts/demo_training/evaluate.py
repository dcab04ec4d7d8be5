"""Score an exported model on a suite, packed: all questions of an image in one forward pass.

For watching training and for the model card's table: full tokens, blind (every visual token is
the projection of zeros), and a few ways to keep 32. Prompts and scores come from lmms-eval's own
task functions; short answers are one token long, so the first token is the whole answer.
"""

import contextlib
import copy
import csv
import io
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
import torch.nn.functional as F
from lmms_eval.tasks.gqa import utils as gqa
from lmms_eval.tasks.mmbench import cn_utils, en_utils
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.scienceqa import utils as scienceqa
from lmms_eval.tasks.textvqa import utils as textvqa
from lmms_eval.tasks.vizwiz_vqa import utils as vizwiz
from lmms_eval.tasks.vqav2 import utils as vqav2
from torch import Tensor
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from evals.suite.questions import MAX_COUNT
from evals.suite.scenes import CATEGORIES, COLOURS, WORDS, decode
from scripts.demo_training import prompts
from scripts.demo_training.language import HEADS
from scripts.demo_training.packing import Packer, decode_layers
from scripts.demo_training.prompts import Exchange
from scripts.demo_training.vision import features

logger = logging.getLogger(__name__)

NINE = (
    "vqav2",
    "gqa",
    "vizwiz",
    "scienceqa_img",
    "textvqa",
    "pope",
    "mme",
    "mmbench_en",
    "mmbench_cn",
)
TASKS = {  # lmms-eval's doc_to_text and process_results
    "vqav2": (vqav2.vqav2_doc_to_text, vqav2.vqav2_process_results_val),
    "gqa": (gqa.gqa_doc_to_text, None),
    "vizwiz": (vizwiz.vizwiz_vqa_doc_to_text, vizwiz.vizwiz_vqa_process_results),
    "scienceqa_img": (scienceqa.sqa_doc_to_text, scienceqa.sqa_process_results),
    "textvqa": (textvqa.textvqa_doc_to_text, textvqa.textvqa_process_results),
    "pope": (pope.pope_doc_to_text, pope.pope_process_results),
    "mme": (mme.mme_doc_to_text, mme.mme_process_results),
    "mmbench_en": (en_utils.mmbench_doc_to_text, en_utils.mmbench_process_results),
    "mmbench_cn": (cn_utils.mmbench_doc_to_text, cn_utils.mmbench_process_results),
}
POST_PROMPTS = {
    "vizwiz": prompts.INSUFFICIENT + prompts.SHORT,
    "scienceqa_img": prompts.LETTER,
    "mmbench_en": prompts.LETTER,
    "mmbench_cn": prompts.LETTER_CN,
}


@dataclass(frozen=True)
class Document:
    benchmark: str
    kind: str
    row: dict
    exchange: Exchange


def read(folder: Path) -> tuple[list[bytes], list[list[Document]], list[int]]:
    """Distinct images, the documents of each, and which images CHAIR uses."""
    images: dict[tuple[str, str], int] = {}
    data: list[bytes] = []
    documents: list[list[Document]] = []
    captioned: list[int] = []
    tables = {}
    with open(folder / "scenes.csv", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            benchmark = line["benchmark"]
            if benchmark not in tables:
                tables[benchmark] = parquet.read_table(folder / f"{benchmark}.parquet").to_pylist()
            row = tables[benchmark][int(line["doc_id"])]
            key = (benchmark, line["image_id"])
            if key not in images:
                images[key] = len(data)
                data.append(row["image"]["bytes"])
                documents.append([])
            if benchmark == "chair":
                captioned.append(images[key])
                exchange = Exchange("chair", prompts.CAPTION, "x")
            else:
                exchange = Exchange(benchmark, prompt_of(benchmark, row), "x")
            documents[images[key]].append(Document(benchmark, line["kind"], row, exchange))
    return data, documents, captioned


def prompt_of(benchmark: str, row: dict) -> str:
    """The prompt that lmms-eval's task renders for a document."""
    kwargs = {"pre_prompt": "", "post_prompt": POST_PROMPTS.get(benchmark, prompts.SHORT)}
    return TASKS[benchmark][0](row, kwargs | {"format": "default"})


def select(name: str, budget: int, visual: Tensor, attention: Tensor) -> Tensor:
    """Kept patches (B, budget) of a few simple strategies, in raster order."""
    batch, total, _ = visual.shape
    if name == "random":
        kept = torch.rand(batch, total).argsort(1)[:, :budget]
    elif name == "cls":
        kept = attention.topk(budget, 1).indices
    else:  # farthest points, from nothing or from the half that CLS attends to most
        unit = F.normalize(visual.float(), dim=-1)
        distance = 1 - unit @ unit.transpose(1, 2)
        if name == "diverse":
            alone = distance + 10 * torch.eye(total)
            kept = alone.min(2).values.argmax(1, keepdim=True)
        else:
            kept = attention.topk(budget // 2, 1).indices
        nearest = distance.gather(1, kept[..., None].expand(-1, -1, total)).min(1).values
        while kept.shape[1] < budget:
            nearest = nearest.scatter(1, kept, -1.0)
            farthest = nearest.argmax(1, keepdim=True)
            kept = torch.cat([kept, farthest], 1)
            gained = distance.gather(1, farthest[..., None].expand(-1, -1, total))[:, 0]
            nearest = torch.minimum(nearest, gained)
    return kept.sort(1).values


def score(benchmark: str, rows: list[dict], answers: list[str]) -> float:
    """The benchmark's main number in percent (MME as a share of its maximum, POPE as F1)."""
    results = []
    for row, answer in zip(rows, answers, strict=True):
        if benchmark == "gqa":
            results.append(float(row["answer"] == answer.lower()))
            continue
        results.append(TASKS[benchmark][1](copy.deepcopy(row), [answer]))  # lmms-eval edits it
    with contextlib.redirect_stdout(io.StringIO()):
        match benchmark:
            case "gqa":
                value = sum(results) / len(results)
            case "pope":
                value = pope.pope_aggregate_f1_score([r["pope_f1_score"] for r in results])
            case "mme":
                value = mme.mme_aggregate_results([r["mme_perception_score"] for r in results])
                value /= 200 * len({row["category"] for row in rows})
            case "mmbench_en" | "mmbench_cn":
                answered = [r["gpt_eval_score"] for r in results]
                value, _, _ = en_utils.mmbench_evaluator.eval_result(answered, "static")
            case _:
                value = sum(r["exact_match"] for r in results) / len(results)
    return 100 * value


def right(document: Document, answer: str) -> bool:
    """Whether a single answer is right, for averages by image complexity."""
    row = document.row
    truth = row.get("multiple_choice_answer", row.get("answer", row.get("answers")))
    if document.benchmark == "scienceqa_img":
        truth = "ABCDE"[int(truth)]
    if document.benchmark in ("vizwiz", "textvqa"):
        truth = truth[0]
    return answer.lower() == str(truth).lower()


def chance(benchmark: str, rows: list[dict]) -> float:
    """Expected score in percent of a uniform guess among the answers a question allows."""
    if benchmark == "pope":
        return 50.0  # precision and recall of a coin
    if benchmark == "mme":
        return 37.5  # (50 + 25) / 200: half right, a quarter of the pairs
    if benchmark in ("mmbench_en", "mmbench_cn"):
        sizes = [4 - [row[x] for x in "ABCD"].count("nan") for row in rows if row["index"] < 1e6]
        return 100 * sum(size**-size for size in sizes) / len(sizes)
    if benchmark == "scienceqa_img":
        return 100 * sum(1 / len(row["choices"]) for row in rows) / len(rows)
    colours, words = {colour.name for colour in COLOURS}, {word.lower() for word in WORDS}
    total = 0.0
    for row in rows:
        answer = row.get("answer") or row["answers"][0]
        answer = answer if isinstance(answer, str) else answer["answer"]
        if answer in ("yes", "no", "left", "right", "above", "below"):
            total += 1 / 2
        elif answer.isdigit():
            total += 1 / MAX_COUNT
        elif answer in colours:
            total += 1 / len(COLOURS)
        else:
            total += 1 / (len(WORDS) if answer in words else len(CATEGORIES))
    return 100 * total / len(rows)


class Evaluation:
    """A model and a suite, encoded once."""

    @torch.no_grad()
    def __init__(self, model_folder: Path, suite_folder: Path, share: float = 1.0):
        torch.manual_seed(0)
        self.model = LlavaForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float)
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder)
        self.packer = Packer(self.tokenizer)
        data, documents, captioned = read(suite_folder)
        keep = [i for i in range(len(data)) if (i * share) % 1 < share]  # evenly spread images
        place = {index: row for row, index in enumerate(keep)}
        self.documents = [documents[i] for i in keep]
        self.captioned = [place[i] for i in captioned if i in place]
        tower, projector = self.model.model.vision_tower, self.model.model.multi_modal_projector
        visual, attention = [], []
        for first in range(0, len(keep), 16):
            pixels = np.stack([decode(data[i]) for i in keep[first : first + 16]])
            patches, weights = features(tower, pixels)
            visual.append(projector(patches))
            attention.append(weights)
        self.visual, self.attention = torch.cat(visual), torch.cat(attention)
        self.blind = projector(torch.zeros(1, 1, patches.shape[-1]))

    def chance(self) -> dict[str, float]:
        rows = defaultdict(list)
        for asked in self.documents:
            for document in asked:
                rows[document.benchmark].append(document.row)
        result = {name: chance(name, rows[name]) for name in NINE}
        return result | {"mean": sum(result.values()) / len(NINE)}

    def tokens(self, setting: str) -> Tensor:
        """Visual tokens of all images under "full", "blind" or "<strategy>@<budget>"."""
        if setting == "full":
            return self.visual
        if setting == "blind":
            return self.blind.expand_as(self.visual)
        name, budget = setting.split("@")
        chunks = zip(self.visual.split(32), self.attention.split(32), strict=True)
        kept = torch.cat([select(name, int(budget), v, a) for v, a in chunks])
        return self.visual.gather(1, kept[..., None].expand(-1, -1, self.visual.shape[-1]))

    @torch.no_grad()
    def run(self, setting: str, captions: bool = True) -> dict[str, float]:
        visual = self.tokens(setting)
        language = self.model.model.language_model
        answers: dict[str, list[str]] = defaultdict(list)
        rows: dict[str, list[dict]] = defaultdict(list)
        kinds: dict[str, list[bool]] = defaultdict(list)
        order = [i for i in range(len(self.documents)) if i not in set(self.captioned)]
        for first in range(0, len(order), 8):
            chosen = order[first : first + 8]
            pack = self.packer.pack(
                [[d.exchange for d in self.documents[i]] for i in chosen], torch.float
            )
            states, _ = decode_layers(language, HEADS, self.packer.prefix, visual[chosen], pack)
            for image, at, number in pack.first:
                document = self.documents[chosen[image]][number]
                best = (states[image, at] @ language.embed_tokens.weight.T).argmax()
                answer = self.tokenizer.decode(best).strip()
                answers[document.benchmark].append(answer)
                rows[document.benchmark].append(document.row)
                kinds[document.kind].append(right(document, answer))
        result = {name: score(name, rows[name], answers[name]) for name in NINE}
        result["mean"] = sum(result.values()) / len(NINE)
        for kind, hits in sorted(kinds.items()):
            result[kind] = 100 * sum(hits) / len(hits)
        return result | (self.captions(visual) if captions else {})

    def captions(self, visual: Tensor) -> dict[str, float]:
        """CHAIR with unique mentions of the 40 category names; lmms-eval's counts come later."""
        names = {}
        for category in CATEGORIES:
            names |= {category.name: category.name, category.many: category.name}
        embed = self.model.model.language_model.embed_tokens
        question, _ = self.packer.block(Exchange("chair", prompts.CAPTION, "x"))
        before, after = embed(self.packer.prefix), embed(torch.tensor(question))
        tally: Counter = Counter()
        for first in range(0, len(self.captioned), 25):
            chosen = self.captioned[first : first + 25]
            size = len(chosen)
            parts = [before.expand(size, -1, -1), visual[chosen], after.expand(size, -1, -1)]
            inputs = torch.cat(parts, 1)
            mask = torch.ones(inputs.shape[:2], dtype=torch.long)
            out = self.model.generate(
                inputs_embeds=inputs, attention_mask=mask, max_new_tokens=64, do_sample=False
            )
            texts = self.tokenizer.batch_decode(out, skip_special_tokens=True)
            for index, text in zip(chosen, texts, strict=True):
                words = text.replace(",", " ").replace(".", " ").split()
                said = [names[word] for word in words if word in names]
                truth = set(self.documents[index][0].row["gt_object"])
                wrong = [name for name in said if name not in truth]
                tally.update(
                    mentioned=len(said),
                    wrong=len(wrong),
                    captions_wrong=bool(wrong),
                    found=len(truth & set(said)),
                    there=len(truth),
                    words=len(words),
                )
        logger.info("last caption: %s", text)
        return {
            "chair_i": 100 * tally["wrong"] / max(1, tally["mentioned"]),
            "chair_s": 100 * tally["captions_wrong"] / len(self.captioned),
            "recall": 100 * tally["found"] / tally["there"],
            "words": tally["words"] / len(self.captioned),
        }


def table(model: Path, suite: Path, settings: list[str], share: float, captions: bool) -> str:
    """Markdown: one row per setting."""
    evaluation = Evaluation(model, suite, share)
    results: dict[str, dict[str, float]] = {}
    for setting in settings:
        if setting == "chance":
            results[setting] = evaluation.chance()
        else:
            results[setting] = evaluation.run(setting, captions)
        logger.info("%s: %s", setting, {k: round(v, 1) for k, v in results[setting].items()})
    columns = max((list(result) for result in results.values()), key=len)
    lines = ["| tokens | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for setting, result in results.items():
        cells = [f"{result[name]:.1f}" if name in result else "" for name in columns]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

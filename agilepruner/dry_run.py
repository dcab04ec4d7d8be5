"""What a run would do, without weights, documents or a GPU: every cell with its costs.

    agilepruner table=llava_1_5_7b dry_run=true

The config is composed and checked as in a real run, the model is built on the meta device, and each
cell is listed with its FLOPs (closed form, see ``flops``), an estimate of its GPU memory, its
documents, and what would be downloaded.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.flops import Architecture, document_flops, on_meta, selection_flops
from agilepruner.hub import Part, cache, free_bytes, readable
from agilepruner.models.checkpoints import on_hub
from agilepruner.models.shapes import config_of
from agilepruner.runner.cells import Cell
from agilepruner.runner.plan import (
    Run,
    checkpoints,
    documents_in,
    identify,
    lacking_words,
    on_hub_as,
    parts_of,
)
from agilepruner.runner.run import row_of
from agilepruner.throughput import Speed, Work, measured

log = logging.getLogger(__name__)

TEXT_TOKENS = 60  # a vicuna prompt with a short question; OCR tokens and options add to it
ANSWER_TOKENS = 3  # a word and the end token; a benchmark's new_tokens where it expects more
ENCODED_TOGETHER = 8  # images per pass of the vision tower, as the runner has it


@dataclass(frozen=True)
class Size:
    """A model's size in bytes, from its shapes.

    Attributes:
        arch: its numbers. parameters: how many. width: bytes of one.
    """

    arch: Architecture
    parameters: int
    width: int

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.parameters * self.width

    @property
    def cache(self) -> int:
        """Bytes of keys and values per token."""
        return 2 * self.arch.layers * self.arch.key_width * self.width

    def memory(self, tokens: int, batch: int, window: int, tiles: int, prompts: int) -> float:
        """Estimate of the peak in bytes: weights, cache, and the larger of two passes.

        The passes are the prefill of ``batch`` prompts of ``tokens`` (the MLP's two hidden layers
        and four residual-sized tensors) and the tower on ``ENCODED_TOGETHER`` images; beside both
        stand the visual tokens of the ``window`` of images being answered, and each cell's own copy
        of those that it shows (``prompts`` tokens per image, over all cells).
        """
        arch = self.arch
        prefill = batch * tokens * (2 * arch.mlp + 4 * arch.width)
        patches = ENCODED_TOGETHER * tiles * (arch.patches + arch.cls)
        tower = patches * (2 * arch.vision_mlp + 6 * arch.vision_width)
        waiting = window * tiles * arch.tokens * (arch.width + arch.vision_width * arch.merge**2)
        waiting += window * prompts * arch.width
        moving = (max(prefill, tower) + waiting) * self.width
        return self.weights + batch * tokens * self.cache + moving


def describe(run: Run) -> str:
    """The report of a dry run.

    Raises:
        UserError: the model's config is neither known nor loadable.
    """
    import torch

    model = run.config["model"]
    path = model["load"]["path"]
    try:
        config = config_of(model)
    except (OSError, ValueError) as error:
        raise UserError(
            f"No config for '{path}': {str(error).splitlines()[0]} Give a directory with a "
            "config.json, or log in to the hub (`hf auth login`)."
        ) from None
    try:
        run = identify(run, fetch=False)  # to say which cells are done
    except UserError as error:
        log.debug("nothing is here yet: %s", error)
    dtype = getattr(torch, model["load"]["dtype"])
    built = on_meta(config, dtype)
    arch = Architecture.of(built)
    if not hasattr(config.vision_config, "image_size"):  # a square of the nominal number of tokens
        side = isqrt(model["visual_tokens"]) * arch.merge
        arch = arch.at_grid(side, side)
    size = Size(
        arch,
        sum(weight.numel() for weight in built.parameters()),
        dtype.itemsize,
    )
    found = costs(run, size)
    parts = [
        _head(run, size),
        _cells(found, model["positions"]),
        _hours(run, found),
        _downloads(run, size),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(run: Run, size: Size) -> Iterator[str]:
    config = run.config
    model = config["model"]
    yield f"Dry run of '{config['name']}': {len(run.cells)} cells, protocol {config['protocol']}."
    yield (
        f"{model['label']}: {size.parameters / 1e9:.3f} billion parameters, "
        f"{size.weights / 2**30:.1f} GiB as {model['load']['dtype']}; "
        f"{model['visual_tokens']:,} visual tokens; {size.cache / 1024:.0f} KiB of cache per token."
    )
    longer = ", ".join(
        f"{b['new_tokens']} on {b['label']}"
        for b in config["benchmark"].values()
        if "new_tokens" in b
    )
    yield (
        f"Per document, in TFLOPs (2 x MACs), for {TEXT_TOKENS} text tokens and {ANSWER_TOKENS} "
        f"new ones{f' ({longer})' if longer else ''}. Memory: an estimate for batch_size="
        f"{config['batch_size']} and images_per_window={config['images_per_window']}."
    )


@dataclass(frozen=True)
class Cost:
    """What a cell will take.

    Attributes:
        cell: which. layers: visual tokens of each decoder layer. parts: FLOPs of a document.
        documents: how many.
        memory: bytes at the peak, an estimate. done: it is answered and scored already.
    """

    cell: Cell
    layers: list[int]
    parts: Mapping[str, float]
    documents: int
    memory: float
    done: bool


def costs(run: Run, size: Size) -> list[Cost]:
    """Of every cell, benchmark by benchmark in the order of the config."""
    model, order = run.config["model"], list(run.config["benchmark"])
    seen = {id(cell): visual_per_layer(cell, size.arch.layers, model) for cell in run.cells}
    shown: dict[str, int] = defaultdict(int)  # benchmark -> tokens per image, over its cells
    for cell in run.cells:
        shown[cell.benchmark] += seen[id(cell)][0]
    tiles, found = model.get("tiles", 1), []
    counts = {name: documents_in(run, name) for name in order}
    for cell in sorted(run.cells, key=lambda cell: order.index(cell.benchmark)):
        layers = seen[id(cell)]
        new = run.config["benchmark"][cell.benchmark].get("new_tokens", ANSWER_TOKENS)
        chosen = selection_flops(cell.strategy, size.arch, cell.budget // tiles, tiles)
        rows, columns = (side // size.arch.merge for side in size.arch.grid)
        grid = cell.strategy.grid((rows, columns), cell.budget // tiles)
        arch = size.arch.at_grid(*(side * size.arch.merge for side in grid))
        parts = document_flops(arch, layers, TEXT_TOKENS, new, tiles, chosen)
        memory = size.memory(
            *(int(max(layers)) + TEXT_TOKENS + new, run.config["batch_size"]),
            *(run.config["images_per_window"], tiles, shown[cell.benchmark]),
        )
        count = counts[cell.benchmark]
        found.append(Cost(cell, layers, parts, count, memory, _done(run, cell)))
    return found


def _cells(found: list[Cost], own_positions: str) -> Iterator[str]:
    titles = "benchmark,strategy,budget,layer mean,documents,vision,projector,selection,prefill,"
    titles += "decode,total,of vanilla,memory GiB,done"
    rows = [tuple(titles.split(","))]
    whole: dict[str, float] = {}
    names = ("vision", "projector", "selection", "prefill", "decode", "total")
    for cost in found:
        cell, parts = cost.cell, cost.parts
        whole.setdefault(cell.benchmark, parts["total"])
        rows.append(
            (
                cell.benchmark,
                cell.strategy_name
                + (f" ({cell.positions})" if cell.positions != own_positions else ""),
                f"{cell.budget:,}",
                f"{sum(cost.layers) / len(cost.layers):,.0f}",
                f"{cost.documents:,}",
                *(f"{parts[name] / 1e12:.3f}" for name in names),
                f"{100 * parts['total'] / whole[cell.benchmark]:.1f} %",
                f"{cost.memory / 2**30:.1f}",
                "yes" if cost.done else "",
            )
        )
    yield from _columns(rows, 2)


def _hours(run: Run, found: list[Cost]) -> Iterator[str]:
    """Time of what is not done, by benchmark; how fast the model is comes from earlier rows."""
    model, given = run.config["model"], run.config["throughput"]
    if given is not None:
        speed = Speed(given * 1e12, f"{given:g} TFLOP/s, as given by throughput=")
    else:
        known = measured(run.directory.parent, model["name"], model["load"]["dtype"])
        if known is None:
            yield (
                "Hours: not known. No finished cell of this model lies in "
                f"{run.directory.parent} from this machine; a run with limit=3 leaves some, or "
                "say what the device reaches, e.g. throughput=100 (TFLOP/s)."
            )
        else:
            speed = known.times(run.config["workers"])
    left: dict[str, list[Cost]] = defaultdict(list)
    for cost in found:
        left[cost.cell.benchmark] += [] if cost.done else [cost]
    rows: list[tuple[str, ...]] = [("benchmark", "answers", "PFLOPs", "hours")]
    total, answers = Work(), 0
    for name, those in left.items():
        count = those[0].documents if those else 0
        work = Work.of((cost.parts, count) for cost in those)
        total, answers = total + work, answers + count * len(those)
        time = _time(speed.seconds(work)) if given is not None or known else "?"
        rows.append((name, f"{count * len(those):,}", f"{work.flops / 1e15:,.3g}", time))
    time = _time(speed.seconds(total)) if given is not None or known else "?"
    rows.append(("all", f"{answers:,}", f"{total.flops / 1e15:,.3g}", time))
    if time != "?":
        yield f"Time of one process at {speed.source}; images are encoded once:"
    yield from (f"  {line}" for line in _columns(rows, 1))


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}" if seconds >= 360 else f"{seconds / 3600:,.3f}"


def _columns(rows: list[tuple[str, ...]], left: int) -> Iterator[str]:
    """Lines of aligned columns, the first ``left`` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row[:left], widths)]
        cells += [text.rjust(width) for text, width in zip(row[left:], widths[left:])]
        yield "  ".join(cells).rstrip()


def _done(run: Run, cell: Cell) -> bool:
    return bool(cell.identity) and row_of(run, cell) is not None


def visual_per_layer(cell: Cell, layers: int, model: Mapping[str, Any]) -> list[int]:
    """Visual tokens that each decoder layer will see, for a nominal image."""
    strategy, full, tiles = cell.strategy, model["visual_tokens"], model.get("tiles", 1)
    if strategy.inside:
        return strategy.promise(full, cell.budget, layers) or [full] * layers
    each = strategy.promise(full // tiles, cell.budget // tiles, layers)
    return [full] * layers if each is None else [tiles * count for count in each]


def _size(hub: Mapping[str, Any]) -> int:
    """Documents of a data set of the hub."""
    return int(hub.get("documents", hub["size"]))


def _downloads(run: Run, size: Size) -> Iterator[str]:
    wanted, unknown, total, here = [], [], 0, 0
    for name, found in needs(run):
        if isinstance(found, UserError):
            unknown.append(f"{name}: {found}")
            continue
        missing = sum(sum(part.missing.values()) for part in found)
        here += sum(part.bytes for part in found) - missing
        total += missing
        if missing:
            wanted.append(f"{name}: {readable(missing)} at commit {found[0].commit[:8]}")
    if wanted:
        yield f"Would be downloaded: {readable(total)}; {readable(free_bytes())} free in {cache()}."
    elif not unknown:
        yield "Nothing would be downloaded."
    yield from (f"  {line}" for line in wanted)
    if here:
        yield f"Here already: {readable(here)}."
    yield from lacking_words(run.config)
    if unknown:
        weights = f"16-bit weights are about {size.parameters * 2 / 2**30:.0f} GiB"
        yield f"Not known without the hub ({weights}):"
    yield from (f"  {line}" for line in unknown)


def needs(run: Run) -> Iterator[tuple[str, list[Part] | UserError]]:
    """What a run reads of the hub: a name for it, and its files or why they are not known."""
    for _, path, revision in checkpoints(run):
        if not Path(path).is_dir():
            yield f"model {path}", _asked(lambda: [on_hub(path, revision)])  # noqa: B023
    if run.config["suite"]["kind"] == "hub":
        for name in run.config["benchmark"]:
            where = on_hub_as(run.config, name)
            label = f"data set {where['path']} ({name}, {_size(where):,} documents)"
            yield label, _asked(lambda: parts_of(run.config, name))  # noqa: B023


def _asked(ask: Callable[[], list[Part]]) -> list[Part] | UserError:
    try:
        return ask()
    except UserError as error:
        return error

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
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.flops import Architecture, document_flops, on_meta, selection_flops
from agilepruner.hub import Part, cache, free_bytes, readable
from agilepruner.models.checkpoints import on_hub
from agilepruner.models.shapes import config_of
from agilepruner.runner.cells import Cell
from agilepruner.runner.plan import Run, checkpoints, identify, on_hub_as, parts_of
from agilepruner.runner.run import row_of

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
    size = Size(
        Architecture.of(built),
        sum(weight.numel() for weight in built.parameters()),
        dtype.itemsize,
    )
    return "\n".join([*_head(run, size), "", *_cells(run, size), "", *_downloads(run, size)])


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


def _cells(run: Run, size: Size) -> Iterator[str]:
    titles = "benchmark,strategy,budget,layer mean,documents,vision,projector,selection,prefill,"
    titles += "decode,total,of vanilla,memory GiB,done"
    rows = [tuple(titles.split(","))]
    whole: dict[str, float] = {}
    everything = 0.0
    order = list(run.config["benchmark"])
    shown: dict[str, int] = defaultdict(int)  # benchmark -> tokens per image, over its cells
    for cell in run.cells:
        shown[cell.benchmark] += visual_per_layer(cell, size.arch.layers, run.config["model"])[0]
    for cell in sorted(run.cells, key=lambda cell: order.index(cell.benchmark)):
        settings = run.config["benchmark"][cell.benchmark]
        layers = visual_per_layer(cell, size.arch.layers, run.config["model"])
        new = settings.get("new_tokens", ANSWER_TOKENS)
        tiles = run.config["model"].get("tiles", 1)
        share = cell.budget // tiles
        chosen = selection_flops(cell.strategy, size.arch, share, tiles)
        parts = document_flops(size.arch, layers, TEXT_TOKENS, new, tiles, chosen)
        whole.setdefault(cell.benchmark, parts["total"])
        count = documents(run.config, cell.benchmark)
        everything += parts["total"] * (count or 0)
        longest = int(max(layers)) + TEXT_TOKENS + new
        memory = size.memory(
            *(longest, run.config["batch_size"], run.config["images_per_window"], tiles),
            shown[cell.benchmark],
        )
        names = ("vision", "projector", "selection", "prefill", "decode", "total")
        rows.append(
            (
                cell.benchmark,
                cell.strategy_name,
                f"{cell.budget:,}",
                f"{sum(layers) / len(layers):,.0f}",
                "?" if count is None else f"{count:,}",
                *(f"{parts[name] / 1e12:.3f}" for name in names),
                f"{100 * parts['total'] / whole[cell.benchmark]:.1f} %",
                f"{memory / 2**30:.1f}",
                "yes" if _done(run, cell) else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        left = [text.ljust(width) for text, width in zip(row[:2], widths)]
        right = [text.rjust(width) for text, width in zip(row[2:], widths[2:])]
        yield "  ".join(left + right).rstrip()
    yield f"All documents of all cells: {everything / 1e15:,.0f} PFLOPs."


def _done(run: Run, cell: Cell) -> bool:
    return bool(cell.identity) and row_of(run, cell) is not None


def visual_per_layer(cell: Cell, layers: int, model: Mapping[str, Any]) -> list[int]:
    """Visual tokens that each decoder layer will see, for a nominal image."""
    strategy, full, tiles = cell.strategy, model["visual_tokens"], model.get("tiles", 1)
    if strategy.inside:
        return strategy.promise(full, cell.budget, layers) or [full] * layers
    each = strategy.promise(full // tiles, cell.budget // tiles, layers)
    return [full] * layers if each is None else [tiles * count for count in each]


def documents(config: Mapping[str, Any], benchmark: str) -> int | None:
    """Documents of a benchmark; None where a limit counts other units than documents."""
    if config["suite"]["kind"] == "hub":
        count = int(on_hub_as(config, benchmark)["size"])
    else:
        import pyarrow.parquet

        file = Path(config["suite"]["directory"]) / f"{benchmark}.parquet"
        count = pyarrow.parquet.read_metadata(file).num_rows
    if config["limit"] is None:
        return count
    unit = config["benchmark"][benchmark].get("unit")
    return min(count, config["limit"]) if unit is None else None


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
            label = f"data set {where['path']} ({name}, {where['size']:,} documents)"
            yield label, _asked(lambda: parts_of(run.config, name))  # noqa: B023


def _asked(ask: Callable[[], list[Part]]) -> list[Part] | UserError:
    try:
        return ask()
    except UserError as error:
        return error

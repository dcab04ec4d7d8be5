"""FLOPs of one document, in closed form from the real schedule.

Convention: FLOPs = 2 x multiply-accumulates (MACs) of matrix products, convolutions and attention,
which is what ``torch.utils.flop_counter`` counts (norms, activations, softmax and RoPE are not
counted, causal attention is not halved). ``document_flops`` equals that counter to the last digit;
tests compare both on tiny models and on the real configs on the meta device.

The papers print other conventions; they are at the end, each in its own function:

======================  ==============  ===================  ======  =======
function                tokens          MLP                  factor  vision
======================  ==============  ===================  ======  =======
``document_flops``      text + visual   3ndm (gated), exact  2       yes
``sparsevlm_macs``      any schedule    3ndm                 1       no
``divprune_macs``       text + visual   2ndm                 1       no
``fastervlm_flops``     visual only     3ndm                 2       yes
======================  ==============  ===================  ======  =======

Letters: n tokens, d width, m MLP width, L layers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from agilepruner.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """The numbers of a vision-language model that decide its FLOPs.

    Attributes:
        vision_layers: layers of the tower that run. transformers runs every layer, also those
            behind the one whose features are used (LLaVA: 24, features of layer 23).
        vision_width, vision_mlp: hidden and intermediate size of the tower.
        vision_gated: the tower's MLP has three matrices (gate, up, down) instead of two.
        patch_values: values per patch that enter the patch embedding (channels x area x frames).
        grid: patches of one tile, (rows, columns). CLIP: fixed; Qwen: of the image at hand.
        cls: extra tokens in the tower (1 for CLIP).
        window: side in patches of an attention window of the other layers; 0: there are none.
        full_layers: layers in which every patch attends to all patches.
        merge: side in patches of the square that becomes one visual token.
        projector: (inputs, outputs) of each matrix between tower and language model.
        projects_cls: a CLS row, where there is one, goes through the projector too (feature
            strategy "full").
        layers, width, mlp: of the language model.
        query_width, key_width: heads x head size, and key/value heads x head size.
        vocabulary: outputs of the language-model head.
    """

    vision_layers: int
    vision_width: int
    vision_mlp: int
    vision_gated: bool
    patch_values: int
    grid: tuple[int, int]
    cls: int
    window: int
    full_layers: int
    merge: int
    projector: tuple[tuple[int, int], ...]
    projects_cls: bool
    layers: int
    width: int
    mlp: int
    query_width: int
    key_width: int
    vocabulary: int

    @property
    def patches(self) -> int:
        """Patches of one tile."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Visual tokens of one tile before any pruning."""
        return self.patches // self.merge**2

    def at_grid(self, rows: int, columns: int) -> "Architecture":
        """Return the same model for an image of another patch grid (Qwen: grid_thw[1:])."""
        if rows < 1 or columns < 1:
            raise ValueError(f"a grid of {rows} x {columns} patches has no FLOPs")
        return replace(self, grid=(rows, columns))

    @classmethod
    def from_config(cls, config: Any, grid: tuple[int, int] | None = None) -> "Architecture":
        """Read the numbers of the model that a transformers config describes, whatever family.

        Args:
            config: a composed config with ``vision_config`` and ``text_config``.
            grid: as for ``of``.
        """
        return cls.of(on_meta(config), grid)

    @classmethod
    def of(cls, model: Any, grid: tuple[int, int] | None = None) -> "Architecture":
        """Read the numbers from a transformers model: its config's, and its weights' shapes.

        What configs leave to the code is in the shapes: whether the tower has a CLS token, how many
        matrices its MLP has, and which matrices stand between tower and language model.

        Args:
            model: for conditional generation, with an image tower and a decoder.
            grid: patch grid (rows, columns) for towers without a fixed image size. The default
                gives 35 x 35 = 1,225 visual tokens, as the paper has Qwen2.5-VL.

        Raises:
            UserError: the layers of the tower or the decoder are not attention and an MLP.
        """
        return cls(**_tower(model, grid), **_projector(model), **_decoder(model))


def _tower(model: Any, grid: tuple[int, int] | None) -> dict[str, Any]:
    from torch import nn

    tower, vision = model.get_encoder("image"), model.config.vision_config
    blocks, width, mlp = _blocks(tower), vision.hidden_size, vision.intermediate_size
    matrices = (_weights(blocks) - 4 * width**2) / (width * mlp)
    if matrices not in (2, 3):
        expected = f"4 x {width} x {width} and 2 or 3 x {width} x {mlp}"
        raise _unknown("vision tower", vision, blocks, expected)
    merge = _projector(model)["merge"]
    patch = next(m for m in tower.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    names = {name.rpartition(".")[2] for name, _ in tower.named_parameters()}
    window = getattr(vision, "window_size", 0) // _pair(vision.patch_size)[0]
    return {
        "vision_layers": len(blocks),
        "vision_width": width,
        "vision_mlp": mlp,
        "vision_gated": matrices == 3,
        "patch_values": patch.weight[0].numel(),
        "grid": grid or _grid_of(vision) or (35 * merge, 35 * merge),
        "cls": len(names & {"class_embedding", "cls_token"}),
        "window": window,
        "full_layers": len(vision.fullatt_block_indexes) if window else len(blocks),
    }


def _projector(model: Any) -> dict[str, Any]:
    """Every matrix that is neither in the tower's layers nor in the language model."""
    from torch import nn

    parts = (
        _blocks(model.get_encoder("image")),
        model.get_decoder(),
        model.get_output_embeddings(),
    )
    elsewhere = {id(module) for part in parts for module in part.modules()}
    rest = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in elsewhere]
    picked = getattr(model.config, "vision_feature_layer", -1)
    layers = len(picked) if isinstance(picked, list | tuple) else 1
    patches = rest[0].in_features // (layers * model.config.vision_config.hidden_size)
    select = getattr(model.config, "vision_feature_select_strategy", None)
    return {
        "merge": math.isqrt(patches),
        "projector": tuple((m.in_features, m.out_features) for m in rest),
        "projects_cls": select == "full",
    }


def _decoder(model: Any) -> dict[str, Any]:
    text, layers = model.config.get_text_config(), model.get_decoder().layers
    width, mlp = text.hidden_size, text.intermediate_size
    head = getattr(text, "head_dim", None) or width // text.num_attention_heads
    queries = text.num_attention_heads * head
    keys = (text.num_key_value_heads or text.num_attention_heads) * head
    if _weights(layers) != 2 * width * (queries + keys) + 3 * width * mlp:
        expected = f"2 x {width} x ({queries} + {keys}) and 3 x {width} x {mlp}"
        raise _unknown("decoder", text, layers, expected)
    return {
        "layers": len(layers),
        "width": width,
        "mlp": mlp,
        "query_width": queries,
        "key_width": keys,
        "vocabulary": text.vocab_size,
    }


def on_meta(config: Any, dtype: Any = None) -> Any:
    """The model of a config on the meta device: every shape, no memory."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def _blocks(tower: Any) -> Any:
    """The tower's layers: the first of its lists of modules."""
    from torch import nn

    return next(module for module in tower.modules() if isinstance(module, nn.ModuleList))


def _weights(layers: Any) -> float:
    """Weights of the matrices of one layer: its multiply-accumulates per token."""
    return sum(p.numel() for p in layers.parameters() if p.dim() > 1) / len(layers)


def _unknown(part: str, config: Any, layers: Any, expected: str) -> UserError:
    return UserError(
        f"No FLOPs for a {part} of type '{config.model_type}': a layer has {_weights(layers):,.0f} "
        f"weights in matrices, expected {expected}."
    )


def _grid_of(vision: Any) -> tuple[int, int] | None:
    """Patches of a tower's one image size; None: it takes any."""
    if not hasattr(vision, "image_size"):
        return None
    sides = zip(_pair(vision.image_size), _pair(vision.patch_size))
    rows, columns = (image // patch for image, patch in sides)
    return rows, columns


def _pair(size: Any) -> tuple[int, int]:
    """A config's size of a side, or of both."""
    rows, columns = size if isinstance(size, list | tuple) else (size, size)
    return rows, columns


def vision_flops(arch: Architecture) -> float:
    """FLOPs of the tower on one tile: patch embedding and every layer that runs."""
    n, d = arch.patches + arch.cls, arch.vision_width
    linear = 4 * n * d * d + (3 if arch.vision_gated else 2) * n * d * arch.vision_mlp
    pairs = arch.full_layers * n * n  # (query, key) over all layers
    if arch.window:
        pairs += (arch.vision_layers - arch.full_layers) * _pairs_in_windows(arch)
    embedding = arch.patches * arch.patch_values * d
    return 2.0 * (embedding + arch.vision_layers * linear + 2 * d * pairs)


def _pairs_in_windows(arch: Architecture) -> int:
    """Query-key pairs of one windowed layer: sum over windows of (patches in the window)^2."""
    pairs = 1
    for side in arch.grid:  # windows that cover a side; the last may be smaller
        pairs *= sum(min(arch.window, side - at) ** 2 for at in range(0, side, arch.window))
    return pairs


def projector_flops(arch: Architecture) -> float:
    """FLOPs of the projector on one tile: all tokens, as the selection comes after it."""
    tokens = arch.tokens + (arch.cls if arch.projects_cls else 0)
    return 2.0 * tokens * sum(inputs * outputs for inputs, outputs in arch.projector)


def gram_flops(tokens: int, width: int) -> float:
    """FLOPs of all pairwise products of N tokens of D numbers: 2 N^2 D."""
    return 2.0 * tokens * tokens * width


CLIP_TEXT_LAYERS, CLIP_TEXT_WIDTH, CLIP_TEXT_POSITIONS = 12, 768, 77  # of ViT-L/14's checkpoint


def clip_text_flops() -> float:
    """FLOPs of CLIP's text tower and projection for one segment of a question."""
    tokens, width = CLIP_TEXT_POSITIONS, CLIP_TEXT_WIDTH
    block = tokens * (4 + 2 * 4) * width**2 + 2 * tokens**2 * width  # MLP: four widths
    return 2.0 * (CLIP_TEXT_LAYERS * block + width**2)


def selection_flops(strategy: Any, arch: Architecture, budget: int, tiles: int = 1) -> float:
    """Estimate the FLOPs of choosing the tokens of one image.

    A strategy that knows better has a method ``flops(tokens, widths, budget) -> float`` (FLOPs per
    tile; ``widths`` maps what it may need to numbers per token). Otherwise: one Gram matrix over
    the widest tensor that it compares, the largest product of the published methods (nothing for
    baselines and for strategies that only sort scores); for merging methods the mixing of the
    features; for methods that read the question in CLIP's joint space its text tower (one segment)
    and the projection of the patches. An estimate, unlike all other columns: sorting, top-k and
    the loops of greedy methods are not matrix products.
    """
    seen = arch.vision_width * arch.merge**2  # a merged token's features are its patches'
    widths = {"features": seen, "keys": seen, "last_keys": seen, "projected": arch.width}
    if hasattr(strategy, "flops"):
        return tiles * float(strategy.flops(arch.tokens, widths, budget))
    compares = strategy.needs if strategy.family != "baseline" else ()
    compared = max((widths[need] for need in compares if need in widths), default=0)
    mixing = 2.0 * budget * arch.tokens * seen if strategy.merges else 0.0
    reads = "text_embeds" in strategy.needs
    projecting = 2.0 * arch.tokens * seen * CLIP_TEXT_WIDTH if reads else 0.0
    per_tile = gram_flops(arch.tokens, compared) + mixing + projecting
    return tiles * per_tile + (clip_text_flops() if reads else 0.0)


def _layer_macs(arch: Architecture, tokens: float, keys: float) -> float:
    """MACs of one decoder layer for ``tokens`` new tokens that attend to ``keys`` positions."""
    linear = 2 * arch.width * (arch.query_width + arch.key_width) + 3 * arch.width * arch.mlp
    return tokens * linear + 2 * tokens * keys * arch.query_width


def _per_layer(arch: Architecture, visual: Iterable[float] | float) -> list[float]:
    """Visual tokens of each layer, from one number or one per layer."""
    if isinstance(visual, int | float):
        return [visual] * arch.layers
    counts = list(visual)
    if len(counts) != arch.layers:
        raise ValueError(f"{len(counts)} token counts for {arch.layers} layers")
    return counts


def prefill_flops(arch: Architecture, visual: Iterable[float] | float, text: float) -> float:
    """FLOPs of the prompt through the language model, and of the head on its last token."""
    macs = sum(_layer_macs(arch, v + text, v + text) for v in _per_layer(arch, visual))
    return 2.0 * (macs + arch.width * arch.vocabulary)


def decode_flops(
    arch: Architecture, visual: Iterable[float] | float, text: float, new_tokens: float
) -> float:
    """FLOPs of the decode steps with a key-value cache.

    The first of the ``new_tokens`` (end token included) comes from the prefill, so there are
    ``new_tokens - 1`` steps; step t attends to the prompt, the t - 1 cached tokens and itself.
    """
    steps = max(new_tokens - 1.0, 0.0)
    macs = steps * arch.width * arch.vocabulary
    for v in _per_layer(arch, visual):
        keys = v + text + (steps + 1) / 2  # mean over the steps
        macs += steps * _layer_macs(arch, 1.0, keys)
    return 2.0 * macs


def document_flops(
    arch: Architecture,
    visual_tokens_per_layer: Iterable[float] | float,
    text_tokens: float,
    new_tokens: float,
    tiles: int = 1,
    selection: float = 0.0,
) -> dict[str, float]:
    """FLOPs of one document.

    Args:
        arch: the model; for Qwen at the grid of the image (``arch.at_grid``).
        visual_tokens_per_layer: visual tokens in the language model, one number for all layers or
            one per layer (strategies that prune inside the language model).
        text_tokens: prompt tokens that are not visual.
        new_tokens: generated tokens, the end token included.
        tiles: images that the tower sees (1 for LLaVA-1.5, up to 5 for LLaVA-NeXT).
        selection: FLOPs of the choice itself, see ``selection_flops``.

    Returns:
        vision, projector, selection, prefill (with the head on one token), decode and total, in
        FLOPs; and paper_macs, the MACs of the visual tokens alone as pruning papers print them,
        which is no part of the total. Attention is quadratic: means of token counts over documents
        give slightly less than the mean FLOPs.
    """
    visual = _per_layer(arch, visual_tokens_per_layer)
    parts = {
        "vision": tiles * vision_flops(arch),
        "projector": tiles * projector_flops(arch),
        "selection": float(selection),
        "prefill": prefill_flops(arch, visual, text_tokens),
        "decode": decode_flops(arch, visual, text_tokens, new_tokens),
    }
    return parts | {"total": sum(parts.values()), "paper_macs": sparsevlm_macs(arch, visual)}


def sparsevlm_macs(arch: Architecture, tokens: Iterable[float] | float) -> float:
    """MACs of the language model as SparseVLM, PyramidDrop and others print them.

    Per layer 4nd^2 + 2n^2d + 3ndm, without head and vision. With the visual tokens alone,
    LLaVA-1.5-7B gives the published 3.817 / 0.833 / 0.416 / 0.208 T at 576 / 128 / 64 / 32.
    """
    return _published_macs(arch, tokens, matrices=3)


def divprune_macs(arch: Architecture, visual: Iterable[float] | float, text: float) -> float:
    """MACs as FastV (arXiv 2403.06764) and DivPrune (arXiv 2503.02175) print them.

    Per layer 4nd^2 + 2n^2d + 2ndm over text and visual tokens. DivPrune's 3.228 and 0.512 T on
    LLaVA-1.5-7B, and 6.281 and 1.002 T on 13B, are 576 and 56 visual tokens with 45.23 of text.
    """
    return _published_macs(arch, [v + text for v in _per_layer(arch, visual)], matrices=2)


def fastervlm_flops(arch: Architecture, visual: float, tiles: int = 1) -> float:
    """FLOPs as FasterVLM and VisPruner (both arXiv 2412.01818) print them.

    Twice the MACs of the visual tokens, plus the tower's layers without the patch embedding.
    """
    embedding = 2.0 * arch.patches * arch.patch_values * arch.vision_width
    return 2.0 * sparsevlm_macs(arch, visual) + tiles * (vision_flops(arch) - embedding)


def _published_macs(arch: Architecture, tokens: Iterable[float] | float, matrices: int) -> float:
    d, m = arch.width, arch.mlp
    return float(
        sum(4 * n * d * d + 2 * n * n * d + matrices * n * d * m for n in _per_layer(arch, tokens))
    )

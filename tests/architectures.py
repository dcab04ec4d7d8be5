"""The numbers of the real models, written down by hand from their config.json."""

from dataclasses import replace

from agilepruner.flops import Architecture

# CLIP ViT-L/14 at 336 px, and vicuna-7B behind it.
_LLAVA_7B = Architecture(
    vision_layers=24,
    vision_width=1024,
    vision_mlp=4096,
    vision_gated=False,
    patch_values=3 * 14 * 14,
    grid=(24, 24),
    cls=1,
    window=0,
    full_layers=24,
    merge=1,
    projector=((1024, 4096), (4096, 4096)),
    projects_cls=False,
    layers=32,
    width=4096,
    mlp=11008,
    query_width=4096,
    key_width=4096,
    vocabulary=32064,
)

# config.json of llava-hf/llava-1.5-{7b,13b}-hf, llava-hf/llava-v1.6-vicuna-7b-hf and
# Qwen/Qwen2.5-VL-7B-Instruct (the grid is the paper's 980 x 980 pixels).
PUBLISHED: dict[str, Architecture] = {
    "llava_1_5_7b": _LLAVA_7B,
    "llava_1_5_13b": replace(
        _LLAVA_7B,
        projector=((1024, 5120), (5120, 5120)),
        layers=40,
        width=5120,
        mlp=13824,
        query_width=5120,
        key_width=5120,
    ),
    "llava_next_7b": _LLAVA_7B,
    "qwen2_5_vl_7b": Architecture(
        vision_layers=32,
        vision_width=1280,
        vision_mlp=3420,
        vision_gated=True,
        patch_values=3 * 2 * 14 * 14,
        grid=(70, 70),
        cls=0,
        window=8,
        full_layers=4,
        merge=2,
        projector=((5120, 5120), (5120, 3584)),
        projects_cls=False,
        layers=28,
        width=3584,
        mlp=18944,
        query_width=3584,
        key_width=512,
        vocabulary=152064,
    ),
}

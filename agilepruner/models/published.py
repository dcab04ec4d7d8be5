"""Configurations of the paper's models, for use without their checkpoints (dry runs, tests).

Only what decides shapes; the numbers are those of the ``config.json`` of each checkpoint.
"""

from collections.abc import Callable
from typing import Any


def _clip() -> Any:
    """CLIP ViT-L/14 at 336 pixels."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )


def _vicuna(**sizes: Any) -> dict[str, Any]:
    from transformers import LlamaConfig

    return {
        "vision_config": _clip(),
        "text_config": LlamaConfig(vocab_size=32064, **sizes),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def _llava(**sizes: Any) -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(**_vicuna(**sizes))


def _llava_next() -> Any:
    from transformers import LlavaNextConfig

    return LlavaNextConfig(**_vicuna())


def _qwen() -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584, "depth": 32},
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "llava-hf/llava-1.5-7b-hf": _llava,
    "llava-hf/llava-1.5-13b-hf": lambda: _llava(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _llava_next,
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen,
}


def config_of(path: str, revision: str | None = None) -> Any:
    """The Hugging Face config of a checkpoint: by hand for the paper's models, else loaded."""
    from transformers import AutoConfig

    return (
        CONFIGS[path]() if path in CONFIGS else AutoConfig.from_pretrained(path, revision=revision)
    )


def on_meta(config: Any, dtype: Any = None) -> Any:
    """The model of a config on the meta device: every shape, no memory."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()

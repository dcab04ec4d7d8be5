"""What lmms-eval is told of us (entry point ``lmms_eval.models``); it imports nothing of ours."""

from typing import Any


def manifest() -> Any:
    """Where the model class is that ``lmms-eval --model agilepruner`` loads."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("agilepruner", simple_class_path="agilepruner.lmms_model.Pruned")

"""The Hugging Face config of a model, for what can be known without its checkpoint."""

from collections.abc import Mapping
from typing import Any


def config_of(model: Mapping[str, Any]) -> Any:
    """The config of a model: of the shapes that its YAML writes down, else loaded.

    Args:
        model: the settings of ``configs/model``. Under ``shapes`` they may hold, per checkpoint,
            what of its config.json decides shapes and differs from transformers' defaults.

    Raises:
        OSError, ValueError: it is neither written down nor to be had.
    """
    from transformers import AutoConfig

    path, revision = model["load"]["path"], model["load"].get("revision")
    known = (model.get("shapes") or {}).get(path)
    if known is None:
        return AutoConfig.from_pretrained(path, revision=revision)
    return AutoConfig.for_model(**known)

"""Hide a torchvision that cannot be imported, before it breaks transformers.

A torchvision built for another torch (the registry's CUDA build beside a CPU torch) fails with
"operator torchvision::nms does not exist" and takes every CLIP and LLaVA class of transformers
with it. Without torchvision, transformers uses its PIL image processors, which we name anyway.
"""

import importlib.util
import logging
import sys

log = logging.getLogger(__name__)


def state() -> str:
    """``absent``, ``healthy``, or ``broken: <why>``; imports torchvision to find out."""
    if importlib.util.find_spec("torchvision") is None:
        return "absent"
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        return f"broken: {type(error).__name__}: {error}"
    return "healthy"


def hide_if_broken() -> None:
    """Make a broken torchvision look absent to everything imported from now on."""
    found = state()
    if not found.startswith("broken"):
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    # A None entry makes `import torchvision` raise ModuleNotFoundError and find_spec return None.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    log.warning(
        "torchvision is installed but does not fit this torch (%s); it is hidden for this run. "
        "Remove it with `pip uninstall torchvision`, or install the build that matches torch.",
        found,
    )

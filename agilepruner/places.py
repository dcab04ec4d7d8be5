"""Where the project's own files lie, in a checkout and in an installed wheel.

A checkout has ``configs/`` and ``results/published/`` at its top; a wheel has them inside the
package (``setup.py`` puts them there). ``evals/`` lies beside ``agilepruner/`` in both.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent


def place(in_wheel: str, in_checkout: str) -> Path:
    """The folder that a wheel and a checkout have at different places."""
    inside = PACKAGE / in_wheel
    return inside if inside.is_dir() else ROOT / in_checkout


CONFIGS = place("configs", "configs")
PUBLISHED = place("published", "results/published")


def project(path: str) -> str:
    """The absolute path of one of the project's files: ``${project:evals/demo_model}``."""
    return str(ROOT / path)

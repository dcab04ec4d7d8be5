"""What pyproject.toml cannot say: two folders of the repository travel inside the package.

``configs/`` and ``results/published/`` stay at the top level, where people look for them; a wheel
holds them as ``agilepruner/configs`` and ``agilepruner/published`` (see ``agilepruner/places.py``).
"""

from setuptools import find_namespace_packages, setup

INSIDE = {"agilepruner.configs": "configs", "agilepruner.published": "results/published"}

setup(
    packages=[*find_namespace_packages(include=["agilepruner*", "evals*"]), *INSIDE],
    package_dir=INSIDE,
)

"""What `pip install` gives: every file the commands read, and every library the code imports."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from agilepruner import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IN_WHEEL = {
    "agilepruner": "agilepruner",
    "evals": "evals",
    "configs": "agilepruner/configs",
    "results/published": "agilepruner/published",
}
BUILD = "from setuptools import build_meta as b; print(b.build_{kind}('{folder}'))"


def files(folder):
    """Files of a folder of the checkout, without caches."""
    found = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT / folder) for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source archive, built from a copy (building writes into the tree)."""
    folder = tmp_path_factory.mktemp("build")
    for name in IN_WHEEL:
        shutil.copytree(
            ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-c", BUILD.format(kind=kind, folder=folder)]
        done = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def test_the_wheel_holds_every_file_of_the_package_its_configs_and_the_published_tables(built):
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        expected = {
            f"{inside}/{path}": ROOT / folder / path
            for folder, inside in IN_WHEEL.items()
            for path in files(folder)
        }
        assert held == set(expected)
        for name in ("agilepruner/configs/config.yaml", "evals/demo_model/chat_template.jinja"):
            assert wheel.read(name) == expected[name].read_bytes()


def test_the_source_archive_builds_the_same_wheel(built):
    with tarfile.open(built[1]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    assert held >= {f"{folder}/{path}" for folder in IN_WHEEL for path in files(folder)}
    assert held >= {"pyproject.toml", "setup.py"}


def imported(folder):
    """Top-level modules that a folder's Python files import, with the first file of each."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module)
            for name in names:
                found.setdefault(name.split(".")[0], path.relative_to(ROOT))
    return found


def declared(*extras):
    """Names that pyproject.toml asks for, as package registries spell them."""
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {canonical(Requirement(line).name) for line in lines}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


# Imported only where it is installed and works: agilepruner/torchvision.py.
OPTIONAL = {"torchvision"}
OURS = {"agilepruner", "evals", "scripts", "tests"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("agilepruner", []),
        ("evals", ["demo"]),
        ("scripts", ["demo", "dev", "wandb"]),
        ("tests", ["test", "dev", "wandb"]),
    ],
)
def test_what_is_imported_is_declared(folder, extras):
    known = importlib.metadata.packages_distributions()
    local = OURS | {path.stem for path in (ROOT / folder).glob("*.py")}
    missing = {}
    for module, path in imported(folder).items():
        if module in sys.stdlib_module_names or module in local | OPTIONAL:
            continue
        names = {canonical(name) for name in known.get(module, [module])}
        if not names & declared(*extras):
            missing[module] = str(path)
    assert missing == {}


def test_what_is_declared_is_installed_at_the_tested_version():
    """constraints.txt names every direct dependency, so that an install is the tested one."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if "==" in line}
    wanted = declared("test", "dev", "demo") - {"agilepruner"}
    assert wanted - pinned == set()


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, re.M)[1] == __version__
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

"""What a number is bound to: digests of every byte that decides an answer, and of what scores it.

A cell's ``identity`` is plain data: model files in full, documents, settings, hyper-parameters, the
code between a document and its answer, the libraries underneath. Its hash is the cell's id. What is
hashed is what is loaded: checkpoints are read from the directory whose files were hashed, documents
from the very files. ``scoring`` is the same for the way from answers to a row. Time, machine,
names of folders, comments and docstrings are in neither.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agilepruner.errors import UserError
from agilepruner.models.checkpoints import PICKLED, SAFE, SMALL

VERSION = 2
ANSWERED_BY = ("torch", "transformers", "tokenizers", "pillow", "numpy", "lmms-eval", "datasets")
SCORED_BY = ("lmms-eval", "nltk", "inflect", "numpy")
CACHED_FROM = 32 << 20  # bytes: smaller files are hashed at each start


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of the hash of plain data, or of a text."""
    text = value if isinstance(value, str) else _plain(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions; ``absent`` where there is none."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# --- files -------------------------------------------------------------------------------------


def file_digest(path: Path) -> str:
    """Hash of a file's whole content.

    That of a large file is remembered beside the user's other caches, under what a change of the
    file cannot leave as it was: its real path, device, inode, size, mtime and ctime.

    Raises:
        OSError: the file cannot be read.
    """
    real = path.resolve()
    size = real.stat().st_size
    if size < CACHED_FROM:
        return _hash(real)
    remembered = _cache_folder() / f"{digest(_stamp(real))}.sha256"
    try:
        return remembered.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        pass
    stamp = _stamp(real)
    found = _hash(real)
    if stamp == _stamp(real):  # not written to meanwhile
        _remember(remembered, found)
    return found


def _stamp(path: Path) -> list[Any]:
    at = path.stat()
    return [str(path), at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns]


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agilepruner"


def _remember(path: Path, text: str) -> None:
    """Best effort: without a cache the file is hashed again."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="ascii")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


def checkpoint_files(directory: Path) -> list[Path]:
    """The files of a checkpoint directory that loading it may read, sorted by name."""
    found = {path for pattern in (*SMALL, *SAFE) for path in directory.glob(pattern)}
    if not any(path.suffix == ".safetensors" for path in found):
        found |= {path for pattern in PICKLED for path in directory.glob(pattern)}
    found |= set(directory.glob("*/*.jinja"))  # additional chat templates
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def checkpoint_digest(directory: Path) -> str:
    """Hash of a checkpoint: names and whole content of its files.

    Raises:
        UserError: there is no file of a checkpoint.
    """
    files = checkpoint_files(directory)
    if not files:
        raise UserError(f"{directory} holds no checkpoint: no config.json and no weights.")
    return digest([[str(path.relative_to(directory)), file_digest(path)] for path in files])


# --- code --------------------------------------------------------------------------------------


def code_digest(modules: Iterable[str], root: Path | None = None) -> str:
    """Hash of what modules compute, with everything of the project (or the user) they import.

    Imports are followed in the source, wherever they stand. Libraries are left to their version.
    Comments, docstrings, formatting and annotations do not count.

    Args:
        modules: dotted names.
        root: where the packages of this project lie; None: where they are imported from.
    """
    return digest(
        {name: _meaning_of(path) for name, path in sorted(closure(modules, root).items())}
    )


def closure(modules: Iterable[str], root: Path | None = None) -> dict[str, Path]:
    """Modules and all that they import which is no library: name -> file."""
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if not name or name in found:
            continue
        path = _source(name, root)
        if path is None:
            continue
        found[name] = path
        todo.append(name.rpartition(".")[0])  # a package's own code runs too
        todo += _imports(path, name)
    return found


@cache
def _imports(path: Path, name: str) -> tuple[str, ...]:
    """Names that a module imports; of ``from a import b`` both ``a`` and ``a.b``."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(found))


OURS = ("agilepruner", "evals")


@cache
def _source(name: str, root: Path | None) -> Path | None:
    """The Python file of a module that is this project's or the user's; None for libraries.

    Found by its path, without importing its packages.
    """
    top, *parts = name.split(".")
    if root is not None and top in OURS:
        folders, alone = [root / top], None
    else:
        try:
            found = importlib.util.find_spec(top) if top else None
        except ValueError:  # a script that runs as __main__ is no module that can be found
            found = None
        if found is None:
            return None
        folders = [Path(place) for place in found.submodule_search_locations or ()]
        alone = Path(found.origin) if not folders and found.origin else None
        where = str(folders[0]) if folders else str(alone)
        if alone is not None and alone.suffix != ".py":
            return None  # built in, or compiled
        if top not in OURS and _installed(where):
            return None
    if alone is not None:
        return alone if not parts else None
    for folder in folders:
        stem = folder.joinpath(*parts)
        for path in (stem / "__init__.py", stem.with_suffix(".py") if parts else stem):
            if path.is_file():
                return path
    return None


def _installed(where: str) -> bool:
    """Whether a path is a library's, of this environment or of another one on the search path."""
    installed = {"site-packages", "dist-packages"} & set(Path(where).parts)
    return bool(installed) or where.startswith(_libraries())


@cache
def _libraries() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({sysconfig.get_path(name) + os.sep for name in names})


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _meaning_of(path: Path) -> str:
    return meaning(path.read_text(encoding="utf-8"))


def meaning(source: str) -> str:
    """What a source computes, as one digest that no supported Python spells otherwise.

    ``ast.dump`` differs between Python versions; here a node is its class and the fields that hold
    anything. Docstrings and annotations that are no fields of a class are left out.
    """
    return digest("".join(_spell(ast.parse(source))))


def _spell(node: Any) -> Iterator[str]:
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name in ("type_comment", "type_params", "type_ignores", "kind", "ctx", "returns"):
                continue
            if name == "annotation" and isinstance(node, ast.arg):
                continue
            if isinstance(value, list):
                value = [item for item in value if not _says_nothing(item)]
            if value is None or value == []:
                continue
            yield f" {name}="
            yield from _spell(value)
        yield ")"
    elif isinstance(node, list):
        for item in node:
            yield from _spell(item)
            yield ","
    else:
        yield repr(node)


def _says_nothing(node: Any) -> bool:
    """Whether a statement computes nothing: a docstring, ``__version__``, ``__all__``."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    return node.targets[0].id in ("__version__", "__all__")


@cache
def task_digest(task: str) -> str:
    """Hash of the folder of an lmms-eval task (its YAML and Python), e.g. ``pope/pope.yaml``.

    Its version names the library; this also sees a copy that was edited.
    """
    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        return "absent"
    folder = Path(found.submodule_search_locations[0]) / "tasks" / Path(task).parent
    files = sorted(path for path in folder.glob("*") if path.suffix in (".py", ".yaml"))
    return digest([[path.name, _hash(path)] for path in files])


def modules_named(settings: Any) -> list[str]:
    """Modules of what a config names by path (``package.module.name``)."""
    found: list[str] = []
    if isinstance(settings, Mapping):
        for value in settings.values():
            found += modules_named(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            found += modules_named(value)
    elif isinstance(settings, str) and settings.replace(".", "_").isidentifier():
        module = settings.rpartition(".")[0]
        if module and _source(module, None) is not None:
            found.append(module)
    return list(dict.fromkeys(found))

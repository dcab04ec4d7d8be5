"""Cells: the unit of work, of identity and of resume."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from agilepruner.strategies.base import Strategy

IDENTITY_VERSION = 1
# What methods are made of: a change there changes what they select.
METHOD_CODE = ("agilepruner.strategies.", "agilepruner.complexity", "agilepruner.linalg")


@dataclass(frozen=True)
class Cell:
    """One (model, strategy, budget, benchmark, protocol, suite).

    Attributes:
        strategy_name: config name. strategy: the instance with its hyper-parameters.
        budget: visual tokens kept per image; the model's full count for vanilla.
        benchmark: config name.
        context: identity of model, protocol, suite version, limit and decoding, shared by the
            cells of a run.
        scoring: digest of how answers become a score; no part of the identity, since a changed
            metric needs the journal replayed and no model.
    """

    strategy_name: str
    strategy: Strategy
    budget: int
    benchmark: str
    context: Mapping[str, Any]
    scoring: str = ""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that changes an answer, and nothing else."""
        return {
            "version": IDENTITY_VERSION,
            "strategy": {
                "class": f"{type(self.strategy).__module__}.{type(self.strategy).__qualname__}",
                "parameters": parameters(self.strategy),
                "code": text_digest(" ".join(map(code_digest, _modules(self.strategy)))),
            },
            "budget": self.budget,
            "benchmark": self.benchmark,
            **self.context,
        }

    @cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits of the identity's hash."""
        return text_digest(json.dumps(self.identity, sort_keys=True, ensure_ascii=False))

    @property
    def folder(self) -> str:
        """Directory name: readable first, unique by its id."""
        return f"{self.benchmark}-{self.strategy_name}-{self.budget}-{self.id}"


def parameters(strategy: Strategy) -> dict[str, Any]:
    """The strategy's hyper-parameters as plain data; a strategy among them with its class."""
    names: list[str] = [field.name for field in fields(strategy)] if is_dataclass(strategy) else []
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(strategy, name)
        if isinstance(value, Strategy):
            value = {"class": type(value).__name__, **parameters(value)}
        found[name] = value
    return found


def _modules(strategy: Strategy) -> list[str]:
    """Where the strategy's class is defined, and the classes of strategies it is made of."""
    found = [type(strategy).__module__]
    for value in vars(strategy).values():
        if isinstance(value, Strategy):
            found += _modules(value)
    return found


@lru_cache
def code_digest(module_name: str) -> str:
    """Hash of a strategy's code: its module and the project modules it uses.

    Comments, docstrings and formatting do not count, so polishing a file keeps its results and
    changing what it computes does not.
    """
    digest = hashlib.sha256()
    for name in sorted(_modules_behind(module_name)):
        path = getattr(sys.modules[name], "__file__", None)
        if path:
            digest.update(f"{name}:{_meaning(Path(path).read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()[:16]


def _modules_behind(module_name: str) -> set[str]:
    """The module and what it imports of what methods are made of, recursively."""
    found: set[str] = set()
    todo = [module_name]
    while todo:
        name = todo.pop()
        if name in found or name not in sys.modules:
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            origin = getattr(value, "__module__", None) or getattr(value, "__name__", None)
            if (
                isinstance(origin, str)
                and origin.startswith(METHOD_CODE)
                and origin != Strategy.__module__  # the contract, not the method
            ):
                todo.append(origin)
    return found


def text_digest(text: str) -> str:
    """Sixteen hexadecimal digits of a text's hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_digest(paths: Iterable[Path]) -> str:
    """Hash of what Python files compute, without comments and docstrings."""
    sources = ((path.name, path.read_text(encoding="utf-8")) for path in paths)
    return text_digest("".join(f"{name}:{_meaning(source)}" for name, source in sources))


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            constant = body[0].value
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                body[0] = ast.Pass()
    return ast.dump(tree)


def file_digest(path: Path) -> str:
    """Identity of a file's content; files above 256 MiB by size and one MiB at each end."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= 256 << 20:
            digest.update(file.read())
        else:
            digest.update(file.read(1 << 20))
            file.seek(-(1 << 20), 2)
            digest.update(file.read())
    return digest.hexdigest()[:16]


def directory_digest(directory: Path, patterns: Iterable[str]) -> str:
    """Identity of the files of a directory that match, by name and content."""
    files = sorted({file for pattern in patterns for file in directory.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file_digest(file)}\n".encode())
    return digest.hexdigest()[:16]

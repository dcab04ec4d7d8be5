"""Write the README's table of strategies from their classes and YAMLs.

    python scripts/strategy_table.py           # or: make docs
    python scripts/strategy_table.py --check   # say whether it is stale: make check does

A new strategy stands in the table without anybody editing it by hand.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agilepruner.config import build_strategies
from agilepruner.places import CONFIGS, ROOT
from agilepruner.strategies.base import FAMILIES, Strategy

README = ROOT / "README.md"
MARKED = re.compile(r"(<!-- strategies:begin [^\n]*-->\n).*?(?=<!-- strategies:end -->)", re.S)
COLUMNS = (
    "name",
    "label",
    "family",
    "paper",
    "output",
    "needs text",
    "needs CLS",
    "golden vectors",
    "our choice where the paper is silent",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    current = renewed(text, strategies(CONFIGS / "strategy"))
    if current == text:
        return
    if check:
        sys.exit("README.md: the table of strategies is stale; run `make docs`.")
    README.write_text(current, encoding="utf-8")
    print("README.md: the table of strategies is new.")


def strategies(folder: Path) -> dict[str, Strategy]:
    """Every strategy that has a YAML: by family, vanilla first, then by name."""
    settings: dict[str, Any] = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        for path in folder.glob("*.yaml")
    }
    built = dict(build_strategies(settings))
    order = sorted(
        built, key=lambda name: (FAMILIES.index(built[name].family), name != "vanilla", name)
    )
    return {name: built[name] for name in order}


def renewed(text: str, known: dict[str, Strategy]) -> str:
    """A page with its marked table written anew.

    Raises:
        ValueError: the page has no markers.
    """
    if not MARKED.search(text):
        raise ValueError("README.md has no strategies:begin and strategies:end comments")
    table = "".join(f"{line}\n" for line in lines(known))
    return MARKED.sub(lambda found: found[1] + table, text)


def lines(known: dict[str, Strategy]) -> Iterator[str]:
    """The table in Markdown."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"| {' | '.join('---' for _ in COLUMNS)} |"
    for name, strategy in known.items():
        yield f"| {' | '.join(row(name, strategy))} |"


def row(name: str, strategy: Strategy) -> list[str]:
    """What the table says of a strategy, column by column."""
    paper = strategy.paper
    url = paper if "://" in paper else f"https://arxiv.org/abs/{paper}"
    needs = set(strategy.needs)
    reads_text = "text_embeds" in needs or strategy.family == "decoder"
    return [
        f"`{name}`",
        strategy.label,
        strategy.family,
        f"[{paper}]({url})" if paper else "",
        "merges" if strategy.merges else "selects",
        "yes" if reads_text else "",
        "yes" if needs & {"attention", "cls", "last_query"} else "",
        strategy.golden or ("none needed" if strategy.family == "baseline" else "no released code"),
        strategy.choice.replace("|", "\\|"),
    ]


if __name__ == "__main__":
    main()

"""What a report is asked for besides rows, kept with the run so that it can be made again."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agilepruner.report.statistics import MARGINS, Margins

FILE = "report.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a report judges and what it is held beside.

    Attributes:
        reference: strategy that the others are held against, or ``best``; None: see ``analyse``.
        margins: within which lines are equivalent.
        paper: the paper's table that this one follows (``table`` in results/published); its numbers
            come first where several tables print a cell.
    """

    reference: str | None = None
    margins: Margins = MARGINS
    paper: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """Those of a composed config."""
        return cls(config["reference"], Margins(**config["margins"]), config["paper"])

    @classmethod
    def read(cls, directory: Path) -> "Settings":
        """Those that a run left; the defaults where it left none that can be read."""
        try:
            known = json.loads((directory / FILE).read_text(encoding="utf-8"))
            return cls(**{**known, "margins": Margins(**known["margins"])})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s is not used (%s)", directory / FILE, type(error).__name__)
            return cls()

    def text(self) -> str:
        """The content of ``FILE``, which ``read`` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"


DEFAULT = Settings()

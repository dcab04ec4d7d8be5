"""``python -m agilepruner``."""

from agilepruner.cli import main

main()

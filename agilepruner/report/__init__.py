"""Reports read rows and nothing else: tables, published numbers, statistics, dashboard, W&B.

Nothing in here imports torch, so a report can be made where no model can run.
"""

from agilepruner.report.table import write_report

__all__ = ["write_report"]

"""Imported once by the server of ``commands``: what a run of the demo imports."""

import transformers.models.llava.modeling_llava  # noqa: F401

import agilepruner.cli
import agilepruner.dry_run
import agilepruner.models.llava
import agilepruner.report.kinds
import agilepruner.report.table
import agilepruner.runner.run  # noqa: F401
from evals import lmms

for task in ("pope.utils", "mme.utils"):
    lmms.task_module(task)

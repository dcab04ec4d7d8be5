"""Imported by the process that scoring processes are forked from: they share what it has read."""

import agilepruner.runner.stored  # noqa: F401
from evals.tasks import import_lmms_eval

import_lmms_eval()

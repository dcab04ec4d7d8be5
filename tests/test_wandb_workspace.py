"""The W&B workspace names what is logged; it is built here and never saved."""

import json

import pytest
import synthetic_rows as made
from test_report_wandb import read_back

from agilepruner.report.wandb import Sink, log_results

pytest.importorskip("wandb_workspaces", reason="the extra agilepruner[wandb] is not installed")


def test_every_panel_shows_what_cells_log(tmp_path):
    from scripts import wandb_workspace

    log_results(made.rows(("divprune",), (64,)), Sink("agilepruner", "sweep", "offline"), tmp_path)
    logged = {key for _, history in read_back(tmp_path).values() for key in history}
    configs = {key for config, _ in read_back(tmp_path).values() for key in config}
    for panels in wandb_workspace.sections().values():
        for panel in panels:
            for axis in (panel.x, panel.y):
                known = configs if "Config" in type(axis).__name__ else logged
                assert axis.name in known, axis
    assert len(wandb_workspace.workspace("us", "agilepruner").sections) == 4
    assert json.dumps(wandb_workspace.report("us", "agilepruner").blocks, default=str)

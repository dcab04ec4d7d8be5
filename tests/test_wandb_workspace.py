"""The W&B workspace names what is logged; it is built here and never saved."""

import json

import pytest
import synthetic_rows as made
from test_report_wandb import read_back

from agilepruner.report.wandb import Sink, log_results

pytest.importorskip("wandb_workspaces", reason="the extra agilepruner[wandb] is not installed")


def test_every_panel_shows_what_is_logged(tmp_path):
    from scripts import wandb_workspace

    rows = [*made.rows(("divprune",), (64,)), made.row("divprune", 64, "chair")]
    (tmp_path / "dashboard.html").write_text("<p>the page</p>")
    log_results(rows, Sink("agilepruner", "sweep", "offline"), tmp_path)
    logged = {key for _, history in read_back(tmp_path).values() for key in history}
    configs = {key for config, _ in read_back(tmp_path).values() for key in config}
    tables, *cells = wandb_workspace.sections().values()
    *charts, page = tables
    assert len(charts) == 3
    for chart in charts:
        assert f"{chart.query['summaryTable']['tableKey']}/nrows" in logged
    assert [f"{key}/_type" in logged for key in page.media_keys] == [True]
    for panel in (panel for panels in cells for panel in panels):
        for axis in (panel.x, panel.y):
            known = configs if "Config" in type(axis).__name__ else logged
            assert axis.name in known, axis
    built = wandb_workspace.workspace("us", "agilepruner")
    assert [section.name for section in built.sections] == list(wandb_workspace.sections())
    spec = json.dumps(built._to_model().model_dump(mode="json", by_alias=True))
    assert "percent of vanilla by budget" in spec
    assert "wandb/lineseries/v0" in spec
    assert json.dumps(wandb_workspace.report("us", "agilepruner").blocks, default=str)

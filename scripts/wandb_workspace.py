"""Build a W&B workspace and a report over the cells of a project: curves, costs, hallucination.

    pip install 'agilepruner[wandb]'
    python scripts/wandb_workspace.py ENTITY PROJECT

It reads nothing: panels name what ``logger=wandb`` and ``agilepruner wandb-sync`` log. The curves
and the page are those of the runs of tables. Scatters show the runs of cells; colour them by
``strategy`` in the page.
"""

import argparse
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from agilepruner.report.wandb import CURVES

LINES = "wandb/lineseries/v0"  # W&B's own chart, as wandb.plot.line_series fills it
RELATIVE = "relative_to_vanilla_percent"
COSTS = {"flops/total": "all FLOPs", "flops/prefill": "prefill FLOPs"}
HALLUCINATION = {
    "hallucination/chair_s": "Captions that hallucinate",
    "hallucination/chair_i": "Mentions that hallucinate",
}
CHANGES = {"right_to_wrong": "Right to wrong", "wrong_to_right": "Wrong to right"}


def sections() -> dict[str, list[Any]]:
    """Title -> panels."""
    relative = wr.SummaryMetric(RELATIVE)
    curve = wr.ScatterPlot(
        title="Percent of vanilla by budget", x=wr.Config("budget"), y=relative, log_x=True
    )
    costs = [
        wr.ScatterPlot(
            title=f"Percent of vanilla against {said}",
            x=wr.SummaryMetric(key),
            y=relative,
            log_x=True,
        )
        for key, said in COSTS.items()
    ]
    hallucination = [
        wr.ScatterPlot(
            title=f"{said} against recall (CHAIR)",
            x=wr.SummaryMetric("hallucination/recall"),
            y=wr.SummaryMetric(key),
        )
        for key, said in HALLUCINATION.items()
    ]
    changed = [
        wr.ScatterPlot(
            title=f"{said} against vanilla, percent",
            x=wr.Config("budget"),
            y=wr.SummaryMetric(f"changed/{key}"),
            log_x=True,
        )
        for key, said in CHANGES.items()
    ]
    return {
        "Tables": [*map(_lines, CURVES), wr.MediaBrowser(title="The page", media_keys=["page"])],
        "Accuracy by budget": [curve],
        "Accuracy against cost": costs,
        "Hallucination against recall": hallucination,
        "Answers that change": changed,
    }


def _lines(name: str) -> wr.CustomChart:
    """Curves of tables, a line per strategy."""
    title, across = CURVES[name]
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{name}_table"}},
        chart_name=LINES,
        chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
        chart_strings={"title": title, "xname": across},
    )


def workspace(entity: str, project: str) -> ws.Workspace:
    """The view of a project, not saved."""
    parts = [
        ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections().items()
    ]
    return ws.Workspace(entity=entity, project=project, name="agilepruner", sections=parts)


def report(entity: str, project: str) -> wr.Report:
    """The report on a project, not saved."""
    blocks: list[Any] = [
        wr.P(
            "One run is one cell: a strategy at a budget on a benchmark. Runs named after a model, "
            "suite and protocol hold a whole table: averages, flips with pictures, the page."
        )
    ]
    for name, panels in sections().items():
        runs = wr.Runset(entity=entity, project=project)
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(entity=entity, project=project, title="Visual token pruning", blocks=blocks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("entity", help="of W&B: a user or team")
    parser.add_argument(
        "project", help="that logger=wandb wrote to", default="agilepruner", nargs="?"
    )
    where = parser.parse_args()
    print(workspace(where.entity, where.project).save().url)
    print(report(where.entity, where.project).save().url)

"""What W&B shows of a study: a saved view, and a report; built here, sent by `verbs.wandb`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

from isometry.compare.charts import CHARTS, TABLE, chart_fields

STEP = "trainer/global_step"
NUMBERS = (
    *("test_accuracy", "gradient_rate_init", "gradient_rate_predicted", "gradient_ratio_init"),
    *("displacement_layer_1", "saturation_layer_1", "update_ratio_largest"),
)
"""Summary keys that are columns, and axes of the parallel coordinates."""
WORDS = ("state", "outcome", "verdict_init")
LOGARITHMIC = ("gradient_ratio_init", "displacement_layer_1", "update_ratio_largest")
CURVES = (("gradient_rate", True), ("train_loss", True), ("val_accuracy", False))
"""Curves over steps, and whether their axis is logarithmic."""
WIDE = 24
"""Columns of a report's grid."""


def factor_keys(factors: Sequence[str]) -> list[str]:
    """Where the runs carry the factors of their sweep: `loggers.wandb.shown_config`."""
    return [f"factors.{name.replace('.', '_')}" for name in factors]


def workspace(
    entity: str, project: str, factors: Sequence[str], columns: Sequence[str], name: str
) -> workspaces.Workspace:
    """The saved view.

    Args:
        entity, project: of W&B.
        factors: by which runs are told apart; runs of equal ones, the seeds, are a band.
        columns: of the signals that runs log for each layer.
        name: of the view.
    """
    settings = workspaces.RunsetSettings(
        groupby=[workspaces.Config(key) for key in ("study", *factor_keys(factors))],
        pinned_columns=[f"summary:{key}" for key in (*WORDS, *NUMBERS)],
    )
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            _section("Results", [*curves(), parallel(factors), scatter()]),
            _section("Layer by layer", layer_plots(columns)),
            _section("Layer x step", [*custom_charts(entity), heatmaps()]),
            _section("What differs", [reports.RunComparer(diff_only="split")]),
        ],
        settings=workspaces.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=settings,
        auto_generate_panels=False,
    )


def _section(name: str, panels: list[Any]) -> workspaces.Section:
    return workspaces.Section(name=name, panels=panels, is_open=True)


# ---- panels --------------------------------------------------------------------------------------


def curves() -> list[Any]:
    """Gradient rate, loss and accuracy over steps; seeds as a band."""
    return [_lines(key, log, y=[key]) for key, log in CURVES]


def layer_plots(columns: Sequence[str]) -> list[Any]:
    """One panel for each logged column, all its layers in it."""
    return [_lines(f"{name}, by layer", True, metric_regex=f"^{name}/layer_") for name in columns]


def _lines(title: str, log: bool, **chosen: Any) -> Any:
    band = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
    return reports.LinePlot(title=title, x=STEP, log_y=log, max_runs_to_show=100, **band, **chosen)


def parallel(factors: Sequence[str]) -> Any:
    """Parallel coordinates over the factors and the numbers of the summary."""
    axes = [
        reports.ParallelCoordinatesPlotColumn(metric=reports.Config(key))
        for key in factor_keys(factors)
    ]
    axes += [
        reports.ParallelCoordinatesPlotColumn(
            metric=reports.SummaryMetric(key), log=key in LOGARITHMIC
        )
        for key in NUMBERS
    ]
    return reports.ParallelCoordinatesPlot(columns=axes, title="factors and results")


def scatter() -> Any:
    """The result against what was known before the first step."""
    return reports.ScatterPlot(
        title="accuracy against the gradient rate at step 0",
        x=reports.SummaryMetric("gradient_rate_init"),
        y=reports.SummaryMetric("test_accuracy"),
    )


def custom_charts(entity: str) -> list[Any]:
    """Our own charts, on the table that each run logs."""
    query = {"summaryTable": {"tableKey": TABLE}}
    fields = chart_fields()
    return [
        reports.CustomChart(query=query, chart_name=f"{entity}/{name}", chart_fields=fields)
        for name in CHARTS
    ]


def heatmaps() -> Any:
    """The pictures of the runs."""
    return reports.MediaBrowser(
        title="layer x step", media_keys=["heatmap/backprop_norm"], num_columns=3
    )


# ---- report --------------------------------------------------------------------------------------


def report(
    entity: str,
    project: str,
    study: str,
    text: str,
    factors: Sequence[str],
    columns: Sequence[str],
    figures: Sequence[str],
) -> reports.Report:
    """A report of a study.

    Args:
        entity, project: of W&B.
        study: its name, the group of its runs.
        text: the comparison, in Markdown.
        factors, columns: as for `workspace`.
        figures: keys of the pictures that the report's own run has logged.
    """
    runs = _runset("runs", f'Metric("group") == "{study}" and Metric("jobType") == "train"')
    own = _runset("figures", f'Metric("group") == "{study}" and Metric("jobType") == "report"')
    pictures = [
        reports.MediaBrowser(media_keys=[key], layout=reports.Layout(w=WIDE, h=12))
        for key in figures
    ]
    by_layer = [*layer_plots(columns), *custom_charts(entity)]
    return reports.Report(
        entity=entity,
        project=project,
        title=f"Study {study}",
        description="Does the gradient reach the first layer?",
        blocks=[
            reports.MarkdownBlock(text=text),
            reports.PanelGrid(runsets=[own], panels=pictures),
            reports.PanelGrid(runsets=[runs], panels=[*curves(), parallel(factors), scatter()]),
            reports.PanelGrid(runsets=[runs], panels=by_layer),
        ],
        width="fluid",
    )


def _runset(name: str, filters: str) -> reports.Runset:
    return reports.Runset(name=name, filters=filters)

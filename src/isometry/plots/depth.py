"""A quantity against depth, one line a run."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from isometry.plots import style


def against_depth(frame: pd.DataFrame, value: str, ylabel: str, title: str = "") -> Figure:
    """Lines of `value` against `layer` on a log axis.

    Args:
        frame: columns `panel`, `label`, `layer` and the value; one line a (panel, label). Rows that
            are not positive and finite are gaps in the line, and a line without any such row is
            named in the legend as having none.
        value: the column to draw.
        ylabel: what it is, with its unit.
        title: above all panels.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    labels = list(dict.fromkeys(frame["label"]))
    figure, axes = style.figure(1, len(panels), (3.4, 3.3), sharey=True)
    for axis, panel in zip(axes[0], panels, strict=True):
        for label, rows in frame[frame.panel == panel].groupby("label", sort=False):
            rows = rows.sort_values("layer")
            positive = rows[value].where(rows[value] > 0).where(rows[value] < float("inf"))
            axis.plot(rows["layer"], positive, label=label, **style.look(labels.index(label)))
        axis.set(yscale="log", xlabel="layer $l$", title=panel)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel(ylabel)
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles))
    )
    if title:
        figure.suptitle(title)
    return figure

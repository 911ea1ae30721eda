"""Quantities against depth: a row of panels for each, one line an option, its seeds as a band."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from isometry.plots import style
from isometry.plots.seeds import integer_axis, interval

NOTE = 58
"""Characters of a line below a panel's title."""
PANELS_A_ROW = 4
"""Of one quantity; several stand below each other, with all their panels in a row."""


@dataclass(frozen=True)
class Quantity:
    """What is drawn.

    Attributes:
        column: of the signals.
        label: of its axis, with the step it is taken at.
        log: whether its axis, and the means over seeds, are logarithmic.
        last: whether the last recorded value is drawn, instead of step 0's.
    """

    column: str
    label: str
    log: bool = True
    last: bool = False


def against_depth(
    frame: pd.DataFrame,
    quantities: Sequence[Quantity],
    title: str = "",
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Each quantity against the layer: the mean over seeds and its 95 % interval.

    Zeros and numbers that are not finite have no place on a logarithmic axis: they are marked at
    its lower and upper end.

    Args:
        frame: columns `panel`, `label`, `seed`, `layer`, and one for each quantity, missing where
            it was not measured. Panels and labels come in the order in which they first appear.
        quantities: what is drawn.
        title: above all panels.
        notes: panel to a line below its title.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    labels = list(dict.fromkeys(frame["label"]))
    figure, rows = _grid(len(quantities), len(panels))
    for quantity, axes in zip(quantities, rows, strict=True):
        _draw_row(axes, frame, quantity, panels, labels)
    _head(rows[0], panels, notes or {})
    for index, axes in enumerate(rows):
        _foot(axes, lowest=index == len(rows) - 1)
    _legend(figure, frame, quantities, labels)
    if title:
        figure.suptitle(title)
    return figure


def _grid(quantities: int, panels: int) -> tuple[Figure, list[list[Axes]]]:
    """The axes of each quantity: a row each, or all of a single one, in rows of a few."""
    if quantities > 1:
        figure, axes = style.figure(quantities, panels, (3.4, 3.0), sharey="row")
        return figure, [list(row) for row in axes]
    columns = min(panels, PANELS_A_ROW)
    figure, axes = style.figure(math.ceil(panels / columns), columns, (3.4, 3.3), sharey=True)
    cells = list(axes.ravel())
    for axis in cells[panels:]:
        axis.set_visible(False)
    return figure, [cells[:panels]]


def _head(axes: Sequence[Axes], panels: Sequence[str], notes: Mapping[str, str]) -> None:
    for axis, panel in zip(axes, panels, strict=True):
        note = "\n".join(textwrap.wrap(notes.get(panel, ""), NOTE))
        axis.set_title(f"{panel}\n{note}" if note else panel, fontsize=7 if note else None)


def _foot(axes: Sequence[Axes], lowest: bool) -> None:
    for axis in axes:
        integer_axis(axis, "layer $l$" if lowest else "")
        axis.tick_params(labelbottom=lowest)


def _draw_row(
    axes: Sequence[Axes],
    frame: pd.DataFrame,
    quantity: Quantity,
    panels: Sequence[str],
    labels: Sequence[str],
) -> None:
    bands = _bands(frame, quantity)
    logarithmic = quantity.log and (frame[quantity.column] > 0).any()
    for axis, panel in zip(axes, panels, strict=True):
        rows = frame[frame["panel"] == panel]
        _draw(axis, rows, bands[bands["panel"] == panel], quantity, labels)
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel(quantity.label)
        if logarithmic:
            axis.set_yscale("log")


def _bands(frame: pd.DataFrame, quantity: Quantity) -> pd.DataFrame:
    """Mean and interval over seeds of each panel, label and layer."""
    values = frame[quantity.column]
    proper = np.isfinite(values) & ((values > 0) | (not quantity.log))
    keys = ["panel", "label", "layer"]
    return interval(frame[proper], keys, quantity.column, quantity.log).reset_index()


def _draw(
    axis: Axes,
    rows: pd.DataFrame,
    bands: pd.DataFrame,
    quantity: Quantity,
    labels: Sequence[str],
) -> None:
    for label, line in rows.groupby("label", sort=False):
        look = style.look(labels.index(str(label)))
        band = bands[bands["label"] == label]
        axis.plot(band["layer"], band["mean"], **look)
        axis.fill_between(
            band["layer"], band["low"], band["high"], color=look["color"], alpha=0.2, lw=0
        )
        _mark(axis, line, quantity, labels.index(str(label)))
    if rows[quantity.column].isna().all():
        axis.text(0.5, 0.5, "does not exist here", ha="center", transform=axis.transAxes)


EXTREMES: tuple[tuple[str, float, str], ...] = (("v", 0.03, "zero"), ("x", 0.97, "not finite"))
"""Marker, height in the panel, and meaning."""
STEP = 0.03


def _mark(axis: Axes, line: pd.DataFrame, quantity: Quantity, index: int) -> None:
    """The marks of a line: those of several lines stand above each other, inwards."""
    values = line[quantity.column]
    # pandas reads null and NaN alike; where a count of the gradient stands, a step was measured
    extremes = ((values == 0) & quantity.log, np.isinf(values) | _lost(line, quantity))
    for (marker, height, _), where in zip(EXTREMES, extremes, strict=True):
        layers = line.loc[where, "layer"].unique()
        if len(layers):
            inwards = STEP * index if height < 0.5 else -STEP * index
            heights = np.full(len(layers), height + inwards)
            at_the_edge = axis.get_xaxis_transform()
            axis.plot(
                layers, heights, marker, color=style.look(index)["color"], transform=at_the_edge
            )


def _lost(line: pd.DataFrame, quantity: Quantity) -> pd.Series:
    measured = line["measured"] if "measured" in line else pd.Series(False, index=line.index)
    return line[quantity.column].isna() & measured & (quantity.column == "backprop_norm")


def _legend(
    figure: Figure, frame: pd.DataFrame, quantities: Sequence[Quantity], labels: Sequence[str]
) -> None:
    handles = [Line2D([], [], **style.look(index)) for index in range(len(labels))]
    words = list(labels)
    logs = frame[[quantity.column for quantity in quantities if quantity.log]]
    for (marker, _, meaning), there in zip(
        EXTREMES, ((logs == 0).any(axis=None), np.isinf(logs).any(axis=None)), strict=True
    ):
        if there:
            handles.append(Line2D([], [], marker=marker, color="black", linestyle=""))
            words.append(meaning)
    style.legend_below(figure, handles, words)

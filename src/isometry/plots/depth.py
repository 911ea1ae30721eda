"""Quantities against depth: a row of panels for each, one line an option, its seeds as a band."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    shape = (len(quantities), len(panels))
    if len(quantities) == 1:
        shape = (math.ceil(len(panels) / PANELS_A_ROW), min(len(panels), PANELS_A_ROW))
    figure, axes = style.figure(*shape, (3.4, 3.3), sharey="row")
    grid = axes.ravel() if len(quantities) == 1 else axes
    for row, quantity in enumerate(quantities):
        for index, panel in enumerate(panels):
            axis = grid[index] if len(quantities) == 1 else grid[row, index]
            _draw(axis, frame[frame["panel"] == panel], quantity, labels)
            note = "\n".join(textwrap.wrap((notes or {}).get(panel, ""), NOTE))
            axis.set_title(f"{panel}\n{note}" if note else panel, fontsize=7 if note else None)
            if index % shape[1] == 0:
                axis.set_ylabel(quantity.label)
            if quantity.log and (frame[quantity.column] > 0).any():
                axis.set_yscale("log")
    for axis in axes.ravel()[len(panels) :] if len(quantities) == 1 else ():
        axis.set_visible(False)
    _legend(figure, frame, quantities, labels)
    if title:
        figure.suptitle(title)
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, quantity: Quantity, labels: Sequence[str]) -> None:
    for label, line in rows.groupby("label", sort=False):
        look = style.look(labels.index(str(label)))
        values = line[quantity.column]
        proper = np.isfinite(values) & ((values > 0) | (not quantity.log))
        band = interval(line[proper], "layer", quantity.column, quantity.log)
        axis.plot(band.index, band["mean"], **look)
        axis.fill_between(
            band.index, band["low"], band["high"], color=look["color"], alpha=0.2, lw=0
        )
        _mark(axis, line, quantity, look["color"])
    if rows[quantity.column].isna().all():
        axis.text(0.5, 0.5, "does not exist here", ha="center", transform=axis.transAxes)
    integer_axis(axis, "layer $l$")


EXTREMES: tuple[tuple[str, float, str], ...] = (("v", 0.03, "zero"), ("x", 0.97, "not finite"))
"""Marker, height in the panel, and meaning."""


def _mark(axis: Axes, line: pd.DataFrame, quantity: Quantity, colour: Any) -> None:
    values = line[quantity.column]
    # pandas reads null and NaN alike; where a count of the gradient stands, a step was measured
    extremes = ((values == 0) & quantity.log, np.isinf(values) | _lost(line, quantity))
    for (marker, height, _), where in zip(EXTREMES, extremes, strict=True):
        layers = line.loc[where, "layer"].unique()
        if len(layers):
            heights = np.full(len(layers), height)
            at_the_edge = axis.get_xaxis_transform()
            axis.plot(layers, heights, marker, color=colour, transform=at_the_edge)


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

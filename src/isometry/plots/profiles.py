"""The two pictures of a run: profiles against depth at a few steps, and a layer x step heatmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from isometry.plots import style
from isometry.plots.seeds import integer_axis

PROFILES = {
    "backprop_norm": r"backprop_norm $\sqrt{\langle\|\delta_l\|^2\rangle}$",
    "weight_grad_norm": r"weight_grad_norm $\|\partial L/\partial W_l\|$",
    "update_ratio": r"update_ratio $\|\Delta W_l\|/\|W_l\|$",
    "forward_second_moment": r"forward second moment $q_l$",
    "saturation": "share of saturated units",
}
"""Columns of the profile picture and their axis labels."""
SHARES = ("saturation",)
"""Columns whose axis goes from 0 to 1; those of the others are logarithmic."""


def chosen_steps(steps: list[int], count: int = 5) -> list[int]:
    """The first and the last step, and some between them, evenly over the recorded ones."""
    picked = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[i] for i in sorted(set(picked))]


def draw_profiles(
    frame: pd.DataFrame, title: str, prediction: Mapping[str, Any] | None = None
) -> Figure:
    """Value against layer, one panel a column of `PROFILES` that was measured, one line a step
    (dark: early).

    Args:
        frame: rows of a signal store; steps without a gradient are left out.
        title: above the panels.
        prediction: content of `prediction.json`; drawn as a dashed line through step 0's last
            hidden layer.
    """
    frame = frame.dropna(subset="backprop_norm")
    steps = chosen_steps(sorted(frame["step"].unique()))
    columns = [column for column in PROFILES if frame[column].notna().any()]
    figure, axes = style.figure(1, len(columns), (3.1, 3.1), sharex=True)
    for axis, column in zip(axes[0], columns, strict=True):
        _draw_steps(axis, frame, column, steps)
    first = axes[0, columns.index("backprop_norm")]
    _draw_predicted(first, frame, prediction)
    handles, labels = first.get_legend_handles_labels()
    drawn = [column for column in columns if column not in SHARES]
    if (frame.loc[frame["step"].isin(steps), drawn] == 0).any(axis=None):
        handles.append(Line2D([], [], **ZERO, color="black"))
        labels.append("zero")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return figure


def _draw_steps(axis: Axes, frame: pd.DataFrame, column: str, steps: Sequence[int]) -> None:
    """One panel: a line a step."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(steps)))
    share = column in SHARES
    for index, step in enumerate(steps):
        rows = frame[frame.step == step]
        if share:  # not every layer has a φ
            rows = rows.dropna(subset=column)
        shown = np.isfinite(rows[column]) & (share | (rows[column] > 0))
        look = {**style.look(index), "color": colours[index]}
        axis.plot(rows["layer"], rows[column].where(shown), **look, label=f"step {step}")
        if not share:
            _mark_zeros(axis, rows["layer"][rows[column] == 0], look["color"], index)
    axis.set_ylabel(PROFILES[column])
    if share:
        axis.set_ylim(-0.03, 1.03)
    elif (frame.loc[frame["step"].isin(steps), column] > 0).any():
        axis.set_yscale("log")
    integer_axis(axis, "layer $l$")


ZERO: dict[str, Any] = {"marker": "v", "linestyle": ""}


def _mark_zeros(axis: Axes, layers: pd.Series, colour: Any, index: int) -> None:
    """A zero has no place on a logarithmic axis: it stands at its lower end."""
    heights = np.full(len(layers), 0.03 * (1 + index))
    at_the_edge = axis.get_xaxis_transform()
    axis.plot(layers, heights, **ZERO, color=colour, transform=at_the_edge)


def _draw_predicted(axis: Axes, frame: pd.DataFrame, prediction: Mapping[str, Any] | None) -> None:
    """The profile that theory expects at initialization, its level anchored at the measured last
    hidden layer of step 0.
    """
    start = frame[(frame.step == 0) & (frame.kind == "hidden")].sort_values("layer")
    if prediction is None or start.empty or not start.backprop_norm.iloc[-1] > 0:
        return
    logs = np.array(prediction["log_backprop_norm"], dtype=float)
    with np.errstate(over="ignore", under="ignore"):
        line = start.backprop_norm.iloc[-1] * np.exp(logs)
    if np.isfinite(line).any():
        axis.plot(
            prediction["layer"],
            np.where(line > 0, line, np.nan),
            "k--",
            lw=1.2,
            label="predicted, step 0",
            zorder=5,
        )


def draw_heatmap(frame: pd.DataFrame, title: str, column: str = "backprop_norm") -> Figure:
    """log10 of a column over layer (down) and recorded step (across); zero is white, NaN and
    infinities are red.

    Args:
        frame: rows of a signal store.
        title: above the picture.
        column: a positive column.
    """
    # pandas reads null and NaN alike; a count is never NaN, so it tells steps with a gradient from
    # the row of final weights
    trained = frame.loc[frame["nonfinite"].notna(), "step"].unique()
    table = frame[frame["step"].isin(trained)].pivot(index="layer", columns="step", values=column)
    values = table.to_numpy(dtype=float)
    good = np.isfinite(values) & (values > 0)
    figure, ((axis,),) = style.figure(1, 1, (6.4, 3.4))
    axis.grid(False)
    axis.imshow(
        np.where(np.isfinite(values), np.nan, 1.0),
        cmap=matplotlib.colors.ListedColormap(["#D00000"]),
        aspect="auto",
    )
    norm = (
        LogNorm(values[good].min(), max(values[good].max(), values[good].min() * 1.001))
        if good.any()
        else None
    )
    image = axis.imshow(
        np.where(good, values, np.nan),
        norm=norm,
        cmap="viridis",
        aspect="auto",
        interpolation="nearest",
    )
    figure.colorbar(image, ax=axis, label=PROFILES.get(column, column))
    across = np.linspace(0, len(table.columns) - 1, min(6, len(table.columns))).round().astype(int)
    axis.set_xticks(across, [str(table.columns[i]) for i in across])
    down = np.linspace(0, len(table.index) - 1, min(10, len(table.index))).round().astype(int)
    axis.set_yticks(down, [str(table.index[i]) for i in down])
    axis.set(
        xlabel="recorded optimizer step",
        ylabel="layer $l$",
        title=f"{title}\nred: not finite, white: zero",
    )
    return figure

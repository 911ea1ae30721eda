"""The figures of a study: what its runs show against depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from isometry.compare.comparison import Comparison
from isometry.compare.table import Configuration
from isometry.compare.words import where_diverged
from isometry.errors import bad_value
from isometry.plots.depth import Quantity, against_depth
from isometry.plots.seeds import seed_lines
from isometry.plots.style import figure, legend_below, look, save

GRADIENT = (
    Quantity("backprop_norm", r"backprop_norm $\sqrt{\langle\|\delta_l\|^2\rangle}$, step 0"),
)
OTHERS = (
    Quantity("activation_var", "variance of activations, step 0"),
    Quantity("saturation", "share of saturated units, step 0", log=False),
    Quantity("displacement", r"displacement $\|W_t - W_0\|/\|W_0\|$, at the end", last=True),
)
FIGURES = {
    "gradient_against_depth": (GRADIENT, "Does the gradient reach the first layer?"),
    "signals_against_depth": (OTHERS, "What the layers do, and how far their weights went"),
}
"""Name of the file to what it shows, and its title."""


def draw_study(folder: Path, found: Comparison) -> list[Path]:
    """Draw both figures of a comparison into a folder.

    Returns:
        their paths, none where no run got as far as step 0.
    """
    frame = profiles(found)
    if frame.empty:
        return []
    notes = divergences(found)
    return [
        save(against_depth(frame, quantities, title, notes), folder / name)[0]
        for name, (quantities, title) in FIGURES.items()
    ]


def profiles(found: Comparison) -> pd.DataFrame:
    """`panel`, `label`, `seed`, `layer` of the hidden layers, and each quantity at its step."""
    hidden = found.hidden()
    keys = ["row", "run_id", "layer"]
    start = hidden[hidden["step"] == 0].set_index(keys)
    frame = pd.DataFrame({"measured": start["nonfinite"].notna()})
    for quantity in (*GRADIENT, *OTHERS):
        values = start[quantity.column]
        if quantity.last:
            ended = hidden["state"] != "diverged"  # such a run has no last value
            known = hidden[hidden[quantity.column].notna() & ended]
            last = known.drop_duplicates(keys, keep="last")  # rows come by step
            values = last.set_index(keys)[quantity.column]
        frame[quantity.column] = values
    rows = found.table.rows
    frame = frame.reset_index().rename(columns={"run_id": "seed"})
    names = {"panel": panel_of, "label": label_of}
    return frame.assign(
        **{key: frame["row"].map(lambda n, of=of: of(rows[int(n)])) for key, of in names.items()}
    )


def panel_of(row: Configuration) -> str:
    """The panel of a configuration: its first factor."""
    return next(iter(row.words), "all runs")


def label_of(row: Configuration) -> str:
    """Its line in the panel: all the others."""
    return ", ".join(row.words[1:]) or "mean over seeds"


def divergences(found: Comparison) -> dict[str, str]:
    """Panel to what diverged in it."""
    notes: dict[str, list[str]] = {}
    for row in found.table.rows:
        notes.setdefault(panel_of(row), []).extend(_divergences(row))
    return {panel: "; ".join(lines) for panel, lines in notes.items()}


def _divergences(row: Configuration) -> Iterator[str]:
    diverged = row.runs[row.runs["state"] == "diverged"]
    if len(diverged):
        many = f"{len(diverged)} of {len(row.runs)} " if len(row.runs) > 1 else ""
        short = ", ".join(word.rpartition(".")[2] for word in row.words[1:]) or "all"
        yield f"{short}: {many}diverged {where_diverged(diverged)}"


# ---- a metric against a number -------------------------------------------------------------------


MOST_TICKS = 8
"""Values of a factor that are written at its axis; of more the axis has ticks of its own."""


def numbers_of(found: Comparison, x: str) -> pd.Series:
    """A factor's value of each run.

    Raises:
        UserError: for a factor that is none, or no number.
    """
    if x not in found.table.factors:
        allowed = ", ".join(found.table.factors) or "none"
        raise bad_value("x", x, f"is no factor of the rows; factors are {allowed}")
    values = pd.to_numeric(found.table.runs[x], errors="coerce")
    if values.isna().any():
        words = found.table.runs[x][values.isna()].iloc[0]
        raise bad_value("x", x, f"must be a factor of numbers; one of its values is {words}")
    return values


def draw_against(folder: Path, found: Comparison, x: str) -> Path:
    """The first metric against a factor of numbers, one line for each of the other configurations.

    Raises:
        UserError: for a factor that is none, or no number.
    """
    metric = found.table.metrics[0]
    values = numbers_of(found, x)
    drawing, axes = figure(1, 1, (5.2, 3.6))
    axis = axes[0, 0]
    frame = pd.concat(_line(row, x, metric.name) for row in found.table.rows)
    seed_lines(axis, frame, "x", "y", "label", log=metric.geometric)
    _mark_diverged(axis, frame)
    ticks = sorted(values.unique())
    if min(ticks) > 0 and max(ticks) > DECADE * min(ticks):
        axis.set_xscale("log")
    if len(ticks) <= MOST_TICKS:
        axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel=x, ylabel=metric.name)
    legend_below(drawing, *axis.get_legend_handles_labels())
    return save(drawing, folder / f"{metric.name}_against_{x}".replace(".", "_"))[0]


DECADE = 10
"""An axis that covers more is logarithmic."""


def _line(row: Configuration, x: str, y: str) -> pd.DataFrame:
    rest = [word for word in row.words if not word.startswith(f"{x}=")]
    frame = pd.DataFrame({"x": row.runs[x].astype(float), "y": row.runs[y].astype(float)})
    diverged = (row.runs["state"] == "diverged") & frame["y"].isna()
    return frame.assign(label=", ".join(rest) or y, seed=row.runs["seed"], diverged=diverged)


def _mark_diverged(axis: Axes, frame: pd.DataFrame) -> None:
    """Crosses at the lower edge where runs diverged and have no value."""
    labels = list(dict.fromkeys(frame["label"]))
    lost = frame[frame["diverged"]]
    for index, label in enumerate(labels):
        places = lost.loc[lost["label"] == label, "x"].unique()
        if len(places):
            heights = np.full(len(places), 0.03 + 0.04 * index)
            at_the_edge = axis.get_xaxis_transform()
            colour = look(index)["color"]
            words = f"{label}: diverged"
            axis.plot(places, heights, "x", color=colour, transform=at_the_edge, label=words)

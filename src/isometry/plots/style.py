"""The one style: Okabe-Ito colours (safe for colour-blind readers), and line styles and markers
that survive grey print.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
LINES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (6, 1)),
    (0, (6, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (3, 3)),
)
"""As many as colours: no two lines are told apart by colour alone."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

RC: Any = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
}


def figure(rows: int, columns: int, size: tuple[float, float], **kwargs: Any) -> tuple[Figure, Any]:
    """A figure and its axes [rows, columns] in the house style; `size` is of one panel, in
    inches.
    """
    matplotlib.rcParams.update(RC)
    # without pyplot: no global state; a poster of panels need not have the resolution of one
    dpi = 150 if rows * columns <= POSTER else 90
    drawing = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", dpi=dpi)
    return drawing, drawing.subplots(rows, columns, squeeze=False, **kwargs)


def look(index: int) -> dict[str, Any]:
    """Colour, line and marker of the index-th line; from the ninth on a colour comes again with
    another line and marker.
    """
    again = index // len(COLOURS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[(index + again) % len(LINES)],
        "marker": MARKERS[(index + again) % len(MARKERS)],
    }


POSTER = 24
"""Panels."""
CHARACTERS = 12
"""Of a legend, in an inch."""


def legend_below(figure: Figure, handles: Sequence[Any], words: Sequence[str]) -> None:
    """A legend under the panels, in as many columns as fit."""
    room = figure.get_figwidth() * CHARACTERS
    columns = int(room / (max(map(len, words), default=1) + 6))
    columns = max(1, min(columns, len(words)))
    figure.legend(handles, words, loc="outside lower center", ncols=columns)


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write the figure whole in each format; returns the paths."""
    from isometry.runs.files import write_whole

    paths = [path.with_suffix(f".{suffix}") for suffix in formats]
    for target in paths:
        write_whole(target, lambda temporary: figure.savefig(temporary))
    return paths

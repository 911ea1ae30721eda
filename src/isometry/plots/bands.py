"""Measured points on the predicted line with its band, against depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isometry.plots import style

PANELS = {
    "forward_second_moment": r"forward second moment $q_l$",
    "backprop_norm": r"backprop_norm $\sqrt{\langle\|\delta_l\|^2\rangle}$",
    "sample_weight_grad_rms": r"per-example $\|\partial\ell/\partial W_l\|$",
}


def draw_diagnosis(diagnosis: dict[str, Any]) -> Figure:
    """Three panels of log10 of a quantity against the layer: points measured, line predicted, band
    95 % of seeds.

    Args:
        diagnosis: the content of `diagnosis.json`.
    """
    rows = diagnosis["layers"]
    layers = [row["layer"] for row in rows]
    figure, axes = style.figure(1, len(PANELS), (3.4, 3.3))
    for axis, (name, label) in zip(axes[0], PANELS.items(), strict=True):
        line = np.array(
            [
                np.nan if row[f"{name}_predicted_log10"] is None else row[f"{name}_predicted_log10"]
                for row in rows
            ]
        )
        std = np.array(
            [0.0 if row[f"{name}_std"] is None else row[f"{name}_std"] for row in rows]
        ) / np.log(10)
        measured = np.array([np.nan if not row[name] else np.log10(row[name]) for row in rows])
        axis.fill_between(
            layers,
            line - 1.96 * std,
            line + 1.96 * std,
            color="#56B4E9",
            alpha=0.3,
            label="95 % of seeds",
            lw=0,
        )
        axis.plot(layers, line, color="#0072B2", label="predicted")
        axis.plot(layers, measured, "o", color="#D55E00", label="measured", markersize=3)
        axis.set(xlabel="layer $l$", ylabel=r"$\log_{10}$ " + label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if np.isnan(line).all() and np.isnan(measured).all():
            axis.text(0.5, 0.5, "does not exist here", ha="center", transform=axis.transAxes)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(diagnosis["run_id"])
    return figure

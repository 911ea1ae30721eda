"""The rows of the recorder's buffer, and how the measured columns follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isometry.columns import MEASURED

FORWARD = (
    *("preactivation_mean", "preactivation_var", "saturation"),
    *("activation_mean", "activation_var", "dead"),
)
BACKPROP = ("backprop_norm", "sample_weight_grad_rms")
SINGLE = (
    *("weight_norm", "displacement", "weight_grad_norm", "nonfinite", "bias_grad_norm"),
    *("weight_grad_norm_clipped", "update_norm"),
)
WATCH = ("watched_forward", "watched_gradient", "watched_loss")

ROW = {name: index for index, name in enumerate((*FORWARD, *BACKPROP, *SINGLE, *WATCH))}
"""The buffer's rows. `dead` holds the share of living units there, and `BACKPROP` mean squares;
`DERIVED` have no row.
"""

MEASURES = len(ROW) - len(WATCH)
"""The rows of a recorded step come first, those of the watch behind them."""

DERIVED = {"forward_second_moment": "preactivation_mean", "update_ratio": "update_norm"}
"""Columns that follow from others, and exist where those do."""

COLUMN = {name: index for index, name in enumerate(MEASURED)}


def columns(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of the buffer [S, rows, L] as the columns `MEASURED`, [S, columns, L]."""
    values = np.empty((len(rows), len(MEASURED), rows.shape[2]))
    with np.errstate(all="ignore"):
        row = {name: rows[:, index] for name, index in ROW.items()}
        row |= {name: np.sqrt(row[name]) for name in BACKPROP} | {"dead": 1.0 - row["dead"]}
        row["forward_second_moment"] = row["preactivation_var"] + row["preactivation_mean"] ** 2
        row["update_ratio"] = row["update_norm"] / row["weight_norm"]
    for name, index in COLUMN.items():
        values[:, index] = row[name]
    return values

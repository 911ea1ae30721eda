"""φ and φ' of activations, where they saturate, and the variance they let through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isometry.activations import SATURATION_SHARE
from isometry.plots import style
from isometry.theory.meanfield import second_moment

VARIANCES = np.geomspace(1e-3, 1e3, 61)


def draw_activations(activations: Sequence[Any], reach: float = 8.0) -> Figure:
    """φ, φ' and E φ(√q z)² against q, a line an activation.

    Args:
        activations: each has `name`, `phi`, `phi_prime`, `slope_max` and `kinks`.
        reach: half width of the axis of φ and φ'.
    """
    z = np.linspace(-reach, reach, 4001)
    figure, ((left, middle, right),) = style.figure(1, 3, (3.4, 3.1))
    for index, activation in enumerate(activations):
        look = style.look(index) | {"marker": ""}
        left.plot(z, activation.phi(z), label=activation.name, **look)
        _draw_slope(middle, z, activation, look)
        let_through = [second_moment(activation, float(q)) for q in VARIANCES]
        right.plot(VARIANCES, let_through, **look)
    left.set(xlabel="preactivation $z$", ylabel=r"$\varphi(z)$", title=r"$\varphi$")
    middle.set(xlabel="preactivation $z$", title=r"$\varphi'$; broad: saturated")
    right.plot(VARIANCES, VARIANCES, color="0.7", linewidth=0.8, zorder=0)
    right.set(xscale="log", yscale="log", xlabel="variance in, $q$", title="second moment out")
    right.set(ylabel=r"$E\,\varphi(\sqrt{q}\,z)^2$, $z \sim N(0, 1)$")
    left.legend(fontsize=8)
    figure.supxlabel(
        r"saturated: $|\varphi'|$ under 5 % of its maximum; grey: out = in", fontsize=8
    )
    return figure


def _draw_slope(axis: Axes, z: np.ndarray, activation: Any, look: dict[str, Any]) -> None:
    """φ', broad where it is small: intervals without end (a sine) draw like any other."""
    slope = activation.phi_prime(z)
    bound = SATURATION_SHARE * activation.slope_max if np.isfinite(activation.slope_max) else 0.0
    small = np.abs(slope) < bound
    colour = look["color"]
    axis.plot(z, np.where(small, slope, np.nan), color=colour, linewidth=5, alpha=0.35)
    axis.plot(z, slope, **look)

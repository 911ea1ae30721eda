"""φ and φ' of an activation, with the stretches on which it saturates."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from isometry.plots import style


def draw_activation(activation: Any, reach: float = 8.0) -> Figure:
    """φ on the left, φ' on the right; shaded where |φ'| is under 5 % of its maximum.

    Args:
        activation: has `name`, `phi`, `phi_prime`, `slope_max` and `saturated_intervals`.
        reach: half width of the axis.
    """
    z = np.linspace(-reach, reach, 2001)
    figure, ((left, right),) = style.figure(1, 2, (3.6, 3.0))
    left.plot(z, activation.phi(z), color=style.COLOURS[0])
    left.set(xlabel="preactivation $z$", ylabel=r"$\varphi(z)$", title=activation.name)
    right.plot(z, activation.phi_prime(z), color=style.COLOURS[1], linestyle="--")
    right.set(
        xlabel="preactivation $z$",
        ylabel=r"$\varphi'(z)$",
        title=rf"largest slope {activation.slope_max:.4g}",
    )
    for axis in (left, right):
        for low, high in activation.saturated_intervals or ():
            axis.axvspan(max(low, -reach), min(high, reach), color="0.88", zorder=0)
    if activation.saturated_intervals:
        where = ", ".join(
            f"[{low:.3g}, {high:.3g}]" for low, high in activation.saturated_intervals
        )
        figure.supxlabel(
            rf"grey: saturated, $|\varphi'|$ under 5 % of its maximum, $z$ in {where}", fontsize=8
        )
    return figure

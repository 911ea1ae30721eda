"""The phase diagram of an activation: χ₁ over σ_w and σ_b, and the line where it is 1 (Poole et al.
2016).
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from isometry.plots import style
from isometry.theory.meanfield import Nonlinearity
from isometry.theory.moments import HIGHEST, LOWEST, moments_of

ITERATIONS = 400
"""Layers after which a length has settled everywhere but within 1/400 of the critical line."""


def chi_grid(
    phi: Nonlinearity, sigma_w: NDArray[np.float64], sigma_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """log₁₀ χ₁ [len(sigma_b), len(sigma_w)], lengths iterated from q = 1."""
    with np.errstate(divide="ignore"):
        weights = 2 * np.log(sigma_w)[None, :]
        biases = 2 * np.log(sigma_b)[:, None]
    grid = np.linspace(LOWEST, HIGHEST, 4001)
    # linear interpolation between so many points is finer than a pixel
    moments = moments_of(phi).at(grid)
    log_q = np.zeros((len(sigma_b), len(sigma_w)))
    for _ in range(ITERATIONS):
        log_q = np.clip(
            np.logaddexp(weights + np.interp(log_q, grid, moments.log_p), biases), LOWEST, HIGHEST
        )
    chi: NDArray[np.float64] = (weights + np.interp(log_q, grid, moments.log_slope)) / np.log(10)
    return chi


def draw_phase_diagram(
    phi: Nonlinearity, sigma_w_max: float = 4.0, sigma_b_max: float = 1.0, points: int = 81
) -> Figure:
    """Colour: log₁₀ χ₁, blue where gradients vanish (ordered), red where they explode (chaotic);
    black line: χ₁ = 1.
    """
    sigma_w = np.linspace(sigma_w_max / points, sigma_w_max, points)
    sigma_b = np.linspace(0.0, sigma_b_max, points // 2 + 1)
    chi = chi_grid(phi, sigma_w, sigma_b)
    reach = float(np.clip(np.abs(chi).max(), 0.1, 1.0))
    figure, ((axis,),) = style.figure(1, 1, (4.6, 3.6))
    axis.grid(False)
    norm = TwoSlopeNorm(0.0, -reach, reach)
    image = axis.pcolormesh(
        sigma_w, sigma_b, np.clip(chi, -reach, reach), cmap="RdBu_r", norm=norm, shading="nearest"
    )
    if chi.min() < 0 < chi.max():
        axis.contour(sigma_w, sigma_b, chi, levels=[0.0], colors="black", linewidths=1.5)
    for words, sign in (("ordered:\ngradients vanish", -1), ("chaotic:\ngradients explode", 1)):
        inside = np.argwhere(sign * chi > 0.02)
        if len(inside) > 20:
            b = inside[:, 0].mean()
            w = np.clip(inside[:, 1].mean(), 0.18 * points, 0.82 * points)  # all of it in the axes
            place = (sigma_w[int(w)], sigma_b[int(b)])
            axis.text(
                *place,
                words,
                ha="center",
                va="center",
                fontsize=8,
                bbox={"fc": "white", "alpha": 0.7, "lw": 0},
            )
    figure.colorbar(image, ax=axis, label=r"$\log_{10}\chi_1$ (black line: $\chi_1 = 1$)")
    axis.set(xlabel=r"$\sigma_w$", ylabel=r"$\sigma_b$", title=f"{phi.name}: phase diagram")
    return figure

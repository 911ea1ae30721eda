"""Pennington, Schoenholz & Ganguli 2017, Resurrecting the sigmoid in deep learning
(arXiv:1711.04735): dynamical isometry, the singular values of the input-output Jacobian of deep
networks at initialization.

With s the singular values, μ_k = E φ'(√q* z)^{2k} and L layers at criticality, Var(s²)/E[s²]² = L
(μ₂/μ₁² - 1 - s₁), s₁ = 0 for orthogonal and -1 for Gaussian weights (their eq. 22, in the limit of
infinite width): only orthogonal weights, with φ near its linear regime, keep a deep network
isometric. `quick`: N = 400. Not reproduced: training speed (their figures 4 to 6).

The one small singular value of each tanh network belongs to the direction of h itself: there the
length map rules, not χ, and it pulls every length back to q*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from isometry.figures.claims import Estimate, over_seeds
from isometry.figures.lab import Lab
from isometry.figures.papers.poole2016 import as_batch, gaussian_rows
from isometry.initialization.jacobian import jacobian_singular_values
from isometry.plots import style
from isometry.theory.meanfield import second_moment, slope_moment


@dataclass
class Spectrum:
    """Histograms of s for several networks.

    Args:
        cases: for each name its `activation`, `weights` (gaussian or orthogonal), `q_star` and
            `layers`.
        width: N.
    """

    cases: dict[str, dict[str, object]]
    width: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        return pd.concat([self._one(lab, name, seeds) for name in self.cases], ignore_index=True)

    def _one(self, lab: Lab, name: str, seeds: Sequence[int]) -> pd.DataFrame:
        case = self.cases[name]
        phi = lab.activation(str(case["activation"]))
        q = float(str(case["q_star"]))
        layers = int(str(case["layers"]))
        mu = slope_moment(phi, q)
        sigma_w2 = 1 / mu  # critical at q: χ₁ = 1
        sigma_b2 = q - sigma_w2 * second_moment(phi, q)
        weights = {"gaussian": "initializer=gaussian", "orthogonal": "initializer=orthogonal"}[
            str(case["weights"])
        ]
        scale = "sigma_w" if case["weights"] == "gaussian" else "gain"
        overrides = [
            f"activation={case['activation']}",
            weights,
            f"initializer.{scale}={math.sqrt(sigma_w2)}",
        ]
        overrides += [f"initializer.sigma_b={math.sqrt(max(0.0, sigma_b2))}"]
        # ∂h_{L+1}/∂h_1 passes φ and weights of L layers; one more layer is the readout
        overrides += [f"model.depth={layers + 2}", f"model.width={self.width}"]
        image = as_batch(gaussian_rows(1, self.width))[0]
        image = (
            image
            / image.square().mean().sqrt()
            * math.sqrt(max(0.0, (q - max(0.0, sigma_b2)) / sigma_w2))
        )
        frames = []
        for seed, network in lab.networks(overrides, seeds, (1, 1, self.width)):
            values = jacobian_singular_values(network, image)
            frames.append(pd.DataFrame({"s": values, "seed": seed}))
        expected = layers * (slope_moment(phi, q, 4) / mu**2 - 1 + (case["weights"] == "gaussian"))
        return pd.concat(frames).assign(variant=name, expected=expected)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, len(self.cases), (2.5, 2.7))
        for index, (axis, name) in enumerate(zip(axes[0], self.cases, strict=True)):
            rows = data[data["variant"] == name]
            variance = rows["expected"].iloc[0]
            edge = self.edge(name)
            axis.hist(
                rows["s"],
                bins=np.linspace(0, 1.05 * max(1.3, rows["s"].max()), 60),
                density=True,
                color=style.COLOURS[index],
            )
            if edge is not None:
                axis.axvline(
                    edge, color="black", linestyle="--", linewidth=1, label="theory's edge"
                )
                axis.legend(fontsize=7)
            if variance > 1:
                axis.set_yscale("log")
            axis.set(
                title=f"{name}\n" + rf"theory: Var$(s^2)/E[s^2]^2$ = {abs(variance):.3g}",
                xlabel="singular value $s$",
            )
            axis.title.set_fontsize(8)
        axes[0, 0].set_ylabel("density")
        return figure

    def edge(self, name: str) -> float | None:
        """The largest singular value in the limit of infinite width, where it has a closed form.

        Orthogonal linear: 1. Gaussian linear: s² ends at (L+1)^{L+1}/L^L, the edge of the
        Fuss-Catalan law.
        """
        case = self.cases[name]
        if case["activation"] != "linear":
            return None
        layers = int(str(case["layers"]))
        return (
            1.0
            if case["weights"] == "orthogonal"
            else math.sqrt((layers + 1) ** (layers + 1) / layers**layers)
        )

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        found = {}
        for name, rows in data.groupby("variant"):
            squares = rows.assign(square=rows["s"] ** 2).groupby("seed")["square"]
            relative = squares.var(ddof=0) / squares.mean() ** 2
            found[str(name).replace(" ", "-")] = over_seeds(
                relative.tolist(), float(rows["expected"].iloc[0])
            )
        return found

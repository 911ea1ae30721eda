"""Klambauer, Unterthiner, Mayr & Hochreiter 2017, Self-normalizing neural networks
(arXiv:1706.02515), theorem 1, on which figure 1 rests: the fixed point of SELU at σ_w = 1, to
which mean and variance of activations return whatever the input's are.

What the paper does not say: at that fixed point E φ'² = 1.0716, so gradients *grow* by 7 % a layer,
in ‖δ‖². `quick`: N = 512, depth 40. Not reproduced: the training curves of figure 1 (MNIST and
CIFAR-10 against batch norm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines


@dataclass
class SelfNormalizing:
    """Variance of activations, and δ², against l, from inputs of several scales.

    Args:
        scales: factors on the standardized digits.
        depth, width, batch: of the network.
        skip: layers at both ends that are left out of the rate.
    """

    scales: Sequence[float]
    depth: int
    width: int
    batch: int
    skip: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        overrides = [
            "activation=selu",
            "initializer=lecun_normal",
            f"model.depth={self.depth}",
            f"model.width={self.width}",
        ]
        images, labels = lab.digits(self.batch)
        frames = []
        for scale in self.scales:
            found = lab.profiles({f"{scale:g}": overrides}, seeds, (scale * images, labels))
            frames.append(found[found["hidden"]])
        found = pd.concat(frames, ignore_index=True)
        return found[
            ["variant", "seed", "layer", "activation_mean", "activation_var", "backprop_norm"]
        ]

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.5, 3.0))
        left, right = axes[0]
        seed_lines(left, data, "layer", "activation_var", "variant", log=True, markevery=4)
        left.axhline(1, color="black", linestyle=":", linewidth=0.9)
        left.set_ylabel("variance of activations")
        left.legend(title="scale of the input")
        top = data.groupby(["variant", "seed"])["backprop_norm"].transform("last")
        rows = data.assign(relative=(data["backprop_norm"] / top) ** 2)
        seed_lines(right, rows, "layer", "relative", "variant", log=True, markevery=4)
        layers = np.arange(1, self.depth)
        right.plot(
            layers, 1.0716 ** (layers[-1] - layers), color="black", linestyle=":", linewidth=0.9
        )
        right.set_ylabel(r"$\|\delta_l\|^2/\|\delta_{L-1}\|^2$ ")
        left.set_title("dotted: the fixed point")
        right.set_title("dotted: 1.0716 a layer")
        for axis in (left, right):
            integer_axis(axis, "layer $l$")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = data[data["layer"] > self.depth - 6].groupby("seed")
        unit = data[data["variant"] == "1"].pivot(
            index="seed", columns="layer", values="backprop_norm"
        )
        low = self.skip
        high = self.depth - self.skip
        logs = 2 * np.log(unit[low] / unit[high]) / (high - low)
        return {
            "mean": over_seeds(last["activation_mean"].mean().tolist()),
            "variance": over_seeds(last["activation_var"].mean().tolist()),
            "gradient": of_logs(logs.tolist()),
        }

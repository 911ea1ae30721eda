"""Balduzzi, Frean, Leary, Lewis, Ma & McWilliams 2017, The shattered gradients problem
(arXiv:1702.08591), figure 1: gradients of deep feedforward networks resemble white noise as a
function of the input.

Setting: scalar inputs, 256 points evenly in [-2, 2], relu layers of 200 units, He's weights; the
gradient of the output with
respect to the input, as a function of it; its autocorrelation at lag 1. With batch norm, deep
networks' gradients are shattered. A plain relu network without centering (here with small biases,
σ_b = 0.1) has gradients that stay correlated: with a scalar input its units nearly all switch close
to 0. So "correlations halve with every layer" does not hold in this setting unless batch norm
spreads the places where units switch. Not reproduced here: residual networks, whose models come
later; the paper's theorems' covariances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn

from isometry.figures.claims import Estimate, over_seeds
from isometry.figures.lab import Lab
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

NETWORKS = {
    "batch norm": ["normalization=batch"],
    "plain": ["normalization=none", "initializer.sigma_b=0.1"],
}


@dataclass
class ShatteredGradients:
    """Autocorrelation of the input gradient against depth, and two of the gradients.

    Args:
        depths: hidden layers.
        width: units.
        points: inputs in [-2, 2].
    """

    depths: Sequence[int]
    width: int
    points: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        frames = [self._one(lab, name, depth, seeds) for name in NETWORKS for depth in self.depths]
        return pd.concat(frames, ignore_index=True)

    def _one(self, lab: Lab, name: str, depth: int, seeds: Sequence[int]) -> pd.DataFrame:
        overrides = [
            "activation=relu",
            "initializer=he_normal",
            f"model.depth={depth + 1}",
            f"model.width={self.width}",
        ]
        frames = []
        for seed, network in lab.networks([*overrides, *NETWORKS[name]], seeds, (1, 1, 1)):
            x = torch.linspace(-2, 2, self.points, dtype=torch.float64)
            gradient = input_gradient(network, x)
            row = {
                "x": x.numpy(),
                "gradient": gradient / np.abs(gradient).max(),
                "lag1": lag_one(gradient),
            }
            frames.append(pd.DataFrame(row).assign(variant=name, depth=depth, seed=seed))
        return pd.concat(frames)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 3, (3.1, 2.9))
        deepest = max(self.depths)
        for axis, name in zip(axes[0], NETWORKS, strict=False):
            for index, depth in enumerate((min(self.depths), deepest)):
                rows = data[
                    (data["variant"] == name)
                    & (data["depth"] == depth)
                    & (data["seed"] == data["seed"].min())
                ]
                look = {**style.look(index), "marker": "", "linewidth": 0.9}
                axis.plot(rows["x"], rows["gradient"], label=f"{depth} hidden layers", **look)
            axis.set(title=name, xlabel="input $x$", ylabel="$df/dx$ over its largest")
        axes[0, 0].legend(fontsize=7)
        seed_lines(
            axes[0, 2],
            data.groupby(["variant", "depth", "seed"])["lag1"].first().reset_index(),
            "depth",
            "lag1",
            "variant",
        )
        integer_axis(axes[0, 2], "hidden layers")
        axes[0, 2].set(ylabel="autocorrelation of $df/dx$ at lag 1", ylim=(-0.2, 1.05))
        axes[0, 2].legend()
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        lags = data.groupby(["variant", "depth", "seed"])["lag1"].first()
        few = 1
        many = 24
        return {
            "shallow-batch-norm": over_seeds(lags["batch norm", few].tolist()),
            "deep-batch-norm": over_seeds(lags["batch norm", many].tolist()),
            "deep-plain": over_seeds(lags["plain", many].tolist()),
        }


def input_gradient(network: nn.Module, x: Tensor) -> np.ndarray:
    """df/dx at each x: batch norm has the batch's statistics, and these are held, or what came out
    would be the gradient of a sum over all x.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(x.view(-1, 1, 1, 1))
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.eval()(x.view(-1, 1, 1, 1))[:, 0].sum(), x)
    found: np.ndarray = gradient.numpy()
    return found


def lag_one(values: np.ndarray) -> float:
    """Autocorrelation at lag 1 of a sequence, its mean taken out."""
    centred = values - values.mean()
    return float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())

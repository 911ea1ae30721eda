"""Xiao, Bahri, Sohl-Dickstein, Schoenholz & Pennington 2018, Dynamical isometry and a mean field
theory of CNNs (arXiv:1806.05393): delta-orthogonal kernels make deep convolutional tanh networks
isometric, Gaussian ones do not.

A network is isometric if all singular values of its Jacobian are equal: then ‖Jᵀg‖²/‖g‖² is the
same for every gradient g and every draw of the weights. We measure both: ‖δ_1‖²/‖δ_{L-1}‖², a line
a draw, with its spread (standard deviation of the logarithm), and the singular values of the
Jacobian of the first layers, as the standard deviation of their logarithms in one network. The
spread of Gaussian kernels is of order L/channels, that of their singular values is not: those of a
product of L Gaussian matrices differ by factors that grow with every layer, whatever their size.
With delta-orthogonal kernels δ² still falls smoothly with depth, the same in every draw: tanh at
σ_w = 1 approaches its critical point q* = 0 only as q_l ≈ 1/(1/q_0 + 2l). `quick`: 128 layers of 16
channels, circular padding, 6 x 6 pixels. Not reproduced: training of 10,000 layers (their figure
1); a network of 1,000 layers needs a GPU: isometry train model=convnet initializer=delta_orthogonal
model.depth=1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from scipy import stats
from torch import nn

from isometry.figures.claims import Estimate, over_seeds
from isometry.figures.lab import Lab
from isometry.initialization.jacobian import jacobian_singular_values
from isometry.initialization.observe import Observation
from isometry.plots import style
from isometry.plots.seeds import integer_axis

KERNELS = {
    "Gaussian": ["initializer=gaussian"],
    "delta-orthogonal": ["initializer=delta_orthogonal"],
}


@dataclass
class Isometry:
    """‖δ_l‖² against l, a line a draw, and how much it differs between draws.

    Args:
        depth: weight layers.
        channels: of every convolution.
        size: pixels a side.
        scale: of the input: small, so that tanh is near its critical point q* = 0.
        through: layers of the Jacobian.
    """

    depth: int
    channels: int
    size: int
    scale: float
    through: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        common = ["model=convnet", "activation=tanh", "model.stages=1", f"model.depth={self.depth}"]
        common += [f"model.channels={self.channels}"]
        generator = torch.Generator().manual_seed(0)
        # as many channels as the layers have, or the first kernel could not be orthogonal
        shape = (1, self.channels, self.size, self.size)
        images = self.scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        batch = images, torch.zeros(1, dtype=torch.int64)
        singular: dict[tuple[str, int], float] = {}

        def keep(name: str, seed: int, seen: Observation, network: nn.Module) -> None:
            values = jacobian_singular_values(network, images, last=self.through + 1)
            assert values is not None
            singular[name, seed] = float(np.log(values).std())

        variants = {name: [*common, *words] for name, words in KERNELS.items()}
        found = lab.profiles(variants, seeds, batch, each=keep)
        found = found[found["hidden"]].reset_index(drop=True)
        keys = zip(found["variant"], found["seed"], strict=True)
        found["singular"] = [singular[key] for key in keys]
        top = found.groupby(["variant", "seed"])["backprop_norm"].transform("last")
        ratio = (found["backprop_norm"] / top) ** 2
        return found[["variant", "seed", "layer", "singular"]].assign(ratio=ratio)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.4, 3.0), sharey=True)
        for index, (axis, name) in enumerate(zip(axes[0], KERNELS, strict=True)):
            for _, rows in data[data["variant"] == name].groupby("seed"):
                axis.plot(
                    rows["layer"],
                    rows["ratio"],
                    color=style.COLOURS[index],
                    linewidth=0.8,
                    alpha=0.7,
                )
            axis.set(yscale="log", title=name)
            integer_axis(axis, "layer $l$")
        axes[0, 0].set_ylabel(r"$\|\delta_l\|^2/\|\delta_{L-1}\|^2$, each draw")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        first = data[data["layer"] == 1]
        found = {}
        for name in KERNELS:
            rows = first[first["variant"] == name]
            found[name.lower()] = spread_of(np.log(rows["ratio"].to_numpy()))
            found[f"singular-{name.lower()}"] = over_seeds(rows["singular"].tolist())
        return found


def spread_of(logs: np.ndarray) -> Estimate:
    """Standard deviation, with the interval that the χ² distribution gives it: logarithms of long
    products are near normal.
    """
    free = len(logs) - 1
    found = float(logs.std(ddof=1))
    low, high = (found * np.sqrt(free / stats.chi2.ppf(p, free)) for p in (0.975, 0.025))
    return Estimate(found, float(low), float(high))

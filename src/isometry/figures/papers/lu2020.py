"""Lu, Shin, Su & Karniadakis 2020, Dying ReLU and initialization (arXiv:1903.06733): a network is
born dead.

With symmetric weights and no bias a relu layer of N units maps a given input to 0 with probability
2^{-N}; L layers do so with probability 1 - (1 - 2^{-N})^L, which bounds from above the probability
that this happens for *every* input, a network that is born dead (their theorem 1). We draw the
weights of many networks and count both: one given input, and 64 directions of the plane (without
biases a network is homogeneous: its directions are all its inputs). Not reproduced: the asymmetric
initialization that the paper proposes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing

from isometry.figures.claims import Estimate, share
from isometry.figures.lab import Lab
from isometry.initialization.observe import kept
from isometry.plots import style
from isometry.plots.seeds import integer_axis


@dataclass
class BornDead:
    """Share of networks that are dead, against depth, for several widths.

    Args:
        widths: N.
        layers: hidden layers.
        draws: networks of each seed.
    """

    widths: Sequence[int]
    layers: int
    draws: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        return pd.concat(
            [self._one(lab, width, seed) for width in self.widths for seed in seeds],
            ignore_index=True,
        )

    def _one(self, lab: Lab, width: int, seed: int) -> pd.DataFrame:
        overrides = [
            "activation=relu",
            "initializer=he_normal",
            f"model.depth={self.layers + 1}",
            f"model.width={width}",
        ]
        images = directions()
        one = np.zeros(self.layers)
        every = np.zeros(self.layers)
        for _, network in lab.redrawn(
            overrides, range(seed * self.draws, (seed + 1) * self.draws), (1, 1, 2)
        ):
            with torch.no_grad(), kept(network, len(images)) as seen:
                network(images)
            one += [not bool(a[0].any()) for a in seen.activations[:-1]]
            every += [not bool(a.any()) for a in seen.activations[:-1]]
        layers = range(1, self.layers + 1)
        counts = {"dead": one, "every": every, "draws": self.draws}
        return pd.DataFrame({"width": width, "layer": layers, **counts, "seed": seed})

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, ((axis,),) = style.figure(1, 1, (4.4, 3.3))
        for index, (width, rows) in enumerate(self._counts(data).groupby("width")):
            found = [
                share(int(dead), int(draws))
                for dead, draws in zip(rows["dead"], rows["draws"], strict=True)
            ]
            error = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
            look = {**style.look(index), "linestyle": ""}
            axis.errorbar(rows["layer"], [e.value for e in found], error, label=f"{width}", **look)
            expected = theory(int(rows["width"].iloc[0]), rows["layer"].to_numpy())
            axis.plot(rows["layer"], expected, color="black", linestyle=":", linewidth=0.9)
            axis.plot(rows["layer"], rows["every"] / rows["draws"], color="grey", linewidth=0.9)
        integer_axis(axis, "hidden layers $L$")
        axis.plot([], [], color="grey", linewidth=0.9, label="every input")
        axis.set(ylabel="share of dead networks", title=r"one input (dotted: $1-(1-2^{-N})^L$)")
        axis.legend(title="width $N$")
        return figure

    def _counts(self, data: pd.DataFrame) -> pd.DataFrame:
        return data.groupby(["width", "layer"])[["dead", "every", "draws"]].sum().reset_index()

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = self._counts(data).query(f"layer == {self.layers}")
        found = {}
        for width, dead, every, draws in last.drop(columns="layer").astype(int).to_numpy().tolist():
            bound = float(theory(width, self.layers))
            found[f"width-{width}"] = share(dead, draws, bound)
            of_bound = share(every, draws)
            found[f"every-{width}"] = Estimate(
                of_bound.value / bound, of_bound.low / bound, of_bound.high / bound
            )
        return found


def directions(count: int = 64) -> torch.Tensor:
    """Inputs of two units in so many directions, the diagonal first."""
    angles = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count) + torch.pi / 4
    return torch.stack([angles.cos(), angles.sin()], -1).view(count, 1, 1, 2)


def theory(width: int, layers: int | np.ndarray) -> np.ndarray:
    """1 - (1 - 2^{-N})^L."""
    return np.asarray(1 - (1 - 2.0**-width) ** layers)

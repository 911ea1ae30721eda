"""Lu, Shin, Su & Karniadakis 2020, Dying ReLU and initialization (arXiv:1903.06733): a network is
born dead.

With symmetric weights and no bias a relu layer of N units maps a given input to 0 with probability
2^{-N}; L layers do so with probability 1 - (1 - 2^{-N})^L (their theorem 1, which bounds from above
the probability that this happens for *every* input). We draw the weights of many networks and count
those whose output does not depend on the one given input. Not reproduced: the asymmetric
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
        image = torch.ones(1, 1, 1, 2, dtype=torch.float64)
        dead = np.zeros(self.layers)
        for _, network in lab.redrawn(
            overrides, range(seed * self.draws, (seed + 1) * self.draws), (1, 1, 2)
        ):
            with torch.no_grad(), kept(network, 1) as seen:
                network(image)
            dead += [not bool(a.any()) for a in seen.activations[:-1]]
        layers = range(1, self.layers + 1)
        return pd.DataFrame(
            {"width": width, "layer": layers, "dead": dead, "draws": self.draws, "seed": seed}
        )

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
        integer_axis(axis, "hidden layers $L$")
        axis.set(ylabel="share of networks born dead", title=r"dotted: $1-(1-2^{-N})^L$")
        axis.legend(title="width $N$")
        return figure

    def _counts(self, data: pd.DataFrame) -> pd.DataFrame:
        return data.groupby(["width", "layer"])[["dead", "draws"]].sum().reset_index()

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = self._counts(data).query(f"layer == {self.layers}")
        return {
            f"width-{width}": share(dead, draws, float(theory(width, self.layers)))
            for width, dead, draws in last[["width", "dead", "draws"]]
            .astype(int)
            .to_numpy()
            .tolist()
        }


def theory(width: int, layers: int | np.ndarray) -> np.ndarray:
    """1 - (1 - 2^{-N})^L."""
    return np.asarray(1 - (1 - 2.0**-width) ** layers)

"""Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016, Exponential expressivity in deep neural
networks through transient chaos (arXiv:1606.05340), figures 1 and 2: the length map and the
correlation map of random tanh networks.

Setting of the paper: N = 1000, σ_b = 0.3, σ_w = 1.3, 2.5, 4; both presets keep it. Points are means
over networks with 95 % bands, dotted lines the maps (their eqs. 3 and 5) iterated. Not reproduced:
curvature and expressivity (their figures 3 to 5).
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn

from isometry import activations
from isometry.figures.claims import Estimate, over_seeds
from isometry.figures.lab import Lab
from isometry.initialization.observe import Observation
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines
from isometry.theory.correlation import correlation_map
from isometry.theory.fixed_points import settled
from isometry.theory.meanfield import variance_map

PHI = activations.tanh()
LAST = 10
"""Layers at the end over which a fixed point is averaged."""


@functools.cache
def q_star(sigma_w: float, sigma_b: float) -> float:
    """The length that the network comes to."""
    return settled(PHI, sigma_w, sigma_b)


@dataclass
class Maps(ABC):
    """What both figures share.

    Args:
        sigma_w: weight scales.
        sigma_b: bias scale.
        width: N.
        depth: weight layers, the readout included.
    """

    sigma_w: Sequence[float]
    sigma_b: float
    width: int
    depth: int

    def variants(self) -> dict[str, list[str]]:
        common = ["activation=tanh", "initializer=gaussian", f"initializer.sigma_b={self.sigma_b}"]
        common += [f"model.width={self.width}", f"model.depth={self.depth}"]
        return {
            f"{sigma_w:g}": [*common, f"initializer.sigma_w={sigma_w}"] for sigma_w in self.sigma_w
        }

    def panels(self, data: pd.DataFrame, value: str, legend: str) -> Drawing:
        """One panel for each σ_w: lines by `start`, and what the map says of each."""
        figure, axes = style.figure(1, len(self.sigma_w), (2.9, 2.8))
        for axis, sigma_w in zip(axes[0], self.sigma_w, strict=True):
            rows = data[data["variant"] == f"{sigma_w:g}"]
            seed_lines(axis, rows, "layer", value, "start", markevery=max(1, self.depth // 15))
            for _, line in rows.groupby("start"):
                begin = float(line[line["layer"] == 1][value].mean())
                axis.plot(
                    *self.iterated(begin, sigma_w), color="black", linestyle=":", linewidth=0.9
                )
            axis.set_title(rf"$\sigma_w = {sigma_w:g}$")
            integer_axis(axis, "layer $l$")
        axes[0, -1].legend(title=legend, fontsize=7)
        return figure

    def iterated(self, begin: float, sigma_w: float) -> tuple[list[int], list[float]]:
        """Layers, and the values that the map gives from the first layer's on."""
        values = [begin]
        for _ in range(self.depth - 2):
            values.append(self.step(values[-1], sigma_w))
        return list(range(1, self.depth)), values

    @abstractmethod
    def step(self, value: float, sigma_w: float) -> float:
        """One layer of the map."""

    def end_of(self, data: pd.DataFrame, value: str) -> dict[str, list[float]]:
        """For each σ_w the mean over the last layers, by seed."""
        last = data[data["layer"] > self.depth - 1 - LAST]
        means = last.groupby(["variant", "seed"])[value].mean()
        return {str(name): rows.tolist() for name, rows in means.groupby("variant")}


class LengthMap(Maps):
    """Figure 1: q_l against l from several input lengths; all end at q*."""

    STARTS = (0.05, 1.0, 5.0, 15.0)

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        rows: list[pd.DataFrame] = []

        def keep(name: str, seed: int, seen: Observation, network: nn.Module) -> None:
            for layer, h in enumerate(seen.preactivations[:-1], start=1):
                q = h.detach().square().mean(1).tolist()
                rows.append(
                    pd.DataFrame(
                        {
                            "start": self.STARTS,
                            "q": q,
                            "layer": layer,
                            "variant": name,
                            "seed": seed,
                        }
                    )
                )

        x = gaussian_rows(len(self.STARTS), self.width)
        x = (
            x
            / x.square().mean(1, keepdim=True).sqrt()
            * torch.tensor(self.STARTS, dtype=torch.float64).sqrt()[:, None]
        )
        lab.profiles(self.variants(), seeds, as_batch(x), each=keep)
        return pd.concat(rows, ignore_index=True)

    def step(self, value: float, sigma_w: float) -> float:
        return variance_map(PHI, value, sigma_w, self.sigma_b)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure = self.panels(data, "q", "input $q_0$")
        figure.axes[0].set_ylabel("length $q_l$ (dotted: the map)")
        for axis in figure.axes:
            axis.set_yscale("log")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        return {f"q-{name}": over_seeds(values) for name, values in self.end_of(data, "q").items()}


class CorrelationMap(Maps):
    """Figure 2: the correlation of two inputs against l; it ends at c*."""

    STARTS = (0.0, 0.5, 0.9)

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        frames = [self._one(lab, sigma_w, seeds) for sigma_w in self.sigma_w]
        return pd.concat(frames, ignore_index=True)

    def _one(self, lab: Lab, sigma_w: float, seeds: Sequence[int]) -> pd.DataFrame:
        rows: list[pd.DataFrame] = []

        def keep(name: str, seed: int, seen: Observation, network: nn.Module) -> None:
            for layer, h in enumerate(seen.preactivations[:-1], start=1):
                c = torch.nn.functional.cosine_similarity(h.detach()[:1], h.detach()[1:]).tolist()
                rows.append(
                    pd.DataFrame(
                        {
                            "start": self.STARTS,
                            "c": c,
                            "layer": layer,
                            "variant": name,
                            "seed": seed,
                        }
                    )
                )

        name = f"{sigma_w:g}"
        # so long that layer 1 has q* already: what is seen is the correlation map alone
        length = (q_star(sigma_w, self.sigma_b) - self.sigma_b**2) / sigma_w**2
        base, *others = torch.linalg.qr(gaussian_rows(self.width, len(self.STARTS) + 1)).Q.T
        x = [
            base,
            *(
                c * base + math.sqrt(1 - c**2) * other
                for c, other in zip(self.STARTS, others, strict=True)
            ),
        ]
        batch = as_batch(torch.stack(x) * math.sqrt(length * self.width))
        lab.profiles({name: self.variants()[name]}, seeds, batch, each=keep)
        return pd.concat(rows, ignore_index=True)

    def step(self, value: float, sigma_w: float) -> float:
        return correlation_map(
            PHI, min(value, 1.0), q_star(sigma_w, self.sigma_b), sigma_w, self.sigma_b
        )

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure = self.panels(data, "c", "inputs' $c_0$")
        figure.axes[0].set_ylabel("correlation $c_l$ (dotted: the map)")
        for axis in figure.axes:
            axis.set_ylim(-0.1, 1.05)
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        return {
            f"c-{name}": over_seeds(values, self.expected(data, float(name)))
            for name, values in self.end_of(data, "c").items()
        }

    def expected(self, data: pd.DataFrame, sigma_w: float) -> float:
        """What the map gives for the averaged layers from the inputs' own correlations: c* has not
        been reached everywhere.
        """
        begins = data[(data["variant"] == f"{sigma_w:g}") & (data["layer"] == 1)]
        lines = [self.iterated(c, sigma_w)[1] for c in begins.groupby("start")["c"].mean()]
        return float(np.mean([line[-LAST:] for line in lines]))


def gaussian_rows(rows: int, columns: int) -> Tensor:
    """The same independent N(0, 1) numbers every time, float64 [rows, columns]."""
    return torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def as_batch(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [B, N] as images of one row, with labels."""
    return x.view(len(x), 1, 1, -1), torch.from_numpy(np.arange(len(x)) % 10)

"""Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, Deep information propagation
(arXiv:1611.01232): gradients against depth (their section 4, figure 4) and the depth to which
networks train (figure 5).

Setting of the paper: tanh, σ_b² = 0.05, L up to 300, N = 300; trained with SGD on MNIST and
CIFAR-10. `quick`: L = 60 at initialization; training with N = 100, batch 256, 200 steps, 5,000
digits. Not reproduced: dropout (their section 5), CIFAR-10.

The thresholds of accuracy come from pilot seeds 100 to 104 (accuracies at 2 ξ_c of 0.60 to 0.86, at
9 ξ_c of 0.10 to 0.15) and are asserted on others. At σ_w² = 1.6 a depth of 2 ξ_c is 54 layers, at
σ_w² = 1 one of 9 ξ_c is 33: the deeper network trains and the shallower does not, which no cut at
one depth says.

The slopes lie up to 1 % below χ₁: one network shows exp E log, which at N = 300 is below E by about
(3 μ₂/μ₁² - 1)/2N a layer. They are compared with the prediction that knows of it.

ξ_c is the depth over which correlations approach c*; the paper's finding is that networks train up
to a few ξ_c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from isometry import activations
from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab, accuracy_of, for_steps
from isometry.initialization.predict import predict_network
from isometry.layers.discover import layers_of
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines
from isometry.theory.fixed_points import limit

PHI = activations.tanh()


def scales(sigma_w2: float, sigma_b2: float) -> list[str]:
    """Overrides of weights and biases with these variances."""
    return [
        "initializer=gaussian",
        f"initializer.sigma_w={math.sqrt(sigma_w2)}",
        f"initializer.sigma_b={math.sqrt(sigma_b2)}",
    ]


def xi_c(sigma_w2: float, sigma_b2: float) -> float:
    """Depth scale of correlations (their eq. 9)."""
    found = limit(PHI, math.sqrt(sigma_w2), math.sqrt(sigma_b2)).xi_c
    return math.inf if found is None else abs(found)


@dataclass
class Gradients:
    """Per-example ‖∂ℓ/∂W_l‖² against l: a straight line of slope χ₁ on a logarithmic axis (their
    eq. 15).

    Args:
        sigma_w2: weight variances σ_w².
        sigma_b2: bias variance σ_b².
        depth: weight layers.
        width: N.
        batch: examples.
        skip: layers at the bottom where q has not settled yet, and as many at the top.
    """

    sigma_w2: Sequence[float]
    sigma_b2: float
    depth: int
    width: int
    batch: int
    skip: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        common = ["activation=tanh", f"model.depth={self.depth}", f"model.width={self.width}"]
        variants = {f"{s:g}": [*common, *scales(s, self.sigma_b2)] for s in self.sigma_w2}
        found = lab.profiles(variants, seeds, lab.digits(self.batch))
        found = found[found["hidden"]].assign(square=lambda f: f["sample_weight_grad_rms"] ** 2)
        expected = {name: self.expected(lab, words) for name, words in variants.items()}
        found["expected"] = found["variant"].map(expected)
        return found[["variant", "seed", "layer", "square", "expected"]].reset_index(drop=True)

    def expected(self, lab: Lab, overrides: list[str]) -> float:
        """The slope that one network of this width is expected to show, to first order in 1/N."""
        _, network = next(lab.networks(overrides, [0]))
        images, _ = lab.digits(self.batch)
        found = predict_network(layers_of(network), images, self.batch, self.batch, networks=0)
        assert found.fluctuations is not None
        logs = found.log_sample + found.fluctuations.sample_shift
        low = self.skip - 1
        high = self.depth - self.skip - 1
        return float(np.exp((logs[low] - logs[high]) / (high - low)))

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, ((axis,),) = style.figure(1, 1, (4.6, 3.4))
        seed_lines(axis, data, "layer", "square", "variant", log=True, markevery=6)
        middle = self.depth // 2
        for name, rows in data.groupby("variant"):
            level = np.exp(np.log(rows[rows["layer"] == middle]["square"]).mean())
            layers = np.arange(self.skip, self.depth - self.skip)
            axis.plot(
                layers,
                level * self.chi(str(name)) ** (middle - layers),
                color="black",
                linestyle=":",
                linewidth=0.9,
            )
        integer_axis(axis, "layer $l$")
        axis.set(
            ylabel=r"per-example $\|\partial\ell/\partial W_l\|^2$", title=r"dotted: slope $\chi_1$"
        )
        axis.legend(title=r"$\sigma_w^2$", ncols=2, fontsize=7)
        return figure

    def chi(self, name: str) -> float:
        return limit(PHI, math.sqrt(float(name)), math.sqrt(self.sigma_b2)).chi_1

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        low = self.skip
        high = self.depth - self.skip
        found = {}
        for name, rows in data.groupby("variant"):
            logs = np.log(rows.pivot(index="seed", columns="layer", values="square"))
            slopes = (logs[low] - logs[high]) / (high - low)
            found[f"slope-{name}"] = of_logs(slopes.tolist(), float(rows["expected"].iloc[0]))
        return found


@dataclass
class Trainability:
    """Figure 5: accuracy after a fixed number of steps over depth and σ_w², and multiples of ξ_c.

    Args:
        sigma_w2, depths: the grid of the heat map, one seed each.
        checked: σ_w² at which the claims are checked, with every seed.
        near: σ_w² near the critical one, at which the short depth alone is checked: it lies over
            the long depth of the smallest σ_w², so that no one depth tells trained from not.
        short, long: depths of the claims, in ξ_c.
        sigma_b2: bias variance.
        width, batch, steps, lr: of the network and its training.
        data: data set.
    """

    sigma_w2: Sequence[float]
    depths: Sequence[int]
    checked: Sequence[float]
    near: Sequence[float]
    short: float
    long: float
    sigma_b2: float
    width: int
    batch: int
    steps: int
    lr: float
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        grid = [(s, d, "grid") for s in self.sigma_w2 for d in self.depths]
        ends = [self._end(s, self.short, "short") for s in (*self.checked, *self.near)]
        ends += [self._end(s, self.long, "long") for s in self.checked]
        found = self._train(lab, ends, seeds)
        return (
            found
            if lab.first_seed not in seeds
            else pd.concat([found, self._train(lab, grid, seeds[:1])])
        )

    def _end(self, sigma_w2: float, lengths: float, words: str) -> tuple[float, int, str]:
        """A cell at so many ξ_c."""
        return sigma_w2, max(3, round(lengths * xi_c(sigma_w2, self.sigma_b2))), words

    def _train(
        self, lab: Lab, cells: Sequence[tuple[float, int, str]], seeds: Sequence[int]
    ) -> pd.DataFrame:
        common = [
            "activation=tanh",
            f"model.width={self.width}",
            f"data={self.data}",
            f"data.batch_size={self.batch}",
        ]
        common += [*for_steps(self.steps), f"optimizer.lr={self.lr}"]
        common += ["callbacks.signals.every_n_steps=100"]
        names = {
            f"{s}|{d}|{words}": [*common, *scales(s, self.sigma_b2), f"model.depth={d}"]
            for s, d, words in cells
        }
        rows = []
        for name, seed, run in lab.train(names, seeds):
            s, d, words = name.split("|")
            accuracy = accuracy_of(run)
            rows.append(
                {
                    "sigma_w2": float(s),
                    "depth": int(d),
                    "kind": words,
                    "seed": seed,
                    "accuracy": accuracy,
                }
            )
        return pd.DataFrame(rows)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, ((axis,),) = style.figure(1, 1, (4.8, 3.6))
        grid = data[data["kind"] == "grid"].pivot_table(
            index="depth", columns="sigma_w2", values="accuracy"
        )
        image = axis.pcolormesh(
            grid.columns, grid.index, grid, cmap="cividis", vmin=0.1, vmax=1, shading="nearest"
        )
        fine = np.linspace(min(self.sigma_w2), max(self.sigma_w2), 200)
        lengths = np.array([xi_c(s, self.sigma_b2) for s in fine])
        for index, multiple in enumerate((self.short, 6.0, self.long)):
            look = {"color": "white", "linestyle": style.LINES[index]}
            axis.plot(fine, multiple * lengths, label=rf"{multiple:g} $\xi_c$", **look)
        ends = data[data["kind"] != "grid"].groupby(["sigma_w2", "depth", "kind"])["accuracy"]
        tested = ends.mean().reset_index()
        axis.scatter(
            tested["sigma_w2"],
            tested["depth"],
            45,
            tested["accuracy"],
            cmap="cividis",
            vmin=0.1,
            vmax=1,
            edgecolors="black",
        )
        deepest = max(*self.depths, tested["depth"].max())
        axis.set(
            ylim=(min(self.depths) - 2, deepest + 5),
            xlabel=r"$\sigma_w^2$",
            ylabel="depth $L$",
        )
        axis.grid(False)
        axis.legend(
            facecolor="grey", framealpha=0.8, frameon=True, labelcolor="white", loc="upper right"
        )
        figure.colorbar(image, ax=axis, label=f"test accuracy after {self.steps} steps")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        ends = data[data["kind"] != "grid"]
        names = ends["kind"] + "-" + ends["sigma_w2"].map("{:g}".format)
        by_seed = ends.set_index("seed")["accuracy"]
        found = {str(name): rows for name, rows in by_seed.groupby(names.to_numpy())}
        deep = found[f"short-{self.near[0]:g}"]
        shallow = found[f"long-{self.checked[0]:g}"]
        judged = {name: over_seeds(values.tolist()) for name, values in found.items()}
        return {**judged, "no-cut": over_seeds((deep - shallow).tolist())}

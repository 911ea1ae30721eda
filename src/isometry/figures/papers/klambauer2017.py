"""Klambauer, Unterthiner, Mayr & Hochreiter 2017, Self-normalizing neural networks
(arXiv:1706.02515): theorem 1, the fixed point of SELU at σ_w = 1, to which mean and variance of
activations return whatever the input's are, and figure 1, training curves of 8, 16 and 32 layers
against batch norm (relu).

What the paper does not say: at that fixed point E φ'² = 1.0716, so gradients *grow* by 7 % a layer,
in ‖δ‖²; and the one small rate of figure 1 (1e-5) suits SELU. Batch norm bears ten times the rate,
at which SELU diverges, and with 8 layers then ends lower. `quick`: theorem 1 with N = 512, depth
40; figure 1 with width 128, 300 steps on 5,000 digits, rates 0.01 and 0.1. Not tested: that batch
norm's curves scatter more; CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab, metrics_of
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


SCHEMES = {
    "SELU": ["activation=selu", "initializer=lecun_normal"],
    "batch norm": ["activation=relu", "initializer=he_normal", "normalization=batch"],
}


@dataclass
class TrainingCurves:
    """Training loss against steps.

    Args:
        depths: weight layers.
        width, steps: of the networks, and their training.
        rates: learning rates; the first is the paper's kind, each scheme has a best one.
        data: data set.
    """

    depths: Sequence[int]
    width: int
    steps: int
    rates: Sequence[float]
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """The loss, as a mean over each `WINDOW` steps; a run that diverged has an infinite one at
        its end.
        """
        variants = {
            f"{name}|{depth}|{rate:g}": [*words, *self._words(depth, rate)]
            for name, words in SCHEMES.items()
            for depth in self.depths
            for rate in self.rates
        }
        frames = []
        for words, seed, run in lab.train(variants, seeds):
            name, depth, rate = words.split("|")
            losses = metrics_of(run)[["step", "train_loss"]].dropna()
            if losses["step"].max() < self.steps - WINDOW:
                losses.loc[len(losses)] = [self.steps, np.inf]
            losses = losses.assign(variant=name, depth=int(depth), rate=float(rate), seed=seed)
            frames.append(losses)
        return pd.concat(frames, ignore_index=True)

    def _words(self, depth: int, rate: float) -> list[str]:
        return [
            *(f"model.depth={depth}", f"model.width={self.width}", f"optimizer.lr={rate}"),
            *(f"data={self.data}", "data.batch_size=128", f"trainer.limit_train_batches={WINDOW}"),
            *(f"trainer.max_steps={self.steps}", "trainer.max_epochs=1000000"),
            *("trainer.check_val_every_n_epoch=1000000", "callbacks.signals.every_n_steps=100"),
            "callbacks.checkpoints.every_n_epochs=1000000",
        ]

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, len(self.depths), (3.1, 3.0), sharey=True)
        finite = data[np.isfinite(data["train_loss"])]
        small = finite[finite["rate"] == self.rates[0]]
        for axis, depth in zip(axes[0], self.depths, strict=True):
            rows = small[small["depth"] == depth]
            seed_lines(axis, rows, "step", "train_loss", "variant", log=True, markevery=0.1)
            axis.set_title(f"{depth} layers, rate {self.rates[0]:g}")
            integer_axis(axis, "optimizer step")
        axes[0, 0].set_ylabel("training loss (nats)")
        axes[0, 0].legend()
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        small = data[data["rate"] == self.rates[0]]
        means = small.groupby(["depth", "variant", "seed"])["train_loss"].mean()
        faster = {f"faster-{depth}": _difference(means[depth]) for depth in self.depths}
        ends = data.sort_values("step").groupby(["depth", "variant", "rate", "seed"]).last()
        deep = _difference(_at_best(ends["train_loss"][self.depths[-1]]))
        shallow = _difference(_at_best(ends["train_loss"][self.depths[0]]))
        return {**faster, "deep": deep, "shallow": shallow}


WINDOW = 5
"""Steps whose mean loss is a point of a curve."""


def _at_best(ends: pd.Series) -> pd.Series:
    """Losses [variant, seed] at the rate of each variant with the lowest mean."""
    means = ends.groupby(["variant", "rate"]).mean()
    best = {name: means[name].idxmin() for name in SCHEMES}
    return pd.concat({name: ends[name][rate] for name, rate in best.items()})


def _difference(losses: pd.Series) -> Estimate:
    """SELU's less batch norm's over seeds, from losses [variant, seed]."""
    return over_seeds((losses["SELU"] - losses["batch norm"]).tolist())

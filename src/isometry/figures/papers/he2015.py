"""He, Zhang, Ren & Sun 2015, Delving deep into rectifiers (arXiv:1502.01852), figures 2 and 3, and
the factor of eq. 14.

Setting of the paper: convolutional networks of 22 (fig. 2) and 30 (fig. 3) layers on ImageNet,
Xavier's against the proposed initialization. `quick` scales down to relu MLPs of the same depths,
width 128, on 5,000 digits, SGD with momentum, 300 steps. Not reproduced: ImageNet's error rates,
PReLU.

Pilot (seeds 100 to 109): at 22 layers He is ahead by 1.2 to 2.1 nats, accuracy 0.91; at 30 layers
Xavier stays at 0.10 for every seed, He reaches 0.61 with an interval of 0.43 to 0.79. Asserted on
other seeds: 0.6 at 22 layers; at 30 layers one line, 0.25, with Xavier below and He above it. (How
far He comes in 300 steps differs from seed to seed and, training being chaotic, from processor to
processor; a threshold inside that spread would decide nothing.)

"Xavier" is the Var W = 1/fan_in that the paper compares with, here Glorot's normal: between layers
of equal width the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab, metrics_of, summary_of
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

INITIALIZERS = {"Xavier": "glorot_normal", "He": "he_normal"}


@dataclass
class Convergence:
    """Figures 2 and 3 (there the error against epochs): training loss against steps, Xavier against
    He.

    Args:
        depth: weight layers.
        width: of the hidden layers.
        steps: optimizer steps.
        batch: examples a step.
        data: data set.
    """

    depth: int
    width: int
    steps: int
    batch: int = 128
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """Loss after every epoch, and the test accuracy at the end."""
        common = [
            f"model.depth={self.depth}",
            f"model.width={self.width}",
            "activation=relu",
            "optimizer=momentum",
        ]
        common += [
            f"data={self.data}",
            f"data.batch_size={self.batch}",
            f"trainer.max_steps={self.steps}",
        ]
        common += ["trainer.max_epochs=100000", "callbacks.signals.every_n_steps=100"]
        variants = {
            name: [*common, f"initializer={option}"] for name, option in INITIALIZERS.items()
        }
        frames = []
        for name, seed, run in lab.train(variants, seeds):
            losses = metrics_of(run)[["step", "train_loss"]].dropna()
            frames.append(
                losses.assign(
                    variant=name, seed=seed, test_accuracy=summary_of(run, "test_accuracy")
                )
            )
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        """Loss against steps; the level of guessing."""
        figure, ((axis,),) = style.figure(1, 1, (4.2, 3.2))
        seed_lines(axis, data, "step", "train_loss", "variant", markevery=0.1)
        axis.axhline(
            math.log(10), color="black", linewidth=0.8, linestyle=":", label="guessing, ln 10"
        )
        integer_axis(axis, "optimizer step")
        axis.set(
            ylabel="training loss (nats)",
            title=f"relu, {self.depth} layers: Xavier and He",
            ylim=(0, None),
        )
        axis.legend()
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """Final losses and accuracies of both."""
        last = data.sort_values("step").groupby(["variant", "seed"]).last()
        xavier = last.loc["Xavier"]
        he = last.loc["He"]
        return {
            "he-ahead": over_seeds((xavier["train_loss"] - he["train_loss"]).tolist()),
            "he-accuracy": over_seeds(he["test_accuracy"].tolist()),
            "xavier-accuracy": over_seeds(xavier["test_accuracy"].tolist()),
        }


FACTORS = {"Xavier": "glorot_normal", "He": "he_normal", "torch default": "torch_default"}


@dataclass
class Factor:
    """Equation 14: the factor on Var δ a layer going back through relu, ½ n Var W: 1/2, 1 and,
    torch's default, 1/6.

    Args:
        depth, width: of the MLP.
        conv_depth, channels, size: of the convolutional network, circular padding, images of so
            many pixels a side.
        batch: examples.
    """

    depth: int
    width: int
    conv_depth: int
    channels: int
    size: int
    batch: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """`backprop_norm` of every hidden layer."""
        mlp = [f"model.depth={self.depth}", f"model.width={self.width}", "activation=relu"]
        conv = [
            "model=convnet",
            f"model.depth={self.conv_depth}",
            f"model.channels={self.channels}",
            "model.stages=1",
        ]
        variants = {name: [*mlp, f"initializer={option}"] for name, option in FACTORS.items()}
        found = lab.profiles(variants, seeds, lab.digits(self.batch))
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch // 4, 1, self.size, self.size)
        images = (
            torch.randn(shape, generator=generator, dtype=torch.float64),
            torch.arange(shape[0]) % 10,
        )
        variants = {
            f"{name}, conv": [*conv, "activation=relu", f"initializer={option}"]
            for name, option in FACTORS.items()
        }
        found = pd.concat([found, lab.profiles(variants, seeds, images)], ignore_index=True)
        return found.loc[
            found["hidden"], ["variant", "seed", "layer", "backprop_norm"]
        ].reset_index(drop=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        """δ² against depth, relative to the last hidden layer, with the slopes of the equations."""
        top = data.groupby(["variant", "seed"])["backprop_norm"].transform("last")
        data = data.assign(relative=(data["backprop_norm"] / top) ** 2)
        figure, axes = style.figure(1, 2, (3.6, 3.2), sharey=True)
        for axis, words, of_conv in zip(
            axes[0], ("MLP", "convolutional"), (False, True), strict=True
        ):
            rows = data[data["variant"].str.endswith("conv") == of_conv]
            rows = rows.assign(variant=rows["variant"].str.removesuffix(", conv"))
            seed_lines(axis, rows, "layer", "relative", "variant", log=True, markevery=2)
            layers = np.arange(1, rows["layer"].max() + 1)
            for factor in (0.5, 1.0, 1 / 6):
                axis.plot(
                    layers,
                    factor ** (layers[-1] - layers),
                    color="black",
                    linewidth=0.8,
                    linestyle=":",
                )
            integer_axis(axis, "layer $l$")
            axis.set_title(words)
        axes[0, 0].set_ylabel(r"$\|\delta_l\|^2 / \|\delta_{L-1}\|^2$")
        axes[0, 0].legend(title="dotted: eq. 14")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """The factor a layer: geometric mean over layers and seeds."""
        return {
            str(name).lower().replace(", ", "-").replace(" ", "-"): of_logs(_log_factors(rows))
            for name, rows in data.groupby("variant")
        }


def _log_factors(rows: pd.DataFrame) -> list[float]:
    """For each seed the mean of log δ_l² - log δ_{l+1}²."""
    profile = rows.pivot(index="seed", columns="layer", values="backprop_norm").to_numpy()
    return (2 * np.log(profile[:, 0] / profile[:, -1]) / (profile.shape[1] - 1)).tolist()

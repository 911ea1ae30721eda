"""Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz 2019, A mean field theory of batch
normalization (arXiv:1902.08129): gradients explode in batch-norm networks at initialization, by a
factor that only the activation and the batch decide.

Setting: MLPs of constant width with batch norm before φ (their figure 3 and table 2). `quick`: N =
512, L = 30, batch 128 at
initialization; training of 100 layers of 128 units on 5,000 digits. Not reproduced: their phase of
other normalizations, and convolutions.

Pilot of the training (seeds 100 to 104): the identity reaches 0.88, relu 0.10.

Inputs at initialization are Gaussian: the identity never forgets the Gram matrix of its inputs, and
with digits, whose correlations are uneven, it grows by 1.025 a layer instead of (B-2)/(B-3) =
1.008. tanh lies above the theory, that of infinite width, by a correction that halves from N = 512
to 1024.

Under batch norm δ_i is not example i's own gradient; the norm over the whole batch is what the
theory speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab, accuracy_of, for_steps
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines
from isometry.theory.batch_norm import batch_norm_limit


@dataclass
class Explosion:
    """δ² against l at initialization, and the accuracy of deep networks after training.

    Args:
        activations: measured at initialization.
        depth, width, batch: of those networks.
        few: examples of a second batch for the identity, which tells (B-2)/(B-3) from 1.
        skip: layers at both ends that are left out.
        trained: activations of the networks that are trained.
        trained_depth, trained_width, steps, lr: of the training.
        data: its data set.
    """

    activations: Sequence[str]
    depth: int
    width: int
    batch: int
    few: int
    skip: int
    trained: Sequence[str]
    trained_depth: int
    trained_width: int
    steps: int
    lr: float
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        common = [
            "normalization=batch",
            "initializer=lecun_normal",
            f"model.depth={self.depth}",
            f"model.width={self.width}",
        ]
        variants = {name: [*common, f"activation={name}"] for name in self.activations}
        found = pd.concat(
            [
                self._profiles(lab, variants, seeds, self.batch),
                self._profiles(lab, {"linear": variants["linear"]}, seeds, self.few),
            ]
        )
        return pd.concat(
            [
                found[["variant", "seed", "layer", "square", "kind", "batch", "chi"]],
                self._train(lab, seeds),
            ]
        )

    def _profiles(
        self, lab: Lab, variants: dict[str, list[str]], seeds: Sequence[int], batch: int
    ) -> pd.DataFrame:
        """δ² of networks on so many examples, and the factor that theory has for them."""
        found = lab.profiles(variants, seeds, lab.noise(batch))
        found = found[found["hidden"]].assign(kind="profile", batch=batch)
        found["square"] = found["backprop_norm"] ** 2
        chi = {name: batch_norm_limit(lab.activation(name), batch).growth for name in variants}
        return found.assign(chi=found["variant"].map(chi))

    def _train(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        common = [
            "normalization=batch",
            "initializer=lecun_normal",
            f"model.depth={self.trained_depth}",
        ]
        common += [
            f"model.width={self.trained_width}",
            f"data={self.data}",
            f"data.batch_size={self.batch}",
        ]
        common += [*for_steps(self.steps), f"optimizer.lr={self.lr}"]
        common += ["callbacks.signals.every_n_steps=100"]
        runs = lab.train({name: [*common, f"activation={name}"] for name in self.trained}, seeds)
        rows = [
            {"variant": name, "seed": seed, "accuracy": accuracy_of(run)}
            for name, seed, run in runs
        ]
        return pd.DataFrame(rows).assign(kind="training")

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.6, 3.2), width_ratios=[2, 1])
        left, right = axes[0]
        profile = data[(data["kind"] == "profile") & (data["batch"] == self.batch)]
        seed_lines(left, profile, "layer", "square", "variant", log=True, markevery=3)
        for _, rows in profile.groupby("variant"):
            middle = self.depth // 2
            level = np.exp(np.log(rows[rows["layer"] == middle]["square"]).mean())
            layers = np.arange(2, self.depth)
            left.plot(
                layers,
                level * rows["chi"].iloc[0] ** (middle - layers),
                color="black",
                linestyle=":",
                linewidth=0.9,
            )
        integer_axis(left, "layer $l$")
        left.set(ylabel=r"$\|\delta_l\|^2$", title="batch norm, initialization\n(dotted: theory)")
        left.legend()
        for index, (_, rows) in enumerate(
            data[data["kind"] == "training"].groupby("variant", sort=False)
        ):
            right.plot(
                [index] * len(rows),
                rows["accuracy"],
                linestyle="",
                marker="o",
                color=style.COLOURS[index],
                alpha=0.7,
            )
        right.axhline(0.1, color="black", linestyle=":", linewidth=0.8)
        right.set_xticks(range(len(self.trained)), self.trained)
        right.set(
            ylim=(0, 1), xlim=(-0.5, len(self.trained) - 0.5), ylabel="test accuracy, each seed"
        )
        right.set_title(f"{self.trained_depth} layers, {self.steps} steps\n(dotted: guessing)")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        found = {}
        profile = data[data["kind"] == "profile"]
        keys = profile["variant"].where(
            profile["batch"] == self.batch, profile["variant"] + f"-{self.few}"
        )
        for name, rows in profile.groupby(keys):
            logs = np.log(rows.pivot(index="seed", columns="layer", values="square"))
            low = self.skip
            high = self.depth - self.skip
            steps = (logs[low] - logs[high]) / (high - low)
            found[f"factor-{name!s}"] = of_logs(steps.tolist(), float(rows["chi"].iloc[0]))
        for name, rows in data[data["kind"] == "training"].groupby("variant"):
            found[f"trained-{name!s}"] = over_seeds(rows["accuracy"].tolist())
        return found

"""Hanin & Rolnick 2018, How to start training (arXiv:1803.01719), and Hanin 2018, Which neural net
architectures give rise to exploding and vanishing gradients? (arXiv:1801.03744).

`Moments`: in a He-initialized relu network the squared length of activations, and of gradients,
keeps its mean, and its second
moment grows by 1 + 5/n a layer of n units: exponentially in Σ 1/n_l (Hanin 2018, theorem 1).
`Trainability`: the larger Σ 1/n_l, the worse a network begins to train (Hanin & Rolnick 2018, their
second failure mode).

`quick`: n = 100, L = 10, 20,000 draws of the weights; training of twelve shapes on 5,000 digits. At
n = 50 the second moment over ten layers is so heavy-tailed that 20,000 draws do not decide it to
8 %; at 100 they do. Beside it, the product of the layers' own factors. Not reproduced:
residual networks, and the paper's count of epochs to 20 % accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from scipy import stats

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab, accuracy_of, for_steps
from isometry.initialization.observe import kept
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines


@dataclass
class Moments:
    """Moments of ‖x_l‖²/‖x_0‖² and of ‖δ_1‖²/‖δ_l‖² over draws of the weights.

    Args:
        layers: hidden layers L.
        width: n.
        draws: draws of the weights for each seed.
        direct: layers over which the second moment is checked directly.
    """

    layers: int
    width: int
    draws: int
    direct: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        return pd.concat([self._one(lab, seed) for seed in seeds], ignore_index=True)

    def _one(self, lab: Lab, seed: int) -> pd.DataFrame:
        overrides = [
            "activation=relu",
            "initializer=he_normal",
            f"model.depth={self.layers + 1}",
            f"model.width={self.width}",
        ]
        image = torch.ones(1, 1, 1, self.width, dtype=torch.float64)
        forward = []
        backward = []
        draws = range(seed * self.draws, (seed + 1) * self.draws)
        for _, network in lab.redrawn(overrides, draws, (1, 1, self.width)):
            with kept(network, 1) as seen:
                network(image)[0, 0].backward()
            lengths = [image, *seen.activations[:-1]]
            forward.append([float(x.detach().square().sum()) for x in lengths])
            backward.append([float(delta.square().sum()) for delta in seen.deltas[1:]])
        return pd.concat(
            [_moments("x", np.array(forward), seed), _moments("delta", np.array(backward), seed)]
        )

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.5, 3.1), sharey=True)
        for axis, kind, words in zip(
            axes[0],
            ("x", "delta"),
            (r"$\|x_l\|^2/\|x_0\|^2$", r"$\|\delta_{L-l}\|^2/\|\delta_L\|^2$"),
            strict=True,
        ):
            rows = data[data["kind"] == kind]
            long = rows.melt(["layers", "seed"], ["mean", "second"], "moment", "value")
            seed_lines(
                axis,
                long.replace({"mean": "mean", "second": "second moment"}),
                "layers",
                "value",
                "moment",
            )
            depth = np.arange(rows["layers"].max() + 1)
            axis.plot(
                depth,
                (1 + 5 / self.width) ** depth,
                color="black",
                linestyle=":",
                label=r"$(1 + 5/n)^l$",
            )
            axis.set_title(words)
            integer_axis(axis, "layers $l$")
        axes[0, 0].set_ylabel("moment over draws of the weights")
        axes[0, 0].legend()
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        found: dict[str, Estimate] = {}
        for kind, rows in data.groupby("kind"):
            most = int(rows["layers"].max())
            last = rows[rows["layers"] == most]
            factors = np.log(
                rows[rows["layers"] > 0].pivot(index="seed", columns="layers", values="factor")
            ).sum(axis=1)
            direct = rows[rows["layers"] == self.direct]["second"]
            found |= {
                f"{kind}-mean": over_seeds(last["mean"].tolist()),
                f"{kind}-second": over_seeds(direct.tolist(), (1 + 5 / self.width) ** self.direct),
                f"{kind}-product": of_logs(factors.tolist(), (1 + 5 / self.width) ** most),
            }
        return found


def _moments(kind: str, squares: np.ndarray, seed: int) -> pd.DataFrame:
    """Moments over draws [D, l] of squared lengths relative to the first column; draws in which a
    layer died count as 0.
    """
    relative = squares / squares[:, :1]
    with np.errstate(invalid="ignore"):
        steps = np.where(squares[:, :-1] > 0, squares[:, 1:] / squares[:, :-1], np.nan)
    factor = [1.0, *np.nanmean(steps**2, axis=0)]
    layers = range(relative.shape[1])
    moments = {"mean": relative.mean(0), "second": (relative**2).mean(0), "factor": factor}
    return pd.DataFrame({"layers": layers, **moments, "kind": kind, "seed": seed})


@dataclass
class Trainability:
    """Accuracy after few steps against Σ 1/n_l.

    Args:
        shapes: pairs (hidden layers, width).
        steps, lr, batch: of the training.
        data: its data set.
    """

    shapes: Sequence[Sequence[int]]
    steps: int
    lr: float
    batch: int = 128
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        common = [
            "activation=relu",
            "initializer=he_normal",
            f"optimizer.lr={self.lr}",
            f"data.batch_size={self.batch}",
        ]
        common += [f"data={self.data}", *for_steps(self.steps)]
        shapes = {f"{layers} x {width}": (layers, width) for layers, width in self.shapes}
        variants = {
            name: [*common, f"model.depth={layers + 1}", f"model.width={width}"]
            for name, (layers, width) in shapes.items()
        }
        rows = []
        for name, seed, run in lab.train(variants, seeds):
            layers, width = shapes[name]
            row = {"variant": name, "seed": seed, "accuracy": accuracy_of(run)}
            rows.append({**row, "beta": layers / width, "layers": layers})
        return pd.DataFrame(rows)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, ((axis,),) = style.figure(1, 1, (4.4, 3.2))
        for index, (layers, rows) in enumerate(data.groupby("layers")):
            means = rows.groupby("beta")["accuracy"].agg(["mean", "sem", "count"])
            half = means["sem"] * stats.t.ppf(0.975, means["count"] - 1)
            axis.errorbar(
                means.index,
                means["mean"],
                half,
                label=f"{layers}",
                **{**style.look(index), "linestyle": ""},
            )
        axis.axhline(0.1, color="black", linestyle=":", linewidth=0.8)
        axis.set(
            xlabel=r"$\beta = \sum_l 1/n_l$",
            ylabel=f"test accuracy after {self.steps} steps",
            ylim=(0, 1),
        )
        axis.set_title("He-initialized relu networks (dotted: guessing)")
        axis.legend(title="hidden layers", ncols=2)
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        by_seed = [rows for _, rows in data.groupby("seed")]
        ranks = {
            "rank": over_seeds([_rank(rows) for rows in by_seed]),
            "rank-at-depth": over_seeds([_mean_rank(rows, "layers") for rows in by_seed]),
        }
        # where a rank correlation ends
        bounded = {name: replace(found, low=max(found.low, -1.0)) for name, found in ranks.items()}
        return {**bounded, "collapse": over_seeds([_collapse(rows) for rows in by_seed])}


def _rank(rows: pd.DataFrame) -> float:
    return float(stats.spearmanr(rows["beta"], rows["accuracy"]).statistic)


def _mean_rank(rows: pd.DataFrame, held: str) -> float:
    """Mean over networks of equal depth: what depth alone decides is no correlation there."""
    return float(np.mean([_rank(group) for _, group in rows.groupby(held) if len(group) > 2]))


def _collapse(rows: pd.DataFrame) -> float:
    """Variance of accuracy at equal β over that at equal depth: 0 if β decides alone, over 1 if
    depth does.
    """
    equal_beta, equal_depth = (_variance_within(rows, key) for key in ("beta", "layers"))
    return equal_beta / equal_depth


def _variance_within(rows: pd.DataFrame, key: str) -> float:
    """Of accuracy among networks of equal key, on average."""
    groups = [group["accuracy"] for _, group in rows.groupby(key) if len(group) > 1]
    return float(np.mean([group.var() for group in groups]))

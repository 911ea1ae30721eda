"""The question in one figure: why gradients vanish behind sigmoids, and what initialization does
about it.

No paper's figure but the folklore that this project began with, as measurements: φ' of the sigmoid
is at most 1/4 and saturates; a layer squashes variance by at least 16; back-propagated gradients
fade by the predicted factor a layer, so that with naive weights the first layers do not move; with
weights that are too large for relu, training explodes within a few steps. `quick`: 20 layers of 100
units, 300 steps on 5,000 digits. Rates: Glorot's χ₁ = 0.0557 for the sigmoid, so √χ₁ = 0.236 a
layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from isometry import activations
from isometry.figures.claims import Estimate, of_logs, over_seeds, share
from isometry.figures.lab import Lab, for_steps, signals_of, summary_of
from isometry.gradient_rate import gradient_rate
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines
from isometry.theory.quadrature import expectation

PHI = activations.sigmoid()
EXPLODING = r"relu, $\sigma_w = 1.7$"
COLUMNS = [
    "displacement",
    "weight_grad_norm",
    "backprop_norm",
    "activation_var",
    "preactivation_var",
]
VARIANTS = {"N(0, 0.01²)": "normal_small", "Glorot": "glorot_normal", "critical": "critical"}


@dataclass
class Sigmoid:
    """Six panels.

    Args:
        depth, width: of the networks.
        batch: examples at initialization.
        steps, lr: of the training.
        data: its data set.
    """

    depth: int
    width: int
    steps: int
    lr: float
    batch: int
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        network = [f"model.depth={self.depth}", f"model.width={self.width}"]
        variants = {
            name: [*network, "activation=sigmoid", f"initializer={option}"]
            for name, option in VARIANTS.items()
        }
        found = lab.profiles(variants, seeds, lab.digits(self.batch))
        kept = ["variant", "seed", "layer", "backprop_norm", "preactivation_var", "activation_var"]
        return pd.concat(
            [
                found.loc[found["hidden"], kept].assign(kind="profile"),
                self._train(lab, variants, seeds),
            ]
        )

    def _train(
        self, lab: Lab, variants: dict[str, list[str]], seeds: Sequence[int]
    ) -> pd.DataFrame:
        common = [f"data={self.data}", *for_steps(self.steps)]
        common += [f"optimizer.lr={self.lr}", "callbacks.signals.every_n_steps=1"]
        exploding = ["activation=relu", "initializer=gaussian", "initializer.sigma_w=1.7"]
        exploding += [f"model.depth={self.depth}", f"model.width={self.width}"]
        frames = []
        jobs = {
            name: [*common, *words] for name, words in (variants | {EXPLODING: exploding}).items()
        }
        for name, seed, run in lab.train(jobs, seeds):
            rows = signals_of(run, ["kind", *COLUMNS])
            state = (run.status() or {})["state"]
            last = (
                rows[rows["step"] == rows["step"].max()]
                if state == "finished"
                else rows[rows["step"] < 12]
            )
            if state == "finished":
                last = with_last_step(last, rows)
            chosen = last[last["kind"] == "hidden"][["step", "layer", *COLUMNS]]
            where = {
                "diverged": state == "diverged",
                "first_nonfinite_step": summary_of(run, "first_nonfinite_step"),
            }
            frames.append(chosen.assign(variant=name, seed=seed, kind="training", **where))
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(2, 3, (3.0, 2.7))
        (squash, variance, gradient), (moved, trained_gradient, explosion) = axes
        draw_activation(squash)
        profile = data[data["kind"] == "profile"].assign(delta=lambda f: f["backprop_norm"])
        draw_variance(variance, profile)
        seed_lines(gradient, profile, "layer", "delta", "variant", log=True, markevery=3)
        gradient.set(ylabel=r"$\|\delta_l\|$ at initialization")
        gradient.legend(fontsize=7)
        trained = data[(data["kind"] == "training") & data["variant"].isin(VARIANTS)]
        trained = trained.assign(displacement=trained["displacement"].clip(lower=1e-9))
        seed_lines(moved, trained, "layer", "displacement", "variant", log=True, markevery=3)
        moved.set(
            ylabel=r"$\|W_t - W_0\|/\|W_0\|$ (floor $10^{-9}$)",
            title=f"moved after {self.steps} steps",
        )
        moved.legend(fontsize=7)
        seed_lines(
            trained_gradient, trained, "layer", "backprop_norm", "variant", log=True, markevery=3
        )
        trained_gradient.set(ylabel=rf"$\|\delta_l\|$ after {self.steps} steps")
        for axis in (gradient, moved, trained_gradient):
            integer_axis(axis, "layer $l$")
        draw_explosion(
            explosion, data[(data["kind"] == "training") & ~data["variant"].isin(VARIANTS)]
        )
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        profile = data[data["kind"] == "profile"]
        logs = {name: log_rates(rows) for name, rows in profile.groupby("variant")}
        trained = data[data["kind"] == "training"]
        glorot = trained[trained["variant"] == "Glorot"]
        squash = (glorot["activation_var"] / glorot["preactivation_var"]).groupby(glorot["seed"])
        first = trained[trained["layer"] == 1].groupby(["variant", "seed"])["displacement"].last()
        diverged = trained[~trained["variant"].isin(VARIANTS)].groupby("seed")["diverged"].first()
        return {
            "squash": over_seeds(squash.max().tolist()),
            "rate-trained": of_logs(log_rates(glorot)),
            "rate-glorot": of_logs(logs["Glorot"]),
            "rate-critical": of_logs(logs["critical"]),
            "naive-still": over_seeds(first["N(0, 0.01²)"].tolist()),
            "critical-moves": over_seeds(first["critical"].tolist()),
            "explodes": share(int(diverged.sum()), len(diverged)),
        }


def with_last_step(end: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows after the last update, which have weights alone, with the gradients and variances of
    the last step before.
    """
    measured = rows.dropna(subset=["backprop_norm"])
    step = measured[measured["step"] == measured["step"].max()].set_index("layer")
    return end.set_index("layer").combine_first(step).reset_index()


def log_rates(profile: pd.DataFrame) -> list[float]:
    """log of the gradient rate, of each seed."""
    profiles = (
        rows.sort_values("layer")["backprop_norm"].to_numpy() for _, rows in profile.groupby("seed")
    )
    return [float(np.log(gradient_rate(norms).rate)) for norms in profiles]


def draw_activation(axis: Axes) -> None:
    """φ, φ', and where φ is saturated."""
    z = np.linspace(-8, 8, 400)
    axis.plot(z, PHI.phi(z), label=r"$\varphi(h)$", **{**style.look(0), "marker": ""})
    axis.plot(
        z, PHI.phi_prime(z), label=r"$\varphi'(h) \leq 1/4$", **{**style.look(1), "marker": ""}
    )
    for low, high in PHI.saturated_intervals or ():
        axis.axvspan(max(low, -8), min(high, 8), color="grey", alpha=0.2, linewidth=0)
    axis.set(xlabel="preactivation $h$", title="the sigmoid (grey: saturated)", xlim=(-8, 8))
    axis.legend(fontsize=7)


def draw_variance(axis: Axes, profile: pd.DataFrame) -> None:
    """Variance of activations against that of preactivations: layers of networks, and a
    Gaussian's.
    """
    for index, (name, rows) in enumerate(profile.groupby("variant", sort=False)):
        means = rows.groupby("layer")[["preactivation_var", "activation_var"]].mean()
        look = {**style.look(index), "linestyle": ""}
        axis.plot(means["preactivation_var"], means["activation_var"], label=name, **look)
    grid = np.geomspace(1e-4, 1e3, 60)
    squares = [expectation(lambda h: (PHI.phi(h) - 0.5) ** 2, q, PHI.kinks) for q in grid]
    axis.plot(grid, squares, color="black", linestyle=":", label="Gaussian, mean 0")
    axis.plot(grid, grid / 16, color="black", linewidth=0.7, label="1/16")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="variance of $h$",
        ylabel=r"variance of $\varphi(h)$",
        ylim=(1e-7, 1),
    )
    axis.set_title("variance in, variance out")
    axis.legend(fontsize=6)


def draw_explosion(axis: Axes, rows: pd.DataFrame) -> None:
    """Weight gradients by layer at the steps before the first seed's step that is not finite."""
    first = rows[rows["seed"] == rows["seed"].min()]
    end = first["first_nonfinite_step"].iloc[0]
    shown = (
        rows[(rows["step"] < end) & np.isfinite(rows["weight_grad_norm"])]
        if first["diverged"].all()
        else first
    )
    words = "step " + shown["step"].astype(int).astype(str)
    seed_lines(
        axis, shown.assign(words=words), "layer", "weight_grad_norm", "words", log=True, markevery=3
    )
    integer_axis(axis, "layer $l$")
    outcome = f"step {end:.0f} is not finite" if first["diverged"].all() else "did not diverge"
    axis.set(ylabel=r"$\|\partial L/\partial W_l\|$")
    axis.set_title(f"{EXPLODING}: {outcome}", fontsize=9)
    axis.legend(fontsize=7)

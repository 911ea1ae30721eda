"""Saxe, McClelland & Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep
linear neural networks (arXiv:1312.6120), section 3 and figure 4: the learning time of a deep linear
network against its depth.

With learning rate ∝ 1/(N_l - 1) and decoupled modes, the strength u of a mode of size s follows
du/dt = u^{2 - 2/(N_l - 1)} (s - u): their eq. 15, in units in which the rate's 1/(N_l - 1) is taken
out. The time from u_0 to u_f tends to a finite limit as depth grows, if u_0 does not shrink with
depth: the case of orthogonal weights, not of Gaussian ones.

We train linear networks by gradient descent on ten orthogonal inputs, from multiples of the
identity (decoupled modes, all of size s = 0.3 after the data's normalization), and compare with the
integral. `quick`: up to 100 layers of neurons, u_0 = 0.05 s. The second part trains linear networks
on 5,000 digits from orthogonal and from Gaussian weights. Not reproduced: greedy pretraining, and
optimizing the learning rate at each depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from scipy.integrate import quad

from isometry.figures.claims import Estimate, exact, over_seeds
from isometry.figures.lab import Lab, for_steps, metrics_of, signals_of
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

CLASSES = 10
SIZE = math.sqrt(CLASSES - 1) / CLASSES
"""s: the regression of centred one-hot targets on centred, standardized one-hot inputs."""


def learning_time(layers: float, begin: float, end: float, size: float) -> float:
    """∫ du / (u^{2 - 2/(N_l - 1)} (s - u)) from u_0 to u_f, N_l layers of neurons (eq. 15; inf: the
    deep limit).
    """
    exponent = 2 - 2 / (layers - 1)
    # in log u the integrand is smooth over all decades
    value, _ = quad(
        lambda v: math.exp(v * (1 - exponent)) / (size - math.exp(v)),
        math.log(begin),
        math.log(end),
        epsrel=1e-10,
    )
    return float(value)


@dataclass
class LearningTime:
    """Figure 4.

    Args:
        layers: numbers N_l of layers of neurons.
        begin, end: u_0/s and u_f/s.
        eta: step of t; the learning rate is it over N_l - 1, in the units of the loss.
        deep, width, steps: weight layers, width and training of the second part.
        rates: its learning rates; each initialization is judged at its best one.
        data: its data set.
    """

    layers: Sequence[int]
    begin: float
    end: float
    eta: float
    deep: int
    width: int
    steps: int
    rates: Sequence[float]
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        return pd.concat([self._modes(lab, seeds[:1]), self._digits(lab, seeds)], ignore_index=True)

    def _modes(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """u against t, from the norm of the first layer's weights: a² in CLASSES - 1 directions,
        and one that never moves.
        """
        variants = {f"{n}": self._overrides(n) for n in self.layers}
        frames = []
        for name, seed, run in lab.train(variants, seeds):
            weights = int(name) - 1
            gain = self._gain(int(name))
            rows = signals_of(run, ["weight_norm"]).query("layer == 1")
            a = np.sqrt((rows["weight_norm"] ** 2 - gain**2) / (CLASSES - 1))
            frame = pd.DataFrame(
                {"t": rows["step"] * self.eta, "u": a**weights, "variant": name, "seed": seed}
            )
            frames.append(frame.assign(layers=int(name), kind="mode"))
        return pd.concat(frames)

    def _gain(self, layers: int) -> float:
        return float((self.begin * SIZE) ** (1 / (layers - 1)))

    def _overrides(self, layers: int) -> list[str]:
        steps = math.ceil(
            1.05 * learning_time(layers, self.begin * SIZE, self.end * SIZE, SIZE) / self.eta
        )
        # mean squared error over K classes, inputs of covariance K/(K-1): dL/dW = (2/K) (K/(K-1))
        # (u - s)
        rate = self.eta * (CLASSES - 1) / 2 / (layers - 1)
        return [
            *(
                "data=unit_vectors",
                "loss=mse",
                "activation=linear",
                "model.bias=false",
                "trainer.precision=64-true",
            ),
            *(
                "initializer=identity",
                "initializer.readout=identity",
                f"initializer.gain={self._gain(layers)}",
            ),
            *(f"model.depth={layers - 1}", f"model.width={CLASSES}", f"optimizer.lr={rate}"),
            *(
                f"trainer.max_steps={steps}",
                "trainer.max_epochs=1000000",
                "trainer.check_val_every_n_epoch=1000000",
            ),
            *("callbacks.signals.every_n_steps=5", "callbacks.checkpoints.every_n_epochs=1000000"),
        ]

    def _digits(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        common = [
            "activation=linear",
            f"model.depth={self.deep}",
            f"model.width={self.width}",
            f"data={self.data}",
        ]
        common += [*for_steps(self.steps), "callbacks.signals.every_n_steps=100"]
        variants = {
            f"{name}|{rate:g}": [*common, f"initializer={option}", f"optimizer.lr={rate}"]
            for name, option in (("orthogonal", "orthogonal"), ("Gaussian", "gaussian"))
            for rate in self.rates
        }
        frames = []
        for words, seed, run in lab.train(variants, seeds):
            name, rate = words.split("|")
            losses = metrics_of(run)[["step", "train_loss"]].dropna()
            losses = losses.assign(variant=name, seed=seed, kind="digits", rate=float(rate))
            frames.append(losses)
        return pd.concat(frames)

    def best(self, data: pd.DataFrame) -> pd.DataFrame:
        """The digits of each initialization at the rate with the lowest loss at the end."""
        digits = data[data["kind"] == "digits"]
        last = digits[digits["step"] == digits["step"].max()]
        means = last.groupby(["variant", "rate"])["train_loss"].mean().dropna()
        chosen = list(means.groupby("variant").idxmin())
        return pd.concat(
            [digits[(digits["variant"] == v) & (digits["rate"] == rate)] for v, rate in chosen]
        )

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 3, (3.2, 3.0))
        left, middle, right = axes[0]
        modes = data[data["kind"] == "mode"]
        for index, (layers, rows) in enumerate(modes.groupby("layers")):
            look = {**style.look(index), "marker": ""}
            left.plot(rows["t"], rows["u"] / SIZE, label=f"{layers:.0f}", **look)
        left.set(xlabel=r"$t$ = steps $\times$ rate $\times\, 2(N_l - 1)/(K - 1)$", xscale="log")
        left.set_ylabel("strength of a mode $u/s$")
        left.legend(title="layers $N_l$")
        depths = np.unique(np.geomspace(3, 1000, 60).round())
        times = [learning_time(n, self.begin * SIZE, self.end * SIZE, SIZE) for n in depths]
        middle.plot(depths, times, color="black", linestyle=":", label="eq. 15")
        measured = self.times(data)
        middle.plot(
            list(measured),
            list(measured.values()),
            linestyle="",
            marker="o",
            color=style.COLOURS[0],
            label="trained",
        )
        middle.set(
            xscale="log",
            xlabel="layers $N_l$",
            ylabel=f"$t$ from {self.begin:g} $s$ to {self.end:g} $s$",
            ylim=(0, None),
        )
        middle.legend()
        best = self.best(data)
        words = best["variant"] + ", rate " + best["rate"].map("{:g}".format)
        seed_lines(right, best.assign(words=words), "step", "train_loss", "words", markevery=0.2)
        integer_axis(right, "optimizer step")
        right.set(ylabel="training loss (nats)", title=f"digits, {self.deep} linear layers")
        right.legend()
        return figure

    def times(self, data: pd.DataFrame) -> dict[int, float]:
        """For each depth the t at which u reaches u_f."""
        found = {}
        for layers, rows in data[data["kind"] == "mode"].groupby("layers"):
            ordered = rows.sort_values("t")
            logs = np.log(ordered["u"])
            found[int(float(str(layers)))] = float(
                np.interp(math.log(self.end * SIZE), logs, ordered["t"])
            )
        return found

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        found = {
            f"time-{layers}": exact(
                time, learning_time(layers, self.begin * SIZE, self.end * SIZE, SIZE)
            )
            for layers, time in self.times(data).items()
        }
        times = self.times(data)
        deep, deeper = sorted(times)[-2:]
        found["plateau"] = exact(math.log(times[deeper] / times[deep]) / math.log(deeper / deep))
        digits = self.best(data).sort_values("step")
        last = digits.groupby(["variant", "seed"])["train_loss"].last()
        return {**found, "ordering": over_seeds((last["Gaussian"] - last["orthogonal"]).tolist())}

"""Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks
(arXiv:1211.5063): gradients through time vanish or explode with the recurrent matrix, and clipping
their norm cures exploding.

Setting: a tanh recurrence with Gaussian matrix N(0, σ_w²/n) and inputs that act as a bias of
variance σ_u² = 0.1: mean-field theory gives the factor χ₁ on the squared gradient a time step going
back. An LSTM without recurrence (W_hh = 0) hands its cell's gradient on by the forget gate, σ(b_f).
Training: digits row by row from σ_w = 2, where the gradient grows by 100 through time; plain
gradient descent at a rate of 0.5. Pilot (seed 100): without clipping accuracy 0.38, with the norm
clipped to 1 0.66; at a rate of 0.1 clipping does not help (0.74 and 0.62): it makes large rates
possible. Not reproduced: the paper's regularization against vanishing, and its tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn

from isometry.figures.claims import Estimate, exact, of_logs, over_seeds
from isometry.figures.lab import Lab, accuracy_of, for_steps, signals_of
from isometry.layers.recurrent import Recurrence
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines
from isometry.theory.fixed_points import settled
from isometry.theory.meanfield import chi

INPUT_VARIANCE = 0.1
SQUARES = (1.0, 1.5, 2.0, 3.0)
"""σ_w² of the recurrent matrix."""
THRESHOLD = 1.0
"""Norm to which gradients are clipped."""
FORGET = (-1.0, 0.0, 1.0, 2.0)
"""Biases of the forget gate."""


@dataclass
class ThroughTime:
    """δ² against time, by σ_w², and of an LSTM's cell.

    Args:
        times: steps of the recurrence.
        width: its units.
        batch: sequences.
        steps: of the trainings with and without clipping.
    """

    times: int
    width: int
    batch: int
    steps: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        frames = [self._tanh(lab, seeds), self._cells(lab, seeds), self._trained(lab, seeds)]
        return pd.concat(frames, ignore_index=True)

    def _tanh(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        units = 64
        common = ["model=rnn", "activation=tanh", "model.start=gaussian"]
        common += [
            f"model.width={self.width}",
            f"model.input_std={(INPUT_VARIANCE / units) ** 0.5}",
        ]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch, self.times, units, generator=generator, dtype=torch.float64)
        frames = []
        for square in SQUARES:
            words = [*common, f"model.gain={square**0.5}"]
            for seed, network in lab.networks(words, seeds, (1, self.times, units)):
                logs = np.log(deltas_of(network.recurrence, x))  # type: ignore[arg-type]
                row = {"time": np.arange(self.times), "log_delta": logs - logs[-1]}
                frames.append(pd.DataFrame(row).assign(variant=f"{square:g}", seed=seed))
        expected = {f"{s:g}": chi_through_time(lab, s) for s in SQUARES}
        found = pd.concat(frames, ignore_index=True)
        return found.assign(expected=found["variant"].map(expected), kind="tanh")

    def _cells(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        rows = []
        for bias in FORGET:
            words = ["model=lstm", "model.width=16", f"model.forget_bias={bias}"]
            for seed, network in lab.networks(words, seeds, (1, self.times, 4)):
                factor = cell_factor(network.recurrence, self.times)  # type: ignore[arg-type]
                rows.append({"variant": f"{bias:g}", "seed": seed, "factor": factor})
        expected = {f"{b:g}": float(torch.sigmoid(torch.tensor(b).double())) for b in FORGET}
        found = pd.DataFrame(rows)
        return found.assign(expected=found["variant"].map(expected), kind="lstm")

    def _trained(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """Accuracy, and the largest norm of the weights' gradient that the optimizer saw."""
        common = ["model=rnn", "model.start=gaussian", "model.gain=2.0", "optimizer.lr=0.5"]
        common += [*for_steps(self.steps), "callbacks.signals.every_n_steps=5"]
        clipped = [*common, f"trainer.gradient_clip_val={THRESHOLD}"]
        rows = []
        for name, seed, run in lab.train({"plain": common, "clipped": clipped}, seeds):
            norms = signals_of(run, ["weight_grad_norm_clipped"])
            squares = (norms["weight_grad_norm_clipped"] ** 2).groupby(norms["step"]).sum()
            row = {"variant": name, "seed": seed, "accuracy": accuracy_of(run)}
            rows.append({**row, "largest": float(squares.max() ** 0.5)})
        return pd.DataFrame(rows).assign(kind="trained")

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.6, 3.2))
        tanh = data[data["kind"] == "tanh"]
        tanh = tanh.assign(delta=np.exp(tanh["log_delta"]), variant="$σ_w^2$ = " + tanh["variant"])
        seed_lines(axes[0, 0], tanh, "time", "delta", "variant", log=True, markevery=12)
        times = np.arange(self.times)
        for expected in tanh["expected"].unique():
            line = expected ** (self.times - 1 - times)
            axes[0, 0].plot(times, line, color="black", linewidth=0.8, linestyle=":")
        integer_axis(axes[0, 0], "time step")
        axes[0, 0].set(ylabel=r"$\|\delta_t\|^2 / \|\delta_T\|^2$", title="tanh; dotted: $χ_1$")
        axes[0, 0].legend(fontsize=7)
        cells = data[data["kind"] == "lstm"].groupby("variant")[["factor", "expected"]].mean()
        cells.index = cells.index.astype(float)
        cells = cells.sort_index()
        axes[0, 1].plot(cells.index, cells["factor"], **{**style.look(0), "linestyle": ""})
        bias = torch.linspace(-2, 3, 50)
        axes[0, 1].plot(bias, torch.sigmoid(bias), color="black", linewidth=0.8, linestyle=":")
        words = "LSTM's cell, $W_{hh} = 0$; dotted: σ(b_f)"
        axes[0, 1].set(xlabel="bias of the forget gate", ylabel="factor a time step", title=words)
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        tanh = data[data["kind"] == "tanh"]
        found = {}
        for square in SQUARES:
            rows = tanh[tanh["variant"] == f"{square:g}"]
            logs = rows.pivot(index="seed", columns="time", values="log_delta").to_numpy()
            inner = slice(self.times // 5, self.times - self.times // 5)
            rates = -np.diff(logs[:, inner]).mean(1)
            found[f"tanh-{square:g}"] = of_logs(rates.tolist(), float(rows["expected"].iloc[0]))
        cells = data[data["kind"] == "lstm"]
        for bias in FORGET:
            rows = cells[cells["variant"] == f"{bias:g}"]
            expected = float(rows["expected"].iloc[0])
            found[f"lstm-{bias:g}"] = over_seeds(rows["factor"].tolist(), expected)
        return found | _of_trainings(data[data["kind"] == "trained"].sort_values("seed"))


def _of_trainings(data: pd.DataFrame) -> dict[str, Estimate]:
    """What clipping does to accuracy and norm."""
    clipped, plain = (data[data["variant"] == name] for name in ("clipped", "plain"))
    gain = clipped["accuracy"].to_numpy() - plain["accuracy"].to_numpy()
    return {
        "clipping-helps": over_seeds(gain.tolist()),
        "clipped-norm": exact(float(clipped["largest"].max())),
        "plain-norm": over_seeds(np.log10(plain["largest"].to_numpy()).tolist()),
    }


def deltas_of(recurrence: nn.RNNBase, x: Tensor) -> np.ndarray:
    """Mean squared norm of δ at each time, of a random direction at the last state."""
    calls = Recurrence(recurrence, x, None)
    generator = torch.Generator().manual_seed(1)
    shape = (len(x), x.shape[1], recurrence.hidden_size)
    direction = torch.zeros(shape, dtype=x.dtype)
    direction[:, -1] = torch.randn(shape[::2], generator=generator, dtype=x.dtype)
    calls.receive(0, direction)
    ((_, _, delta),) = calls.gates()
    assert delta is not None
    found: np.ndarray = delta.square().sum(2).mean(1).numpy()
    return found


def chi_through_time(lab: Lab, square: float) -> float:
    """χ₁ of the recurrence, whose input is a bias."""
    phi = lab.activation("tanh")
    q = settled(phi, square**0.5, INPUT_VARIANCE**0.5)
    return chi(phi, q, square**0.5)


def cell_factor(recurrence: nn.RNNBase, times: int) -> float:
    """The factor on the cell's gradient a time step, without recurrence and input."""
    with torch.no_grad():
        recurrence.weight_hh_l0.zero_()  # type: ignore[operator]
    units = recurrence.hidden_size
    state = torch.zeros(1, 1, units, dtype=torch.float64)
    cell = torch.zeros(1, 1, units, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(1, times, recurrence.input_size, dtype=torch.float64)
    _, (_, last) = recurrence(x, (state, cell))
    (gradient,) = torch.autograd.grad(last.sum(), cell)
    return float(gradient.mean()) ** (1 / times)

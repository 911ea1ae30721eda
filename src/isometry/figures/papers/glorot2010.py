"""Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks,
figures 2, 6, 7 and 8.

Figures 6 to 8: histograms of activations, back-propagated gradients and weight gradients at
initialization, layer by layer, in a tanh network of 5 hidden layers of 1000 units, batch 10, no
biases; "standard" U(±1/√n) (their eq. 1) above, normalized (eq. 16) below. Figure 2: the top hidden
layer of a sigmoid network saturates soon after training begins.

`quick` keeps the paper's sizes for figures 6 to 8 and has 5,000 digits where the paper has
Shapeset-3 x 2; figure 2 is scaled to 4 x 300 units and 2,000 steps. Not reproduced: the escape from
saturation after some hundred epochs (the paper's fig. 2), and test errors.

Pilot of figure 2 (seeds 100 to 104): layer 4 ends at 0.063, layer 1 at 0.505, the loss 0.006 above
ln 10.

Weight gradients are nearly the same in all layers under *both* initializations, as the paper found
to its surprise (its fig. 8) and as its eq. 14 explains; what fades is the back-propagated gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab, for_steps, metrics_of, signals_of
from isometry.initialization.jacobian import jacobian_singular_values
from isometry.initialization.observe import Observation
from isometry.initialization.predict import predict_network
from isometry.layers.discover import layers_of
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

INITIALIZERS = {"standard": "standard_uniform", "normalized": "glorot_uniform"}
BINS = 60


@dataclass
class Histograms(ABC):
    """What figures 6, 7 and 8 share.

    Args:
        depth: weight layers; one less are hidden.
        width: of the hidden layers.
        batch: examples.
    """

    depth: int
    width: int
    batch: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """Rows of kind `std` (standard deviation by layer), `histogram`, and what a figure adds."""
        rows: list[pd.DataFrame] = []

        def keep(name: str, seed: int, seen: Observation, network: nn.Module) -> None:
            tensors = self.tensors(seen, network)
            stds = [float(tensor.std(correction=0)) for tensor in tensors]
            layers = range(self.lowest, self.lowest + len(tensors))
            rows.append(
                pd.DataFrame(
                    {"kind": "std", "layer": layers, "value": stds, "variant": name, "seed": seed}
                )
            )
            for layer, tensor in zip(layers, tensors, strict=True):
                density, edges = np.histogram(
                    tensor.numpy().ravel() / self.unit(stds), BINS, self.range(), density=True
                )
                middle = (edges[1:] + edges[:-1]) / 2
                frame = pd.DataFrame(
                    {"x": middle, "value": density, "layer": layer, "variant": name, "seed": seed}
                )
                rows.append(frame.assign(kind="histogram"))

        overrides = ["activation=tanh", f"model.depth={self.depth}", f"model.width={self.width}"]
        variants = {
            name: [*overrides, f"initializer={option}"] for name, option in INITIALIZERS.items()
        }
        lab.profiles(variants, seeds, lab.digits(self.batch), each=keep)
        return pd.concat([*rows, *self.more(lab, variants, seeds)], ignore_index=True)

    @abstractmethod
    def tensors(self, seen: Observation, network: nn.Module) -> list[Tensor]:
        """One tensor a layer, whose entries are counted."""

    def unit(self, stds: Sequence[float]) -> float:
        """What the x-axis is measured in."""
        return stds[-1]

    def range(self) -> tuple[float, float]:
        """Of the x-axis."""
        return -4.0, 4.0

    def more(
        self, lab: Lab, variants: dict[str, list[str]], seeds: Sequence[int]
    ) -> list[pd.DataFrame]:
        """Further measurements."""
        return []

    xlabel = ""
    lowest = 1
    """Number of the lowest layer that is shown."""

    def draw(self, data: pd.DataFrame) -> Drawing:
        """Densities of each layer, a panel an initialization; standard deviations beside them."""
        figure, axes = style.figure(1, 3, (3.0, 2.9))
        counted = data[data["kind"] == "histogram"]
        for axis, name in zip(axes[0], INITIALIZERS, strict=False):
            rows = counted[counted["variant"] == name].assign(
                words=lambda f: "layer " + f["layer"].astype(int).astype(str)
            )
            seed_lines(axis, rows, "x", "value", "words", marker="", linewidth=1.1)
            axis.set(title=name, xlabel=self.xlabel, ylabel="density")
        axes[0, 0].legend(fontsize=7)
        seed_lines(axes[0, 2], data[data["kind"] == "std"], "layer", "value", "variant", log=True)
        for _, rows in data[
            (data["kind"] == "predicted") & (data["seed"] == data["seed"].min())
        ].groupby("variant"):
            axes[0, 2].plot(
                rows["layer"], rows["value"], color="black", linestyle=":", linewidth=0.9
            )
        words = "\n(dotted: mean field)" if "predicted" in set(data["kind"]) else ""
        axes[0, 2].set(title=f"standard deviation{words}", ylabel="of the entries of a layer")
        integer_axis(axes[0, 2], "layer $l$")
        axes[0, 2].legend()
        return figure

    def stds(self, data: pd.DataFrame, name: str) -> pd.DataFrame:
        """Standard deviations, a row a seed, a column a layer."""
        rows = data[(data["kind"] == "std") & (data["variant"] == name)]
        return rows.pivot(index="seed", columns="layer", values="value")


class Activations(Histograms):
    """Figure 6: activations tanh(h)."""

    xlabel = "activation"

    def tensors(self, seen: Observation, network: nn.Module) -> list[Tensor]:
        return [a.detach() for a in seen.activations[:-1]]

    def unit(self, stds: Sequence[float]) -> float:
        return 1.0

    def range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def more(
        self, lab: Lab, variants: dict[str, list[str]], seeds: Sequence[int]
    ) -> list[pd.DataFrame]:
        """What the length map says of the activations: E a_l² = q_{l+1} / σ_w² of the layer
        above.
        """
        images = lab.digits(self.batch)[0]
        rows = []
        for name, overrides in variants.items():
            _, network = next(lab.networks(overrides, seeds[:1]))
            layers = layers_of(network)
            log_q = predict_network(layers, images, self.batch, networks=0).log_q
            squares = [
                math.exp(log) / float(spec.sigma_w or 1) ** 2
                for log, spec in zip(log_q[1:], layers[1:], strict=True)
            ]
            frame = pd.DataFrame({"value": np.sqrt(squares), "layer": range(1, len(layers))})
            rows.append(frame.assign(kind="predicted", variant=name, seed=seeds[0]))
        return rows

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """The ratio of standard deviations from layer to layer."""
        predicted = data[
            (data["kind"] == "predicted") & (data["variant"] == "normalized")
        ].sort_values("layer")["value"]
        kept = float(predicted.iloc[-1] / predicted.iloc[0])
        standard = self.stds(data, "standard")
        normalized = self.stds(data, "normalized")
        below = np.log(standard.iloc[:, -1] / standard.iloc[:, 1]) / (standard.shape[1] - 2)
        return {
            "standard-ratio": of_logs(below.tolist(), 1 / math.sqrt(3)),
            "kept-more": over_seeds(
                (
                    normalized.iloc[:, -1] / normalized.iloc[:, 0]
                    - standard.iloc[:, -1] / standard.iloc[:, 0]
                ).tolist()
            ),
            "normalized-kept": over_seeds(
                (normalized.iloc[:, -1] / normalized.iloc[:, 0]).tolist(), kept
            ),
        }


class BackpropagatedGradients(Histograms):
    """Figure 7: δ, the gradient with respect to the preactivations."""

    xlabel = r"$\delta_l$ in units of the last hidden layer's std"

    def tensors(self, seen: Observation, network: nn.Module) -> list[Tensor]:
        return [delta.detach() for delta in seen.deltas[:-1]]

    def more(
        self, lab: Lab, variants: dict[str, list[str]], seeds: Sequence[int]
    ) -> list[pd.DataFrame]:
        """Mean singular value of one layer's Jacobian where tanh is linear, at inputs close to 0; δ
        as mean field has it.
        """
        image = 1e-6 * lab.digits(1)[0]
        rows = []
        predicted = [
            self.predicted(lab, name, overrides, seeds[0]) for name, overrides in variants.items()
        ]
        for name, overrides in variants.items():
            for seed, network in lab.networks(overrides, seeds):
                values = jacobian_singular_values(network, image, first=2, last=3)
                assert values is not None
                rows.append(
                    {"kind": "singular", "value": values.mean(), "variant": name, "seed": seed}
                )
        return [pd.DataFrame(rows), *predicted]

    def predicted(self, lab: Lab, name: str, overrides: list[str], seed: int) -> pd.DataFrame:
        """Standard deviation of δ of the hidden layers, up to the factor at the top, which is not
        drawn from theory.
        """
        _, network = next(lab.networks(overrides, [seed]))
        images, _ = lab.digits(self.batch)
        logs = predict_network(layers_of(network), images, self.batch, networks=0).log_delta[:-1]
        frame = pd.DataFrame(
            {"value": np.exp(0.5 * (logs - logs[-1])), "layer": range(1, len(logs) + 1)}
        )
        return frame.assign(kind="relative", variant=name, seed=seed)

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """The ratio going back, and the mean singular values (of a random square matrix: the
        quarter-circle law, 8/(3π)).
        """
        standard = self.stds(data, "standard")
        normalized = self.stds(data, "normalized")
        back = [
            np.log(frame.iloc[:, 0] / frame.iloc[:, -1]) / (frame.shape[1] - 1)
            for frame in (standard, normalized)
        ]
        singular = data[data["kind"] == "singular"].groupby("variant")["value"].apply(list)
        return {
            "standard-ratio": of_logs(back[0].tolist(), self.ratio(data, "standard")),
            "normalized-ratio": of_logs(back[1].tolist(), self.ratio(data, "normalized")),
            "standard-singular": over_seeds(singular["standard"], 8 / (3 * math.pi * math.sqrt(3))),
            "normalized-singular": over_seeds(singular["normalized"], 8 / (3 * math.pi)),
        }

    def ratio(self, data: pd.DataFrame, name: str) -> float:
        """A layer's factor on the standard deviation of δ, as mean field has it."""
        rows = data[(data["kind"] == "relative") & (data["variant"] == name)]
        top = float(rows[rows["layer"] == 1]["value"].iloc[0])
        return float(top ** (1 / (int(rows["layer"].max()) - 1)))


class WeightGradients(Histograms):
    """Figure 8: gradients of the weights between hidden layers, of the batch's mean loss."""

    xlabel = r"$\partial L/\partial W_l$ in units of the last hidden layer's std"
    lowest = 2

    def tensors(self, seen: Observation, network: nn.Module) -> list[Tensor]:
        gradients = [spec.weights[0].grad for spec in layers_of(network)[1:-1]]
        return [gradient for gradient in gradients if gradient is not None]

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """Largest over smallest standard deviation among the layers."""
        return {
            f"{name}-flat": over_seeds((stds.max(axis=1) / stds.min(axis=1)).tolist())
            for name, stds in ((name, self.stds(data, name)) for name in INITIALIZERS)
        }


@dataclass
class Saturation:
    """Figure 2: mean activations of a sigmoid network while it trains.

    Args:
        hidden: hidden layers.
        width: their units.
        steps: optimizer steps.
        lr: learning rate.
        batch: examples a step.
        data: data set.
    """

    hidden: int
    width: int
    steps: int
    lr: float = 0.1
    batch: int = 10
    data: str = "mnist_5k"

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """Mean activation of each hidden layer every 50 steps; final training loss."""
        overrides = [
            "activation=sigmoid",
            "initializer=standard_uniform",
            f"optimizer.lr={self.lr}",
            f"data={self.data}",
        ]
        overrides += [
            f"model.depth={self.hidden + 1}",
            f"model.width={self.width}",
            f"data.batch_size={self.batch}",
        ]
        overrides += [*for_steps(self.steps), "callbacks.signals.every_n_steps=50"]
        frames = []
        for _, seed, run in lab.train({"sigmoid": overrides}, seeds):
            found = signals_of(run, ["kind", "activation_mean", "activation_var"]).dropna()
            loss = metrics_of(run)["train_loss"].dropna().iloc[-1]
            frames.append(
                found[found["kind"] == "hidden"]
                .assign(seed=seed, train_loss=loss)
                .drop(columns="kind")
            )
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        """Mean activation against step, a line a layer."""
        figure, ((axis,),) = style.figure(1, 1, (4.4, 3.2))
        rows = data.assign(words="layer " + data["layer"].astype(str))
        seed_lines(axis, rows, "step", "activation_mean", "words", markevery=4)
        integer_axis(axis, "optimizer step")
        axis.set(
            ylabel="mean activation",
            title="sigmoid: the top hidden layer saturates at 0",
            ylim=(0, 1),
        )
        axis.legend(ncols=2)
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        """Means at the end, and how far the loss is from guessing."""
        last = data[data["step"] == data["step"].max()].pivot(
            index="seed", columns="layer", values="activation_mean"
        )
        first = data[data["step"] == 0].pivot(
            index="seed", columns="layer", values="activation_mean"
        )
        loss = data.groupby("seed")["train_loss"].first()
        return {
            "top-begins": over_seeds(first[self.hidden].tolist()),
            "top-ends": over_seeds(last[self.hidden].tolist()),
            "bottom-ends": over_seeds(last[1].tolist()),
            "loss": over_seeds((loss - math.log(10)).tolist()),
        }

"""Growth along the trunk of residual networks at initialization: Yang & Schoenholz 2017; Hanin &
Rolnick 2018; Zhang, Dauphin & Ma 2019; De & Smith 2020 (arXiv:2002.10444), sec. 3.

Setting: x_{l+1} = x_l + α W relu(norm(x_l)), He's weights without biases, inputs scaled to
q_0 = 1. Each branch adds E relu(z)² · 2 = 1 to q where it is normalized, and q itself where it is
not: q_l = l + 1 against 2^l. Gradients: layer norm divides by q_l, so that δ² gains a factor
1 + 1/q_l a block, L + 1 in all; batch norm divides by the variance over the batch, which grows by
1 - 1/π only, as relu's mean is the same for all examples: the product of 1 + 1/(1 + (1 - 1/π) l).
With α = 1/√L, q_L = (1 + 1/L)^L, under e. Fixup's branches begin at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn

from isometry.figures.claims import Estimate, of_logs
from isometry.figures.lab import Lab
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

VARIANTS = {
    "no norm": [],
    "layer norm": ["normalization=layer"],
    "batch norm": ["normalization=batch"],
    "no norm, 1/√L": ["model.scale=auto"],
    "Fixup": ["remedy=fixup", "model.block_depth=2"],
}


@dataclass
class Growth:
    """q and δ² along the trunk.

    Args:
        blocks: L.
        width: of the trunk.
        batch: examples.
    """

    blocks: int
    width: int
    batch: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        images, _ = lab.noise(self.batch)
        frames = []
        for name, words in VARIANTS.items():
            size = 2 if name == "Fixup" else 1
            common = ["model=residual_mlp", "activation=relu", "initializer=he_normal"]
            common += [f"model.depth={2 + size * self.blocks}", f"model.width={self.width}"]
            common += ["model.block_depth=1", "model.bias=false", *words]
            for seed, network in lab.networks(common, seeds):
                q, delta = along_trunk(network.train(), images)
                row = {"block": np.arange(self.blocks + 1), "q": q, "delta": delta}
                frames.append(pd.DataFrame(row).assign(variant=name, seed=seed))
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.6, 3.3))
        seed_lines(axes[0, 0], data, "block", "q", "variant", log=True, markevery=8)
        seed_lines(axes[0, 1], data, "block", "delta", "variant", log=True, markevery=8)
        for axis in axes[0]:
            integer_axis(axis, "residual block $l$")
        axes[0, 0].set(ylabel="$q_l / q_0$", ylim=(0.5, 1e6))
        axes[0, 1].set(ylabel=r"$\|\delta_l\|^2 / \|\delta_L\|^2$", ylim=(0.5, 1e6))
        axes[0, 0].legend(fontsize=7)
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = data[data["block"] == self.blocks].set_index(["variant", "seed"])["q"]
        first = data[data["block"] == 0].set_index(["variant", "seed"])["delta"]
        log_q, log_delta = np.log(last), np.log(first)
        count = self.blocks
        variances = 1 + (1 - 1 / math.pi) * np.arange(count)
        batch_norm = float(np.prod(1 + 1 / variances))
        plain = log_q["no norm"] / count
        return {
            "doubles": of_logs(plain.tolist(), 2.0),
            "doubles-back": of_logs((log_delta["no norm"] / count).tolist(), 2.0),
            "layer-norm": of_logs(log_q["layer norm"].tolist(), count + 1.0),
            "layer-norm-back": of_logs(log_delta["layer norm"].tolist(), count + 1.0),
            "batch-norm": of_logs(log_q["batch norm"].tolist(), count + 1.0),
            "batch-norm-back": of_logs(log_delta["batch norm"].tolist(), batch_norm),
            "scaled": of_logs(log_q["no norm, 1/√L"].tolist(), (1 + 1 / count) ** count),
            "fixup": of_logs(log_q["Fixup"].tolist(), 1.0),
        }


def along_trunk(network: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """q_l / q_0 and ‖δ_l‖² / ‖δ_L‖² behind the stem and each block, [L + 1] each, for a random
    direction at the end of the trunk.
    """
    stem, *blocks, _ = network.layers  # type: ignore[misc]
    x = stem(images.flatten(1))  # type: ignore[operator]
    x = (x / x.square().mean().sqrt()).detach().requires_grad_()
    found = [x]
    for block in blocks:
        found.append(block(found[-1]))  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(found[-1].shape, generator=generator, dtype=found[-1].dtype)
    deltas = torch.autograd.grad(found[-1], found, direction)
    q = torch.stack([each.detach().square().mean() for each in found])
    norms = torch.stack([each.square().mean() for each in deltas])
    return (q / q[0]).numpy(), (norms / norms[-1]).numpy()

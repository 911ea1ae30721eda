"""Xiong et al. 2020, On layer normalization in the transformer architecture (arXiv:2002.04745),
figure 3: gradients at initialization, post-LN against pre-LN.

Setting of the paper: 6 encoder and 6 decoder blocks on IWSLT14; its theorem 1: the gradient of the
last feed-forward map does not depend on the depth L with post-LN, and falls as 1/√L with pre-LN.
Here an encoder on the patches of digits, width 128, L = 6, 12, 24, Glorot's weights: the theorem's
two slopes, of the gradient of one example at a time (that of a batch's mean also has the examples'
correlation in it). That post-LN's gradients vanish towards the input shows in decoders with
cross-attention; in an encoder the profile is nearly flat, and is drawn. Not reproduced:
translation, warm-up (`study=transformer_norms` in docs/studies.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isometry.figures.claims import Estimate, over_seeds
from isometry.figures.lab import Lab
from isometry.networks.attention import FeedForward
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

PLACES = {"post-LN": "post", "pre-LN": "pre"}


@dataclass
class SublayerGradients:
    """The weight gradient of each block's last feed-forward map.

    Args:
        depths: blocks.
        width: units of a position.
        heads: of the attention.
        patch: side of the patches.
        batch: digits.
    """

    depths: Sequence[int]
    width: int
    heads: int
    patch: int
    batch: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        frames = []
        for name, place in PLACES.items():
            for depth in self.depths:
                words = ["model=vit", f"model.norm_place={place}", f"model.depth={depth}"]
                words += [f"model.width={self.width}", f"model.heads={self.heads}"]
                words += [f"model.patch={self.patch}", "activation=relu"]
                for seed, network in lab.networks(words, seeds):
                    gradients = by_block(network, *lab.digits(self.batch))
                    row = {"block": np.arange(1, depth + 1), "gradient": gradients}
                    frames.append(pd.DataFrame(row).assign(variant=name, depth=depth, seed=seed))
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, axes = style.figure(1, 2, (3.6, 3.2))
        last = data[data["block"] == data["depth"]]
        seed_lines(axes[0, 0], last, "depth", "gradient", "variant", log=True)
        axes[0, 0].set(xscale="log", xticks=list(self.depths), xlabel="blocks $L$")
        axes[0, 0].set_xticklabels([str(depth) for depth in self.depths])
        axes[0, 0].minorticks_off()
        axes[0, 0].set(ylabel="gradient of the last feed-forward map")
        axes[0, 0].legend()
        deepest = data[data["depth"] == max(self.depths)]
        seed_lines(axes[0, 1], deepest, "block", "gradient", "variant", log=True, markevery=3)
        integer_axis(axes[0, 1], f"block of {max(self.depths)}")
        axes[0, 1].set(ylabel="gradient of each block's")
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = data[data["block"] == data["depth"]]
        found = {}
        for name in PLACES:
            rows = last[last["variant"] == name].pivot(index="seed", columns="depth")["gradient"]
            slopes = np.polyfit(np.log(rows.columns), np.log(rows).to_numpy().T, 1)[0]
            found[f"{name.lower()}-slope"] = over_seeds(slopes.tolist())
        return found


def by_block(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Norm of one example's gradient of each block's last map, the root mean square over
    examples.
    """
    maps = [part.out.weighted for part in network.modules() if isinstance(part, FeedForward)]
    weights = [each.weight for each in maps]
    squares = torch.zeros(len(weights), dtype=images.dtype)
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = cross_entropy(network(image), label)
        gradients = torch.autograd.grad(loss, weights)  # type: ignore[arg-type]
        squares += torch.stack([gradient.square().sum() for gradient in gradients])
    found: np.ndarray = (squares / len(images)).sqrt().numpy()
    return found

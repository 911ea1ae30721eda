"""Dong, Cordonnier & Loukas 2021, Attention is not all you need: pure attention loses rank doubly
exponentially with depth (arXiv:2103.03404), figure 2.

Setting: a transformer at initialization (Glorot's weights) on the patches of a digit. The residual
of a sequence X is the share of its norm that is not common to all positions, ‖X - 1 mean(X)‖/‖X‖.
Self-attention alone drives it to zero; shortcuts keep it; feed-forward maps only slow the fall
down. Not reproduced: the paper's trained language models. At initialization queries and keys are
small, attention is nearly uniform, and the fall is steeper than in trained networks; doubly
exponential means that the logarithm falls faster and faster, which is what the second claim
measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor, nn

from isometry.figures.claims import Estimate, of_logs, over_seeds
from isometry.figures.lab import Lab
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

Block = Callable[[Tensor, nn.Module, nn.Module], Tensor]
PATHS: dict[str, Block] = {
    "attention": lambda x, attend, feed: attend(x),
    "attention and feed-forward": lambda x, attend, feed: feed(attend(x)),
    "attention and shortcut": lambda x, attend, feed: x + attend(x),
    "all three": lambda x, attend, feed: _fed(x + attend(x), feed),
}


def _fed(x: Tensor, feed: nn.Module) -> Tensor:
    fed: Tensor = x + feed(x)
    return fed


@dataclass
class RankCollapse:
    """The residual of the sequence against depth.

    Args:
        blocks: depth.
        width: units of a position.
        heads: of the attention.
        gain: factor on Glorot's weights.
        batch: digits.
    """

    blocks: int
    width: int
    heads: int
    gain: float
    batch: int

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        images, _ = lab.digits(self.batch)
        words = ["model=vit", f"model.depth={self.blocks}", f"model.width={self.width}"]
        words += [f"model.heads={self.heads}", "model.patch=4", "normalization=none"]
        words += ["initializer=glorot_normal", f"initializer.gain={self.gain}"]
        frames = []
        for seed, network in lab.networks(words, seeds):
            for name, block in PATHS.items():
                row = {"block": np.arange(self.blocks + 1)}
                residual = residuals(network, images, block)
                frames.append(pd.DataFrame({**row, "residual": residual, "variant": name}))
                frames[-1]["seed"] = seed
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        figure, ((axis,),) = style.figure(1, 1, (4.6, 3.4))
        seed_lines(axis, data, "block", "residual", "variant", log=True)
        integer_axis(axis, "block")
        axis.set(ylabel="what positions do not share", ylim=(1e-16, 2))
        axis.legend(fontsize=7)
        return figure

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        logs = np.log(data.set_index(["variant", "block", "seed"])["residual"]).sort_index()
        alone = [logs["attention", block].to_numpy() for block in range(4)]
        end = {name: np.exp(logs[name, self.blocks]).tolist() for name in PATHS}
        return {
            "collapses": of_logs(alone[3].tolist()),
            "faster-and-faster": over_seeds(
                ((alone[2] - alone[3]) - (alone[1] - alone[2])).tolist()
            ),
            "shortcut": over_seeds(end["attention and shortcut"]),
            "all-three": over_seeds(end["all three"]),
        }


@torch.no_grad()
def residuals(network: nn.Module, images: Tensor, block: Block) -> np.ndarray:
    """Behind the stem and each block, [blocks + 1]: the mean over examples."""
    stem, *sublayers, _, _ = network.layers  # type: ignore[misc]
    inside = [each.branch[-1] for each in sublayers]  # type: ignore[union-attr, index]
    x = stem(images)  # type: ignore[operator]
    found = [residual(x)]
    for attend, feed in zip(inside[::2], inside[1::2], strict=True):
        x = block(x, attend, feed)  # type: ignore[arg-type]
        found.append(residual(x))
    return np.array(found)


def residual(x: Tensor) -> float:
    """‖X - 1 mean(X)‖ / ‖X‖ of sequences [batch, positions, width]."""
    rest = x - x.mean(1, keepdim=True)
    return float((rest.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean())

"""He, Zhang, Ren & Sun 2016, Deep residual learning for image recognition (arXiv:1512.03385),
figure 6: a deeper plain network has the higher training error, a deeper residual one has not.

Setting of the paper: 6n + 2 layers with batch norm on CIFAR-10, 16 channels, 64,000 steps. `quick`:
20 and 56 layers, 4 channels, three epochs on 5,000 digits, momentum at 0.05, He's weights. Pilot
(seed 100): plain 0.92 and 0.34, residual 0.93 and 0.94. The paper says that batch norm keeps
gradients healthy in its plain networks; here the gradient of the plain one of 56 layers grows by
10^4 at initialization, as mean-field theory has it (Yang et al. 2019), and that of the residual one
by 20. Not reproduced: CIFAR-10's error rates (the preset `paper` needs the data), 1,202 layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from isometry.figures.claims import Estimate
from isometry.figures.curves import Curves, ahead, last_of, logarithm
from isometry.figures.lab import Overrides

KINDS = {"plain": "none", "residual": "A"}


@dataclass
class Degradation(Curves):
    """Training loss against steps.

    Args:
        steps: optimizer steps.
        depths: a shallow and a deep one.
        channels: of the first stage.
        lr: the rate, with momentum.
        data: data set.
    """

    depths: Sequence[int]
    channels: int
    lr: float
    data: str
    also = ("gradient_ratio_init",)

    @property
    def title(self) -> str:
        return "plain and residual networks with batch norm"

    def variants(self) -> Mapping[str, Overrides]:
        common = ["model=resnet", f"model.channels={self.channels}", "initializer=he_normal"]
        common += ["optimizer=momentum", f"optimizer.lr={self.lr}", f"data={self.data}"]
        return {
            f"{name}-{depth}": [*common, f"model.shortcut={shortcut}", f"model.depth={depth}"]
            for name, shortcut in KINDS.items()
            for depth in self.depths
        }

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = last_of(data)
        shallow, deep = min(self.depths), max(self.depths)
        return {
            "plain-degrades": ahead(last, f"plain-{shallow}", f"plain-{deep}"),
            "residual-does-not": ahead(last, f"residual-{shallow}", f"residual-{deep}"),
            "residual-ahead": ahead(last, f"residual-{deep}", f"plain-{deep}"),
            "plain-explodes": logarithm(last, f"plain-{deep}", *self.also),
            "residual-healthy": logarithm(last, f"residual-{deep}", *self.also),
        }

"""Martens, Ballard, Desjardins, Swirszcz, Dalibard, Sohl-Dickstein & Schoenholz 2021, Rapid
training of deep neural networks without skip connections or normalization layers using deep kernel
shaping
(arXiv:2110.01765), in small; with Zhang, Botev & Martens 2022 (arXiv:2203.08120) for leaky relu.

Setting: fully connected networks of 51 layers, width 128, orthogonal weights, SGD with momentum,
three epochs on 5,000 digits. Pilot (seed 100, rate 0.002): softplus 0.10, shaped 0.89; relu with
He's gain 0.54, with TAT's slope 0.90. At a rate of 0.01 the shaped softplus network diverges: the
paper trains with K-FAC, and says that plain gradient descent profits less. Not reproduced:
ImageNet, residual networks without shortcuts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from isometry.figures.claims import Estimate
from isometry.figures.curves import Curves, accuracy, ahead, last_of
from isometry.figures.lab import Overrides

VARIANTS = {
    "softplus": ["activation=softplus"],
    "softplus, DKS": ["activation=softplus", "remedy=dks"],
    "relu, He's gain": ["activation=relu", f"initializer.gain={math.sqrt(2)}"],
    "leaky relu, TAT": ["activation=relu", "remedy=tat"],
}


@dataclass
class Shaped(Curves):
    """Training loss against steps.

    Args:
        steps: optimizer steps.
        depth: weight layers.
        width: units of a layer.
        lr: the rate.
    """

    depth: int
    width: int
    lr: float

    @property
    def title(self) -> str:
        return f"{self.depth} layers, no shortcuts, no normalization"

    def variants(self) -> Mapping[str, Overrides]:
        common = ["initializer=orthogonal", "optimizer=momentum", f"optimizer.lr={self.lr}"]
        common += [f"model.depth={self.depth}", f"model.width={self.width}"]
        return {name: [*words, *common] for name, words in VARIANTS.items()}

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = last_of(data)
        return {
            "softplus-stays": accuracy(last, "softplus"),
            "dks-learns": accuracy(last, "softplus, DKS"),
            "tat-learns": accuracy(last, "leaky relu, TAT"),
            "tat-ahead": ahead(last, "leaky relu, TAT", "relu, He's gain"),
        }

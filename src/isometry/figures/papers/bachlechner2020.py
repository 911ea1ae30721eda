"""Bachlechner, Majumder, Mao, Cottrell & McAuley 2020, ReZero is all you need (arXiv:2003.04887),
figure 3: fully connected networks of 32 layers, ReZero against residual connections, with and
without layer norm.

Setting: relu MLPs of 32 residual blocks of two layers, width 128, He's weights, plain gradient
descent, on 5,000 digits. Pilot (seed 100): at a rate of 0.1 the plain network of as many layers
and the residual one without norm diverge, at 0.02 the former stays at 0.14 and the latter diverges;
layer norm comes to 0.91, ReZero to 0.94 after three epochs. Not reproduced: the transformer of 128
layers, CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from isometry.figures.claims import Estimate
from isometry.figures.curves import Curves, accuracy, ahead, last_of
from isometry.figures.lab import Overrides

VARIANTS = {
    "plain": ["model=mlp"],
    "residual": ["model=residual_mlp"],
    "residual, layer norm": ["model=residual_mlp", "normalization=layer"],
    "ReZero": ["model=residual_mlp", "remedy=rezero"],
}


@dataclass
class ReZero(Curves):
    """Training loss against steps.

    Args:
        steps: optimizer steps.
        blocks: residual blocks of two layers.
        width: units of a layer.
        lr: the rate.
    """

    blocks: int
    width: int
    lr: float

    @property
    def title(self) -> str:
        return f"{self.blocks} residual blocks"

    def variants(self) -> Mapping[str, Overrides]:
        common = ["activation=relu", "initializer=he_normal", f"optimizer.lr={self.lr}"]
        common += [f"model.depth={2 + 2 * self.blocks}", f"model.width={self.width}"]
        return {name: [*words, *common] for name, words in VARIANTS.items()}

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = last_of(data)
        return {
            "plain-stays": accuracy(last, "plain"),
            "residual-stays": accuracy(last, "residual"),
            "rezero-learns": accuracy(last, "ReZero"),
            "rezero-ahead": ahead(last, "ReZero", "residual, layer norm"),
        }

"""Le, Jaitly & Hinton 2015, A simple way to initialize recurrent networks of rectified linear units
(arXiv:1504.00941), section 4.2: digits read by a recurrent network that begins as the identity.

Setting of the paper: digits pixel by pixel, 784 steps, 100 units, stochastic gradient descent for
days. Here row by row, 28 steps, 100 units, Adam at 0.001 with the norm clipped to 1, five epochs on
5,000 digits. What decides is seen before the first step: over 28 steps the gradient of a tanh
network falls by 10^7, that of the identity by less than 10. Pilot (seed 100): accuracy tanh 0.74,
IRNN 0.87, LSTM 0.93. So over 28 steps an LSTM is ahead of the IRNN; over the paper's 784 it was
behind. An orthogonal matrix with tanh does as well as the IRNN (0.88 in the pilot), which the paper
does not try.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from isometry.figures.claims import Estimate
from isometry.figures.curves import Curves, accuracy, ahead, last_of, logarithm
from isometry.figures.lab import Overrides

VARIANTS = {
    "tanh": ["model=rnn", "model.start=torch"],
    "IRNN": ["model=irnn"],
    "LSTM": ["model=lstm"],
}


@dataclass
class Identity(Curves):
    """Training loss against steps.

    Args:
        steps: optimizer steps.
        width: units.
        reads: `rows` or `pixels`.
        lr: the rate of Adam.
    """

    width: int
    reads: str
    lr: float
    also = ("gradient_ratio_time_init",)

    @property
    def title(self) -> str:
        return f"digits by {self.reads}"

    def variants(self) -> Mapping[str, Overrides]:
        common = ["optimizer=adam", f"optimizer.lr={self.lr}", "trainer.gradient_clip_val=1"]
        common += [f"model.width={self.width}", f"model.reads={self.reads}"]
        return {name: [*words, *common] for name, words in VARIANTS.items()}

    def check(self, data: pd.DataFrame) -> dict[str, Estimate]:
        last = last_of(data)
        return {
            "tanh-vanishes": logarithm(last, "tanh", *self.also),
            "irnn-keeps": logarithm(last, "IRNN", *self.also),
            "irnn-ahead": ahead(last, "IRNN", "tanh"),
            "irnn-learns": accuracy(last, "IRNN"),
        }

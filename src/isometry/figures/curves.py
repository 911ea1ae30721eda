"""Figures that train some variants and compare their curves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from isometry.figures.claims import Estimate, over_seeds
from isometry.figures.lab import Lab, Overrides, accuracy_of, for_steps, metrics_of, summary_of
from isometry.plots import style
from isometry.plots.seeds import integer_axis, seed_lines

DIVERGED = 10.0
"""The loss, in nats, that is drawn and compared for a run that diverged: over any that guesses."""


@dataclass
class Curves(ABC):
    """Training loss against steps; a subclass says of what.

    Args:
        steps: optimizer steps.

    Attributes:
        also: keys of the summary that are columns, too.
    """

    steps: int
    also: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def variants(self) -> Mapping[str, Overrides]:
        """Overrides by name."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Above the picture."""

    def measure(self, lab: Lab, seeds: Sequence[int]) -> pd.DataFrame:
        """Loss after every epoch, and the test accuracy at the end (of a run that diverged,
        guessing's).
        """
        common = [*for_steps(self.steps), "callbacks.signals.every_n_steps=100"]
        variants = {name: [*words, *common] for name, words in self.variants().items()}
        frames = []
        for name, seed, run in lab.train(variants, seeds):
            losses = metrics_of(run)[["step", "train_loss"]].dropna()
            if (run.summary() or {}).get("state") == "diverged":
                end = pd.DataFrame({"step": [self.steps], "train_loss": [DIVERGED]})
                losses = pd.concat([losses, end], ignore_index=True)
            more = {key: summary_of(run, key) for key in self.also}
            more |= {"test_accuracy": accuracy_of(run)}
            frames.append(losses.assign(variant=name, seed=seed, **more))
        return pd.concat(frames, ignore_index=True)

    def draw(self, data: pd.DataFrame) -> Drawing:
        """Loss against steps of the runs that have one; the level of guessing."""
        figure, ((axis,),) = style.figure(1, 1, (4.6, 3.8))
        known = data["train_loss"].where(data["train_loss"] < DIVERGED)
        named = data["variant"].map(
            {name: _with_divergence(data, name) for name in self.variants()}
        )
        rows = data.assign(train_loss=known, variant=named)
        seed_lines(axis, rows, "step", "train_loss", "variant")
        guessing = {"color": "black", "linewidth": 0.8, "linestyle": ":"}
        axis.axhline(math.log(10), label="guessing, ln 10", **guessing)
        integer_axis(axis, "optimizer step")
        axis.set(ylabel="training loss (nats)", title=self.title, ylim=(0, 3.0))
        style.legend_below(figure, *axis.get_legend_handles_labels())
        return figure


def _with_divergence(data: pd.DataFrame, variant: str) -> str:
    """The name of a variant, and how many of its runs diverged."""
    rows = data[data["variant"] == variant]
    lost = rows.loc[rows["train_loss"] == DIVERGED, "seed"].nunique()
    return f"{variant} ({lost} of {rows['seed'].nunique()} diverged)" if lost else variant


def last_of(data: pd.DataFrame) -> pd.DataFrame:
    """The last row of each variant and seed."""
    return data.sort_values("step").groupby(["variant", "seed"]).last()


def ahead(last: pd.DataFrame, better: str, worse: str) -> Estimate:
    """By how much the final loss of one lies below that of another, seed by seed."""
    return over_seeds((_of(last, worse, "train_loss") - _of(last, better, "train_loss")).tolist())


def accuracy(last: pd.DataFrame, variant: str) -> Estimate:
    """Of the test set."""
    return over_seeds(_of(last, variant, "test_accuracy").tolist())


def logarithm(last: pd.DataFrame, variant: str, key: str) -> Estimate:
    """The decimal logarithm of a number of the summary."""
    return over_seeds(np.log10(_of(last, variant, key)).tolist())


def _of(last: pd.DataFrame, variant: str, column: str) -> NDArray[np.float64]:
    """Of each seed."""
    rows = last[last.index.get_level_values("variant") == variant]
    return rows[column].to_numpy(np.float64)

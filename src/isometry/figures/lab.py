"""What figures work with: networks composed from `conf/`, observed at initialization or trained by
a launcher.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from isometry.config.compose import compose, resolved
from isometry.config.targets import instantiate
from isometry.data.module import ImageData
from isometry.errors import UserError
from isometry.initialization.observe import Observation, observe
from isometry.layers.discover import layers_of
from isometry.runs.directory import RunDirectory
from isometry.runs.identity import run_id
from isometry.runs.signal_store import read_signals
from isometry.training.build import build_activation, build_data, build_network

Overrides = Sequence[str]
Launch = Callable[[Sequence[Overrides]], None]


@dataclass(frozen=True)
class Lab:
    """What a figure is given.

    Args:
        study: study name of the runs that it trains.
        runs, data: folders, as `paths.runs` and `paths.data`.
        launch: runs `isometry train` with each list of overrides.
        first_seed: the first of all seeds, for what is measured once however many seeds there are.
    """

    study: str
    runs: Path
    data: Path
    launch: Launch
    first_seed: int = 0
    # half a second each
    _composed: dict[Overrides, DictConfig] = field(default_factory=dict, init=False, repr=False)

    # ---- networks at initialization --------------------------------------------------------------

    def config(self, overrides: Overrides) -> DictConfig:
        """The config of `isometry train` with these overrides; a copy of its own for each
        caller.
        """
        words = (*overrides, f"paths.data={self.data}", f"paths.runs={self.runs}")
        if words not in self._composed:
            self._composed[words] = compose("train", words)
        return copy.deepcopy(self._composed[words])

    def networks(
        self,
        overrides: Overrides,
        seeds: Sequence[int],
        input_shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
    ) -> Iterator[tuple[int, nn.Module]]:
        """For each seed the network that training would begin with, in float64."""
        config = self.config(overrides)
        for seed in seeds:
            config.seed = seed
            yield seed, build_network(config, input_shape, classes).double()

    def redrawn(
        self,
        overrides: Overrides,
        draws: Sequence[int],
        input_shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
    ) -> Iterator[tuple[int, nn.Module]]:
        """Likewise, but one network whose weights are drawn again and again: for thousands of
        draws.
        """
        config = self.config(overrides)
        network = build_network(config, input_shape, classes).double()
        initialize = instantiate(config.initializer)
        for draw in draws:
            initialize(layers_of(network), torch.Generator().manual_seed(draw))
            yield draw, network

    def activation(self, name: str) -> Any:
        """φ for the theory, as `activation=name`."""
        return build_activation(self.config([f"activation={name}"]).activation)

    @cached_property
    def _digits(self) -> ImageData:
        data = build_data(self.config(["data=mnist_5k"]))
        assert isinstance(data, ImageData)
        data.setup()
        return data

    def digits(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` training digits of `mnist_5k`, normalized, float64 [count, 1, 28, 28],
        and their labels.
        """
        images, labels = self._digits.splits["train"]
        return self._digits.normalization(images[:count]).double(), labels[:count]

    def noise(self, count: int) -> tuple[Tensor, Tensor]:
        """Images of the same shape whose pixels are independent N(0, 1), the same every time, and
        labels.
        """
        generator = torch.Generator().manual_seed(0)
        return torch.randn(
            count, 1, 28, 28, generator=generator, dtype=torch.float64
        ), torch.arange(count) % 10

    def profiles(
        self,
        variants: Mapping[str, Overrides],
        seeds: Sequence[int],
        batch: tuple[Tensor, Tensor],
        each: Callable[[str, int, Observation, nn.Module], None] | None = None,
    ) -> pd.DataFrame:
        """Every measured column of every layer at initialization.

        Args:
            variants: overrides by name.
            seeds: of the weights.
            batch: images and labels, the same for all.
            each: called with name, seed, observation and network, for what is not a column.

        Returns:
            columns `variant`, `seed`, `layer`, `hidden`, and those of `signals.parquet`.
        """
        frames = []
        for name, overrides in variants.items():
            for seed, network in self.networks(overrides, seeds, tuple(batch[0].shape[1:])):
                seen = observe(network, [batch])
                layers = layers_of(network)
                frame = pd.DataFrame(seen.columns).assign(
                    variant=name, seed=seed, layer=[spec.index for spec in layers]
                )
                frames.append(frame.assign(hidden=[spec.kind == "hidden" for spec in layers]))
                if each is not None:
                    each(name, seed, seen, network)
        return pd.concat(frames, ignore_index=True)

    # ---- training --------------------------------------------------------------------------------

    def train(
        self, variants: Mapping[str, Overrides], seeds: Sequence[int]
    ) -> list[tuple[str, int, RunDirectory]]:
        """Train every variant with every seed; runs that are over are used again.

        Raises:
            UserError: where a run did not come to an end.
        """
        common = [f"study_name={self.study}", "pictures=false", "logger=csv", "threads=1"]
        jobs = [
            (name, seed, [*common, *overrides, f"seed={seed}"])
            for (name, overrides), seed in itertools.product(variants.items(), seeds)
        ]
        self.launch(
            [[*words, f"paths.runs={self.runs}", f"paths.data={self.data}"] for _, _, words in jobs]
        )
        found = [
            (name, seed, run)
            for name, overrides in variants.items()
            for seed, run in zip(seeds, self._runs([*common, *overrides], seeds), strict=True)
        ]
        missing = [run.run_id for _, _, run in found if run.summary() is None]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(jobs)} runs have not come to an end ({missing[0]}, "
                "...); logs lie in "
                f"{self.runs / self.study / 'logs'}; the same command goes on"
            )
        return found

    def _runs(self, overrides: Overrides, seeds: Sequence[int]) -> Iterator[RunDirectory]:
        config = self.config(overrides)
        for seed in seeds:
            config.seed = seed
            yield RunDirectory(self.runs / self.study / run_id(resolved(config)))


def for_steps(steps: int) -> list[str]:
    """Overrides that train for so many optimizer steps, however many epochs those are."""
    return [f"trainer.max_steps={steps}", "trainer.max_epochs=100000"]


def accuracy_of(run: RunDirectory) -> float:
    """Test accuracy; guessing among ten classes for a run that diverged, which has none."""
    value = summary_of(run, "test_accuracy")
    return 0.1 if math.isnan(value) else value


def summary_of(run: RunDirectory, key: str) -> float:
    """A number of a run's summary, NaN where it has none."""
    value = (run.summary() or {}).get(key)
    return float("nan") if value is None else float(value)


def metrics_of(run: RunDirectory) -> pd.DataFrame:
    """`metrics.csv` of a run."""
    return pd.read_csv(run.metrics)


def signals_of(run: RunDirectory, columns: Sequence[str]) -> pd.DataFrame:
    """`signals.parquet` of a run: `step`, `layer` and the columns."""
    return read_signals(run.signals, list(columns))

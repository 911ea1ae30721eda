"""Batches by indexing one uint8 tensor on the training device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from isometry.data.augment import Augment


@dataclass(frozen=True)
class Normalization:
    """(x/255 - mean)/std by channel, as x·scale - shift; both have shape [channels, 1, 1]."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """The channel statistics of uint8 images [N, C, H, W], exact (a histogram of 256 values, in
        float64).
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.stack(
            [torch.bincount(channel.flatten(), minlength=256) for channel in images.transpose(0, 1)]
        )
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ values
        std = (share @ values.square() - mean.square()).clamp_min(0).sqrt()
        std = std.clamp_min(1e-8)
        return cls((1 / (255 * std)).float().view(-1, 1, 1), (mean / std).float().view(-1, 1, 1))

    def to(self, device: torch.device) -> Normalization:
        """The same on another device."""
        return Normalization(self.scale.to(device), self.shift.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to normalized float32, in two passes over the batch."""
        return images.to(torch.float32).mul_(self.scale).sub_(self.shift)


class Normalized(Protocol):
    """Makes of stored numbers what a network takes."""

    def to(self, device: torch.device) -> Normalized: ...

    def __call__(self, stored: Tensor) -> Tensor: ...


class DeviceLoader:
    """Shuffled batches of an in-memory data set, sharded by rank, resumable in the middle of an
    epoch.

    The order of an epoch depends on (seed, epoch) only. `batch_size` is global: rank r of n takes
    rows r, r+n, ... of each global batch. With `drop_last` (training) every batch is full and every
    rank has the same number of rows; without it (evaluation) the last batch is short.

    Args:
        images, labels: uint8 [N, C, H, W] and int64 [N], on the device that trains.
        normalization: applied to each batch.
        batch_size: global.
        shuffle: False keeps the order of the tensors.
        seed: of the order.
        drop_last: leave out the last batch if it is short.
        rank, world_size: this process's shard.
        share: how much of an epoch is trained before the next one begins, in Lightning's way: a
            number of batches, or a float up to 1.
        augment: (uint8 images of a global batch, generator) to images of the same shape; None
            leaves them as they are.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalization: Normalized,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        augment: Augment | None = None,
        share: int | float = 1.0,
    ):
        self.images = images
        self.labels = labels
        self.normalization = normalization.to(images.device)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.augment = augment
        self.share = share
        self.epoch = 0
        self.position = 0  # batches of this epoch already handed out

    def __len__(self) -> int:
        """Batches in an epoch."""
        count = len(self.labels) / self.batch_size
        return math.floor(count) if self.drop_last else math.ceil(count)

    @property
    def batches_of_an_epoch(self) -> int:
        """Of its batches, those that are trained."""
        whole = isinstance(self.share, int)
        return min(len(self), int(self.share) if whole else int(len(self) * self.share))

    @property
    def next_epoch(self) -> int:
        """The epoch of the batch that comes next."""
        return self.epoch + (self.position >= self.batches_of_an_epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Lightning never runs past the last batch of a sized iterator, nor past the one that
        # `limit_train_batches` names, so the epoch turns over here
        if self.next_epoch > self.epoch:
            self.epoch = self.next_epoch
            self.position = 0
        order = self.order(self.epoch)
        while self.position < self.batches_of_an_epoch:
            start = self.position * self.batch_size
            rows = order[start : start + self.batch_size]
            images = self._augmented(rows)[self.rank :: self.world_size]
            # before the yield: a checkpoint taken while this batch trains must not repeat it
            self.position += 1
            yield self.normalization(images), self.labels[rows[self.rank :: self.world_size]]

    def _augmented(self, rows: Tensor) -> Tensor:
        """The images of a global batch; what is random depends on (seed, epoch, position), so a
        resume draws the same.
        """
        if self.augment is None:
            return self.images[rows]
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch, self.position))
        return self.augment(self.images[rows], generator)

    def order(self, epoch: int) -> Tensor:
        """Indices of an epoch, on the device: a permutation drawn on the CPU, the same on every
        machine.
        """
        if not self.shuffle:
            return torch.arange(len(self.labels), device=self.images.device)
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        return torch.randperm(len(self.labels), generator=generator).to(self.images.device)

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: the remaining batches of the epoch come exactly once."""
        self.epoch = state["epoch"]
        self.position = state["position"]


def _mixed(*numbers: int) -> int:
    """One 63-bit seed of several numbers, the same in every process."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**63
    return mixed

"""A data module whose examples are tensors on the training device."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from isometry.data.augment import Augment
from isometry.data.loader import DeviceLoader, Normalized
from isometry.data.sources import Images, stratified_split
from isometry.errors import bad_value

SPLITS = ("train", "val", "test")
# of the validation split: fixed, so that `seed` changes the training and not the task
SPLIT_SEED = 0


class DataModule(LightningDataModule):
    """A data module for which a network can be built. A fork's own need not inherit from it; it
    has these two attributes, and its batches are (images, labels).
    """

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of labels."""


class InMemoryData(DataModule):
    """Examples in memory, on the device that trains; a subclass says which.

    Args:
        name: of the data set, in messages.
        batch_size: global size of a micro-batch, split over the ranks.
        val_size: training examples held out for validation (stratified, fixed seed).
        eval_batch_size: batch of validation and test.
        seed: of the order in which examples come, and of the augmentation.
        train_size: use only so many training examples; None: all.
        augment: of the training examples; None leaves them as they are.

    Raises:
        UserError: for sizes that the data set does not have.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        val_size: int,
        eval_batch_size: int,
        seed: int,
        train_size: int | None,
        augment: Augment | None = None,
    ):
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.seed = seed
        self.train_size = train_size
        self.augment = augment
        self._resume_at: dict[str, int] | None = None
        self._check_sizes()

    def _check_sizes(self) -> None:
        available = len(self.images.train_labels)
        self._check("val_size", available - 1)
        left = available - self.val_size
        if self.train_size is not None:
            self._check("train_size", left)
        left = self.train_size or left
        if self.batch_size > left:
            why = f"is larger than the training set of {left} examples ({self.name})"
            raise bad_value("data.batch_size", self.batch_size, why)

    def _check(self, key: str, most: int) -> None:
        value = getattr(self, key)
        if not 0 < value <= most:
            raise bad_value(f"data.{key}", value, f"must lie between 1 and {most} ({self.name})")

    @property
    @abstractmethod
    def images(self) -> Images:
        """The examples, on the CPU."""

    @property
    @abstractmethod
    def normalization(self) -> Normalized:
        """What is done to a batch before the network sees it."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.images.train_images.shape[1:])

    def setup(self, stage: str | None = None) -> None:
        """Put the splits on the device that trains; once."""
        self._resume_at = None
        if not hasattr(self, "splits"):
            device = (
                self.trainer.strategy.root_device
                if self.trainer is not None
                else torch.device("cpu")
            )
            self.splits = self._split(device)

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Which examples of the training split are trained on, and which validate."""
        train, val = stratified_split(self.images.train_labels, self.val_size, SPLIT_SEED)
        return train[: self.train_size], val

    def examples(self, count: int) -> Tensor:
        """The first `count` training images as the network sees them, [count, C, H, W] on the
        CPU.
        """
        train, _ = self.rows
        return self.normalization(self.images.train_images[train[:count]])

    def _split(self, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        images = self.images.train_images
        labels = self.images.train_labels
        train, val = self.rows
        parts = {
            "train": (images[train], labels[train]),
            "val": (images[val], labels[val]),
            "test": (self.images.test_images, self.images.test_labels),
        }
        return {name: (x.to(device), y.to(device)) for name, (x, y) in parts.items()}

    def _loader(self, split: str, train: bool) -> DeviceLoader:
        images, labels = self.splits[split]
        return DeviceLoader(
            images,
            labels,
            self.normalization,
            self.batch_size if train else self.eval_batch_size,
            shuffle=train,
            seed=self.seed,
            drop_last=train,
            rank=self.trainer.global_rank if self.trainer is not None else 0,
            world_size=self.trainer.world_size if self.trainer is not None else 1,
            augment=self.augment if train else None,
            share=self.trainer.limit_train_batches if train and self.trainer is not None else 1.0,
        )

    def batches_in(self, split: str) -> int:
        """How many batches a split has."""
        if split == "train":
            return len(self.rows[0]) // self.batch_size
        count = len(self.images.test_labels) if split == "test" else len(self.rows[1])
        return math.ceil(count / self.eval_batch_size)

    def train_dataloader(self) -> DeviceLoader:
        self.training = self._loader("train", train=True)
        if self._resume_at is not None:
            self.training.load_state_dict(self._resume_at)
        current = 0 if self.trainer is None else self.trainer.current_epoch
        if self.training.next_epoch < current:  # Lightning asks again, between epochs
            self.training.load_state_dict({"epoch": current, "position": 0})
        return self.training

    # Lightning restores a loader's position by itself, except where `estimated_stepping_batches`
    # was asked before (as any scheduler does): the loader is made then, and its state is silently
    # not loaded
    def state_dict(self) -> dict[str, Any]:
        return {"training": self.training.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume_at = state_dict["training"]

    def val_dataloader(self) -> DeviceLoader:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DeviceLoader:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str) -> DeviceLoader:
        """Every example of a split once, in order, without augmentation."""
        return self._loader(split, train=False)

    def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
        """Batches are born on the device."""
        return batch

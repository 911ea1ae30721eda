"""The LightningDataModule: source, cache, splits and loaders."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from isometry.data.augment import AUGMENTATIONS
from isometry.data.cache import cache_name, cached
from isometry.data.loader import DeviceLoader, Normalization
from isometry.data.sources import SOURCES, Images, of_images, stratified_split
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


class ImageData(DataModule):
    """A data set of images, in memory on the training device: one of `sources.SOURCES`, or what a
    fork's own function makes.

    Args:
        source: name of the data set, or the images themselves.
        batch_size: global size of a micro-batch, split over the ranks.
        val_size: training examples held out for validation (stratified, fixed seed).
        cache_dir: folder of the decoded tensors and of downloads.
        raw_dir: folder with the data set's own files; None downloads them.
        eval_batch_size: batch of validation and test.
        seed: of the order in which examples come, and of the augmentation.
        train_size: use only so many training examples; None: all.
        augmentation: a key of `augment.AUGMENTATIONS`, of the training images.
    """

    def __init__(
        self,
        source: str | Images,
        batch_size: int,
        val_size: int,
        cache_dir: str,
        raw_dir: str | None,
        eval_batch_size: int,
        seed: int,
        train_size: int | None,
        augmentation: str,
    ):
        super().__init__()
        self.source = SOURCES[source] if isinstance(source, str) else of_images(source)
        self.cache_dir = Path(cache_dir)
        self.raw_dir = None if raw_dir is None else Path(raw_dir)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.seed = seed
        self.train_size = train_size
        self._resume_at: dict[str, int] | None = None
        if augmentation not in AUGMENTATIONS:
            raise bad_value(
                "data.augmentation", augmentation, f"allowed are {', '.join(AUGMENTATIONS)}"
            )
        self.augment = AUGMENTATIONS[augmentation]
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self.raw_dir is not None and not self.raw_dir.is_dir():
            raise bad_value(
                "data.raw_dir",
                self.raw_dir,
                f"no such folder; {self.source.name} needs {self.source.files} there",
            )
        available = len(self.images.train_labels)
        if not 0 < self.val_size < available:
            raise bad_value(
                "data.val_size",
                self.val_size,
                f"must lie between 1 and {available - 1} ({self.source.name})",
            )
        left = available - self.val_size
        if self.train_size is not None and not 0 < self.train_size <= left:
            raise bad_value(
                "data.train_size",
                self.train_size,
                f"must lie between 1 and {left} ({self.source.name})",
            )
        left = self.train_size or left
        if self.batch_size > left:
            raise bad_value(
                "data.batch_size",
                self.batch_size,
                f"is larger than the training set of {left} examples ({self.source.name})",
            )

    @cached_property
    def images(self) -> Images:
        """The decoded data set, on the CPU."""
        if self.source.name not in SOURCES:
            return self.source.read(self.cache_dir)
        path = self.cache_dir / cache_name(self.source.name, self.raw_dir)
        return cached(path, lambda: self.source.load(self.raw_dir, self.cache_dir))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return tuple(self.images.train_images.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return self.source.num_classes

    @cached_property
    def normalization(self) -> Normalization:
        """Channel statistics of the training split."""
        return Normalization.of(self.images.train_images)

    def setup(self, stage: str | None = None) -> None:
        """Put the splits on the device that trains; once."""
        if not hasattr(self, "splits"):
            device = (
                self.trainer.strategy.root_device
                if self.trainer is not None
                else torch.device("cpu")
            )
            self.splits = self._split(device)

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Which examples of the training split are trained on, and which validate."""
        train, val = stratified_split(self.images.train_labels, self.val_size, SPLIT_SEED)
        return train[: self.train_size], val

    def examples(self, count: int) -> Tensor:
        """The first `count` training images as the network sees them, [count, C, H, W] on the
        CPU.
        """
        train, _ = self._rows
        return self.normalization(self.images.train_images[train[:count]])

    def _split(self, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        images = self.images.train_images
        labels = self.images.train_labels
        train, val = self._rows
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
            return len(self._rows[0]) // self.batch_size
        count = len(self.images.test_labels) if split == "test" else len(self._rows[1])
        return math.ceil(count / self.eval_batch_size)

    def train_dataloader(self) -> DeviceLoader:
        self.training = self._loader("train", train=True)
        if self._resume_at is not None:
            self.training.load_state_dict(self._resume_at)
            self._resume_at = None
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


def training_images(data: DataModule, count: int) -> Tensor:
    """Up to `count` training images as the network sees them, [N, C, H, W] on the CPU; no random
    number of the training is used up.
    """
    if isinstance(data, ImageData):
        return data.examples(count)
    with torch.random.fork_rng(devices=[]):
        data.prepare_data()
        data.setup("fit")
        images, _ = next(iter(data.train_dataloader()))
    return images[:count].cpu()


def evaluation_loader(data: DataModule, split: str) -> Iterable[Any]:
    """The batches of a split, in order; outside of a training.

    Args:
        data: as configured.
        split: one of `SPLITS`.
    """
    data.prepare_data()
    data.setup({"train": "fit", "val": "validate", "test": "test"}[split])
    if isinstance(data, ImageData):
        return data.evaluation_loader(split)
    loaders: dict[str, Callable[[], Iterable[Any]]] = {
        "train": data.train_dataloader,
        "val": data.val_dataloader,
        "test": data.test_dataloader,
    }
    return loaders[split]()


NEEDED = ("input_shape", "num_classes")
"""What a network is built for; every data module tells it."""


def check_module(data: object) -> DataModule:
    """What the section `data` has built, if a network can be built for it.

    Raises:
        UserError: where it is no LightningDataModule, or does not say what its images are like.
    """
    name = type(data).__name__
    if not isinstance(data, LightningDataModule):
        raise bad_value("data._target_", name, "must build a LightningDataModule")
    missing = [attribute for attribute in NEEDED if not hasattr(data, attribute)]
    if missing:
        raise bad_value("data._target_", name, f"needs the attribute {' and '.join(missing)}")
    return cast(DataModule, data)

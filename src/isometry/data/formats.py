"""The two file formats the data sets come in: IDX (MNIST, Fashion-MNIST) and CIFAR's pickles.
Gzipped or not.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import posixpath
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import error as zlib_error

import numpy as np
import torch
from torch import Tensor

AGAIN = "remove it and get it again"
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
        raise BrokenFileError(f"{path} is a torn gzip file ({error}); {AGAIN}") from error


def read_idx(path: Path, rank: int) -> Tensor:
    """An IDX file of unsigned bytes as a uint8 tensor of the shape in its header (LeCun's format,
    magic 0x08).

    Args:
        path: of the file.
        rank: how many dimensions it must have.

    Raises:
        BrokenFileError: where it is something else.
    """
    raw = read_bytes(path)
    if raw[:4] != bytes([0, 0, 8, rank]):
        words = f"{path} is not an IDX file of unsigned bytes with {rank} dimensions; {AGAIN}"
        raise BrokenFileError(words)
    if len(raw) < 4 + 4 * rank:
        raise BrokenFileError(f"{path} is cut inside its header; {AGAIN}")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    body = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank)
    promised = math.prod(shape)
    if body.size != promised:
        words = f"{path} is torn: its header promises {promised} bytes, it has {body.size}; {AGAIN}"
        raise BrokenFileError(words)
    return torch.from_numpy(body.reshape(shape).copy())


_ARRAY_PARTS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
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
    """One batch of CIFAR's python version, whoever pickled it: images [N, 3, 32, 32] uint8 and
    labels [N] int64.

    Raises:
        BrokenFileError: where it is something else, or has not one label for each image.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
        by_name = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        images = np.array(by_name["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.array(by_name[label_key], dtype=np.int64).reshape(-1)
    except BrokenFileError as error:
        raise BrokenFileError(f"{where}: {error}") from error
    except Exception as error:  # unpickling runs into whatever the bytes say
        why = f"{type(error).__name__}: {error}"
        words = f"{where} is not a batch of CIFAR's python version ({why}); {AGAIN}"
        raise BrokenFileError(words) from error
    if len(images) != len(labels):
        raise BrokenFileError(f"{where} has {len(images)} images and {len(labels)} {label_key}")
    return torch.from_numpy(images), torch.from_numpy(labels)


def members(folder: Path, archive: str, inner: str, names: list[str]) -> dict[str, bytes]:
    """The named batches out of `folder`, from its sub-folder `inner`, or from the tar archive in
    it, in that order.
    """
    for base in (folder, folder / inner):
        found = {
            name: path
            for name in names
            if (path := first_existing(base, _packed_or_not(name))) is not None
        }
        if len(found) == len(names):
            return {name: read_bytes(path) for name, path in found.items()}
    tar = first_existing(folder, _tars(archive))
    if tar is None:
        raise FileNotFoundError(f"{folder}: neither {', '.join(names)} nor {archive}")
    return _tar_members(tar, inner, names)


def member_paths(archive: str, inner: str, names: list[str]) -> Iterator[str]:
    """Every path, relative to the folder, that `members` may open."""
    for name in names:
        yield from _packed_or_not(name)
        yield from (f"{inner}/{each}" for each in _packed_or_not(name))
    yield from _tars(archive)


def _packed_or_not(name: str) -> list[str]:
    return [name, f"{name}.gz"]


def _tars(archive: str) -> list[str]:
    return [archive, archive.removesuffix(".gz")]


def _tar_members(tar: Path, inner: str, names: list[str]) -> dict[str, bytes]:
    try:
        with tarfile.open(tar) as archive:
            found = {posixpath.normpath(entry.name): entry for entry in archive}
            return {name: _content(archive, found, f"{inner}/{name}") for name in names}
    except BrokenFileError as error:
        raise BrokenFileError(f"{tar}: {error}") from error
    except Exception as error:  # whatever tarfile and zlib run into
        words = f"{tar} is torn or is no archive ({type(error).__name__}: {error}); {AGAIN}"
        raise BrokenFileError(words) from error


def _content(archive: tarfile.TarFile, found: dict[str, tarfile.TarInfo], name: str) -> bytes:
    if name not in found or not found[name].isfile():
        raise BrokenFileError(f"has no file {name}")
    return archive.extractfile(found[name]).read()  # type: ignore[union-attr]


def first_existing(folder: Path, names: list[str]) -> Path | None:
    """The first of the names that is a file in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)

"""Decoded images in one safetensors file with a checksum, so that a data set is decoded once."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import safetensors
from safetensors.torch import save
from torch import Tensor

from isometry.data.sources import Images, Source, flaw
from isometry.errors import DiskFull, UserError
from isometry.runs.files import write_bytes


def cached(path: Path, decode: Callable[[], Images], classes: int | None = None) -> Images:
    """The images in `path`; decoded and written there the first time.

    Args:
        path: of the cache.
        decode: gives the images.
        classes: how many labels there may be; None: any number.

    Raises:
        UserError: where the file is torn or altered.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise _corrupt(path, "it is no file")
    if path.exists():
        return read(path, classes)
    images = decode()
    try:
        write(path, images)
    except (OSError, DiskFull) as error:
        words = f"the decoded data cannot be kept ({error}): it is decoded again each time"
        warnings.warn(words, stacklevel=2)
    return images


def write(path: Path, images: Images) -> None:
    """Write the tensors and their digest, whole or not at all."""
    tensors = {field.name: getattr(images, field.name).contiguous() for field in fields(Images)}
    write_bytes(path, save(tensors, metadata={"digest": digest(tensors)}))


def read(path: Path, classes: int | None = None) -> Images:
    """Read the tensors, check the digest and the labels."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {field.name: file.get_tensor(field.name) for field in fields(Images)}
        found = metadata.get("digest")
        whole = found == digest(tensors)
    except Exception as error:  # a file of another program, say, with types that numpy has not
        raise _corrupt(path, str(error)) from error
    if not whole:
        raise _corrupt(path, "its checksum does not match")
    if wrong := flaw(Images(**tensors), classes):
        raise _corrupt(path, ": ".join(wrong))
    return Images(**tensors)


def _corrupt(path: Path, why: str) -> UserError:
    return UserError(
        f"the data cache {path} is corrupt ({why}): remove the file, it is decoded again"
    )


def digest(tensors: dict[str, Tensor]) -> str:
    """BLAKE2 over names, shapes and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        state.update(tensor.reshape(-1).numpy().data)
    return state.hexdigest()


def cache_name(source: Source, raw_dir: Path | None) -> str:
    """File name of a source's cache; files that a user points at get one of their own per folder
    and change time.
    """
    if raw_dir is None:
        return f"{source.name}.safetensors"
    # of nothing else: runs and caches may be written into the same folder
    files = (raw_dir / path for path in source.paths)
    stamps = [
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for path in files
        if path.is_file()
    ]
    told = f"{os.path.realpath(raw_dir)}{stamps}"
    key = hashlib.blake2b(told.encode(), digest_size=4).hexdigest()
    return f"{source.name}-{key}.safetensors"

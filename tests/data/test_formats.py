import gzip
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from isometry.data.sources import SOURCES
from isometry.errors import UserError

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def mnist_arrays():
    return {
        "train-images-idx3-ubyte": RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": RNG.integers(0, 10, 20, dtype=np.uint8),
        "t10k-images-idx3-ubyte": RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": RNG.integers(0, 10, 6, dtype=np.uint8),
    }


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_folder(tmp_path, zipped, dotted):
    arrays = mnist_arrays()
    for name, array in arrays.items():
        name = name.replace("-idx", ".idx") if dotted else name
        path = tmp_path / (name + (".gz" if zipped else ""))
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    images = SOURCES["fashion_mnist"].load(tmp_path, tmp_path)
    assert images.train_images.shape == (20, 1, 28, 28)
    np.testing.assert_array_equal(images.train_images[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(images.test_labels, arrays["t10k-labels-idx1-ubyte"])
    assert images.test_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-100], "truncated"),
        (lambda raw: gzip.compress(raw)[:-100], "torn"),
        (lambda raw: b"<html>not found</html>", "not an IDX file"),
        (lambda raw: b"", "not an IDX file"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, words):
    for name, array in mnist_arrays().items():
        (tmp_path / name).write_bytes(idx(array))
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=words) as error:
        SOURCES["mnist"].load(tmp_path, tmp_path)
    assert path.name in str(error.value)


def cifar10_batches():
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {
        n: {"data": RNG.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [1, 2, 3, i]}
        for i, n in enumerate(names)
    }


def cifar100_batches():
    return {
        n: {
            "data": RNG.integers(0, 256, (5, 3072), dtype=np.uint8),
            "fine_labels": [99, 0, 1, 2, 3],
        }
        for n in ("train", "test")
    }


CIFAR = {
    "cifar10": (cifar10_batches, "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": (cifar100_batches, "cifar-100-python", "cifar-100-python.tar.gz"),
}


@pytest.mark.parametrize("source", CIFAR)
@pytest.mark.parametrize("layout", ["folder", "flat", "gzipped", "archive"])
def test_cifar_in_every_layout(tmp_path, source, layout):
    make, inner, archive = CIFAR[source]
    batches = make()
    folder = tmp_path if layout == "flat" else tmp_path / inner
    folder.mkdir(exist_ok=True)
    for name, batch in batches.items():
        raw = pickle.dumps(batch, protocol=2)
        (folder / (name + ".gz" * (layout == "gzipped"))).write_bytes(
            gzip.compress(raw) if layout == "gzipped" else raw
        )
    if layout == "archive":
        with tarfile.open(tmp_path / archive, "w:gz") as tar:
            tar.add(folder, inner)
        for path in folder.iterdir():
            path.unlink()
    images = SOURCES[source].load(tmp_path, tmp_path)
    first = next(iter(batches.values()))
    assert images.train_images.shape[1:] == (3, 32, 32)
    np.testing.assert_array_equal(images.train_images[0], first["data"][0].reshape(3, 32, 32))
    last = batches["test_batch" if source == "cifar10" else "test"]
    assert images.test_labels.tolist() == last["labels" if source == "cifar10" else "fine_labels"]


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys):
    for name, batch in cifar10_batches().items():
        (tmp_path / name).write_bytes(pickle.dumps({**batch, "x": Evil()}))
    with pytest.raises(UserError, match="refused"):
        SOURCES["cifar10"].load(tmp_path, tmp_path)
    assert "code ran" not in capsys.readouterr().out


def test_missing_files_are_listed(tmp_path):
    with pytest.raises(UserError, match="train-images-idx3-ubyte") as error:
        SOURCES["mnist"].load(tmp_path, tmp_path)
    assert "data.raw_dir" in str(error.value)


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets, "CIFAR10", refuse)
    with pytest.raises(UserError) as error:
        SOURCES["cifar10"].load(None, tmp_path)
    for words in ("cifar-10-python.tar.gz", "data.raw_dir=FOLDER", "data=mnist_5k"):
        assert words in str(error.value)

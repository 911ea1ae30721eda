import gzip
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from fuzz import variants
from isometry.data.sources import SOURCES, flaw
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
    assert {path.name for path in tmp_path.iterdir()} < set(SOURCES["fashion_mnist"].paths)
    images = SOURCES["fashion_mnist"].load(tmp_path, tmp_path)
    assert images.train_images.shape == (20, 1, 28, 28)
    np.testing.assert_array_equal(images.train_images[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(images.test_labels, arrays["t10k-labels-idx1-ubyte"])
    assert images.test_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-100], "its header promises 15680 bytes, it has 15580"),
        (lambda raw: raw[:9], "cut inside its header"),
        (lambda raw: b"\0\0\x08\x03" + b"\xff" * 12 + raw[16:], "its header promises"),
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
            "coarse_labels": [19, 0, 1, 2, 3],
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
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)) for path in files} < set(SOURCES[source].paths)
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


def mnist_folder(folder, **changes):
    for name, array in {**mnist_arrays(), **changes}.items():
        (folder / name).write_bytes(idx(array))


@pytest.mark.parametrize("split", ["train", "t10k"])
@pytest.mark.parametrize("labels", [0, 1, 5, 19, 21, 600])
def test_images_and_labels_are_counted(tmp_path, split, labels):
    """With too few of them a training would end on the way."""
    mnist_folder(tmp_path, **{f"{split}-labels-idx1-ubyte": np.zeros(labels, np.uint8)})
    images = 20 if split == "train" else 6
    with pytest.raises(UserError, match=rf"has {images} images, .* {labels} labels") as error:
        SOURCES["mnist"].load(tmp_path, tmp_path)
    assert f"{split}-labels-idx1-ubyte" in str(error.value)


@pytest.mark.parametrize("label", [10, 26, 255])
def test_a_label_that_the_data_set_has_not_is_refused(tmp_path, label):
    """EMNIST's letters, in files of the same names."""
    labels = np.arange(20, dtype=np.uint8) % 10
    labels[7] = label
    mnist_folder(tmp_path, **{"train-labels-idx1-ubyte": labels})
    with pytest.raises(UserError, match=rf"labels 0 to {label}: labels must be 0 to 9"):
        SOURCES["mnist"].load(tmp_path, tmp_path)


def test_images_of_two_sizes_are_refused(tmp_path):
    mnist_folder(tmp_path, **{"t10k-images-idx3-ubyte": np.zeros((6, 32, 32), np.uint8)})
    with pytest.raises(UserError, match=r"\[1, 28, 28\], test images \[1, 32, 32\]"):
        SOURCES["mnist"].load(tmp_path, tmp_path)


@pytest.mark.parametrize("count", [0, 3, 5])
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_a_cifar_batch_with_other_counts_is_refused(tmp_path, name, count):
    """Those behind it would all have their neighbour's label."""
    batches = cifar10_batches()
    batches[name]["labels"] = [1] * count
    for each, batch in batches.items():
        (tmp_path / each).write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(UserError, match=f"{name} has 4 images and {count} labels"):
        SOURCES["cifar10"].load(tmp_path, tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("keys", [str, str.encode])
def test_a_cifar_batch_is_read_whoever_pickled_it(tmp_path, protocol, keys):
    batches = cifar10_batches()
    for name, batch in batches.items():
        again = {keys(key): value for key, value in batch.items()}
        (tmp_path / name).write_bytes(pickle.dumps(again, protocol=protocol))
    images = SOURCES["cifar10"].load(tmp_path, tmp_path)
    last = batches["test_batch"]
    np.testing.assert_array_equal(images.test_images.reshape(4, -1), last["data"])
    assert images.test_labels.tolist() == last["labels"]


@pytest.mark.parametrize("prefix", ["", "./", "a/../"])
def test_an_archive_that_was_packed_anew_is_read(tmp_path, prefix):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, batch in cifar10_batches().items():
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
            tar.add(folder / name, f"{prefix}cifar-10-batches-py/{name}")
            (folder / name).unlink()
    assert len(SOURCES["cifar10"].load(tmp_path, tmp_path).train_images) == 20


def test_what_an_archive_lacks_is_named(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match="has no file cifar-10-batches-py/data_batch_1"):
        SOURCES["cifar10"].load(tmp_path, tmp_path)


def test_coarse_labels(tmp_path):
    for name, batch in cifar100_batches().items():
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    images = SOURCES["cifar100_coarse"].load(tmp_path, tmp_path)
    assert images.test_labels.tolist() == [19, 0, 1, 2, 3]


# ---- fuzzed --------------------------------------------------------------------------------------

MANY = 500


def refused(source, folder, path):
    """How many of the damaged copies of a file are refused; each other one is a whole data set."""
    content = path.read_bytes()
    count = 0
    for damaged in variants(content, MANY):
        path.write_bytes(damaged)
        try:
            images = SOURCES[source].load(folder, folder)
        except UserError as error:
            count += 1
            assert str(folder) in str(error)  # noqa: PT017
        else:
            assert flaw(images, SOURCES[source].num_classes) is None
    return count


@pytest.mark.slow
@pytest.mark.parametrize("name", mnist_arrays())
@pytest.mark.parametrize("zipped", [False, True])
def test_fuzzed_idx(tmp_path, name, zipped):
    mnist_folder(tmp_path)
    path = tmp_path / name
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert refused("mnist", tmp_path, path) > MANY / (1.5 if zipped else 10)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 5])
def test_fuzzed_cifar(tmp_path, protocol):
    for name, batch in cifar10_batches().items():
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    assert refused("cifar10", tmp_path, tmp_path / "data_batch_3") > MANY / 10


@pytest.mark.slow
def test_fuzzed_archives(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, batch in cifar10_batches().items():
            raw = pickle.dumps({**batch, "data": batch["data"] // 64}, protocol=2)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    path = tmp_path / "cifar-10-python.tar.gz"
    assert refused("cifar10", tmp_path, path) > MANY / 2

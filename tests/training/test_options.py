"""Options of how to train: each composes, trains, and does what it says."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, TensorDataset

from commands import composed, run_of
from isometry.config.checks import validate
from isometry.config.compose import compose, conf_dir
from isometry.config.messages import options
from isometry.data.augment import crop_flip
from isometry.data.sources import SOURCES
from isometry.errors import UserError
from isometry.runs.signal_store import read_signals
from isometry.training.build import (
    build_classifier,
    build_network,
    check_batch_norms,
    check_labels,
    check_limits,
    seed_everything,
)
from isometry.training.run import train
from isometry.verbs.evaluate import evaluate


def weights(summary, config):
    return torch.load(run_of(summary, config).last_checkpoint, weights_only=True)["state_dict"]


NO_GROUPS = ("__pycache__", "figure", "hydra", "wandb_sweep")
GROUPS = sorted(
    path.name for path in conf_dir().iterdir() if path.is_dir() and path.name not in NO_GROUPS
)


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_every_group_composes_and_is_valid(group):
    for option in options(group):
        config = composed(f"{group}={option}")
        validate(OmegaConf.to_container(config, resolve=True))


def test_the_wandb_sweep_sets_keys_that_train_has():
    sweep = OmegaConf.to_container(
        OmegaConf.load(conf_dir() / "wandb_sweep" / "initialization.yaml"), resolve=False
    )

    def first(node):
        return node.get("value", node.get("min", (node.get("values") or [None])[0]))

    values = {key: first(node) for key, node in sweep["parameters"].items()}
    fixed = [word for word in sweep["command"][2:] if "=" in word]
    config = compose("train", [*fixed, *[f"{key}={value}" for key, value in values.items()]])
    validate(OmegaConf.to_container(config, resolve=True))
    assert sweep["command"][:2] == ["isometry", "train"]
    assert (config.logger.offline, config.initializer.sigma_w) == (False, 0.5)


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_trains_three_steps(option):
    """On random images of its data set's shape: the real files are not here."""
    config = composed(f"experiment={option}")
    seed_everything(0)
    shape = (3, 32, 32) if config.data.source.startswith("cifar") else (1, 28, 28)
    classifier = build_classifier(config, build_network(config, shape, 10)).train()
    optimizer = classifier.make_optimizer(classifier.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss = classifier.loss_function(classifier(torch.randn(8, *shape)), torch.arange(8))
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)


def test_every_experiment_says_command_time_and_result():
    for path in (conf_dir() / "experiment").glob("*.yaml"):
        header = path.read_text().split("defaults:")[0]
        assert f"isometry train experiment={path.stem}" in header
        assert "test accuracy 0." in header or "not measured" in header


@pytest.mark.parametrize("option", ["csv", "none", "tensorboard", "many"])
@pytest.mark.filterwarnings("default")
def test_every_logger_leaves_its_files(make_config, option):
    config = make_config("model.depth=3", f"logger={option}")
    run = run_of(train(config), config)
    assert run.metrics.exists() is (option != "none")
    assert bool(list(run.path.glob("wandb/offline-run-*"))) is (option == "many")
    events = list(run.path.glob("tensorboard/events.out.tfevents.*"))
    assert bool(events) is (option in ("tensorboard", "many"))
    if events:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(events[0].parent))
        accumulator.Reload()
        values = {
            event.step: event.value for event in accumulator.Scalars("backprop_norm/layer_001")
        }
        stored = read_signals(run.signals).query("layer == 1").set_index("step")["backprop_norm"]
        assert values[2] == pytest.approx(stored[2], rel=1e-6)  # event files hold float32


@pytest.mark.parametrize("option", options("debug"))
def test_every_debug_option(make_config, option, capfd):
    config = make_config(
        "model.depth=3", "trainer.max_steps=-1", f"debug={option}", "trainer.max_epochs=2"
    )
    summary = train(config)
    run = run_of(summary, config)
    assert summary["study"] == "debug"
    if option == "one_batch":
        assert summary["steps"] == 2
    if option == "overfit":
        assert summary["steps"] == 2
        assert config.data.train_size == config.data.batch_size == 64
    if option == "profiler":
        assert "run_training_epoch" in (run.path / "fit-profile.txt").read_text()
    if option == "anomaly":
        assert set(read_signals(run.signals)["step"]) == set(range(2 * 62 + 1))


def test_overfitting_one_batch_learns_it_by_heart(make_config):
    config = make_config("model.depth=3", "trainer.max_steps=-1", "debug=overfit")
    summary = train(config)
    assert summary["steps"] == 200
    assert pd.read_csv(run_of(summary, config).metrics)["train_accuracy"].dropna().iloc[-1] == 1.0


def test_anomaly_detection_names_the_operation_of_a_divergence(make_config):
    config = make_config(
        "model.depth=12",
        "activation=relu",
        "initializer=normal",
        "trainer.max_steps=60",
        "debug=anomaly",
    )
    with pytest.warns(UserWarning, match="Error detected in"):
        summary = train(config)
    assert summary["state"] == "diverged"
    assert summary["first_nonfinite_kind"] == "gradient"
    status = run_of(summary, config).status()
    assert status["state"] == "diverged"
    step = summary["first_nonfinite_step"]
    assert re.fullmatch(
        rf"the gradient of \w+Backward0 is not finite at step {step}", status["reason"]
    )
    assert summary["steps"] == step


@pytest.mark.parametrize("every", [1, 10, "null"])
def test_weights_that_the_last_update_loses_are_no_finished_run(make_config, every):
    """No step comes behind it that would notice."""
    config = make_config(
        "model.depth=20",
        "optimizer.lr=1e30",
        "optimizer.momentum=0",
        "trainer.max_steps=1",
        "activation=relu",
        "initializer=normal",
        f"callbacks.signals.every_n_steps={every}",
    )
    summary = train(config)
    weights = torch.load(run_of(summary, config).last_checkpoint, weights_only=True)["state_dict"]
    assert not all(torch.isfinite(weight).all() for weight in weights.values())
    assert summary["state"] == "diverged"
    assert summary["first_nonfinite_step"] == 1
    assert summary["first_nonfinite_layer"] >= 1


def test_accumulation_of_two_halves_is_the_whole_batch(make_config):
    whole = make_config("model.depth=3", "trainer.precision=64-true", "data.batch_size=64")
    halves = make_config(
        "model.depth=3",
        "trainer.precision=64-true",
        "data.batch_size=32",
        "trainer.accumulate_grad_batches=2",
    )
    first = train(whole)
    second = train(halves)
    for key, value in weights(first, whole).items():
        torch.testing.assert_close(weights(second, halves)[key], value, rtol=1e-10, atol=1e-12)
    a, b = (read_signals(run_of(s, c).signals) for s, c in ((first, whole), (second, halves)))
    pd.testing.assert_frame_equal(a, b, rtol=1e-9)


@pytest.mark.parametrize(("algorithm", "bound"), [("norm", 0.01), ("value", 0.001)])
def test_clipping(make_config, algorithm, bound):
    clip = [f"trainer.gradient_clip_val={bound}", f"trainer.gradient_clip_algorithm={algorithm}"]
    config = make_config("model.depth=3", "model.bias=false", *clip)
    rows = read_signals(run_of(train(config), config).signals).query("step == 0")
    before, after = (
        (rows[c] ** 2).sum() ** 0.5 for c in ("weight_grad_norm", "weight_grad_norm_clipped")
    )
    assert before > after
    if algorithm == "norm":
        assert after == pytest.approx(bound, rel=1e-3)  # clip_grad_norm_ divides by norm + 1e-6


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision(make_config, precision):
    plain = make_config("model.depth=3")
    other = make_config("model.depth=3", f"trainer.precision={precision}")
    first = train(plain)
    second = train(other)
    dtype = next(iter(weights(second, other).values())).dtype
    assert dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert first["train_loss"] != second["train_loss"]
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=0.05)


def test_activation_checkpointing_changes_no_number(make_config):
    words = ["model.depth=5", "callbacks.signals.every_n_steps=2"]  # step 1 is only watched
    plain = make_config(*words)
    saving = make_config(*words, "activation_checkpointing=true")
    first = train(plain)
    second = train(saving)
    for key, value in weights(first, plain).items():
        assert torch.equal(weights(second, saving)[key], value)
    a, b = (read_signals(run_of(s, c).signals) for s, c in ((first, plain), (second, saving)))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_a_divergence_under_bf16_on_a_step_that_is_only_watched(make_config):
    """The address is looked for outside of autocast, where the weights have another precision than
    the inputs.
    """
    words = [
        "trainer.precision=bf16-mixed",
        "callbacks.signals.every_n_steps=50",
        "trainer.max_steps=40",
        "model.depth=6",
    ]
    summary = train(make_config(*words, "activation=relu", "initializer=normal", "optimizer.lr=10"))
    assert summary["state"] == "diverged"
    assert summary["first_nonfinite_step"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiling_changes_no_number_beyond_rounding(make_config):
    words = ["model.depth=5", "callbacks.signals.every_n_steps=2"]
    plain = make_config(*words)
    compiled = make_config(*words, "compile=true")
    first = train(plain)
    second = train(compiled)
    a, b = (read_signals(run_of(s, c).signals) for s, c in ((first, plain), (second, compiled)))
    pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-6)
    assert not any(key.startswith("network._orig_mod") for key in weights(second, compiled))


def test_early_stopping(make_config):
    overrides = [
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=10",
        "trainer.max_epochs=9",
    ]
    config = make_config("model.depth=3", "trainer.max_steps=-1", *overrides)
    assert train(config)["steps"] == 2 * 62


def test_print_config_shows_every_group(make_config, capfd):
    train(make_config("model.depth=3", "print_config=true"))
    text = capfd.readouterr().err
    for words in ("model", "depth: 3", "optimizer", "lr: 0.05"):
        assert words in text


def test_crop_flip_moves_and_mirrors_whole_images():
    """Every result is a window of the padded image, mirrored or not; both happen."""
    images = torch.arange(1, 1 + 40 * 2 * 6 * 6).remainder(251).to(torch.uint8).reshape(40, 2, 6, 6)
    result = crop_flip(images, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (4,) * 4)
    mirrored = 0
    for image, source in zip(result, padded, strict=True):
        windows = [source[:, i : i + 6, j : j + 6] for i in range(9) for j in range(9)]
        straight = any(torch.equal(image, w) for w in windows)
        flipped = any(torch.equal(image, w.flip(2)) for w in windows)
        assert straight or flipped
        mirrored += flipped and not straight
    assert 8 < mirrored < 32
    assert torch.equal(crop_flip(images, torch.Generator().manual_seed(0)), result)


def write_raw_files(source, folder):
    """120 training and 20 test images in a data set's own format."""
    rng = np.random.default_rng(0)
    if source in ("mnist", "fashion_mnist"):
        for stem, count in (("train", 120), ("t10k", 20)):
            for kind, shape, magic in (
                ("images-idx3", (count, 28, 28), 3),
                ("labels-idx1", (count,), 1),
            ):
                body = rng.integers(0, 10 if magic == 1 else 256, shape, dtype=np.uint8)
                header = bytes([0, 0, 8, magic]) + np.array(shape, dtype=">u4").tobytes()
                (folder / f"{stem}-{kind}-ubyte").write_bytes(header + body.tobytes())
        return
    names = (
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        if source == "cifar10"
        else ["train", "test"]
    )
    keys = {"cifar10": "labels", "cifar100": "fine_labels", "cifar100_coarse": "coarse_labels"}
    for name in names:
        count = 20 if name.startswith("test") else 120
        batch = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            keys[source]: rng.integers(0, 10, count).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(batch))


@pytest.mark.parametrize("source", [name for name, data in SOURCES.items() if data.download])
def test_every_data_set_trains_three_steps_from_its_own_files(make_config, tmp_path, source):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_raw_files(source, raw)
    small = ["data.batch_size=8", "data.val_size=20", f"paths.data={tmp_path}/cache"]
    summary = train(make_config("model.depth=3", f"data={source}", f"data.raw_dir={raw}", *small))
    assert summary["steps"] == 3
    assert summary["gradient_rate_init"] > 0


def test_files_are_found_from_another_folder_and_where_they_were_moved(typed, tmp_path, data_cache):
    """A relative `data.raw_dir` is written down whole; eval and resume take another one."""
    here, there = tmp_path / "here", tmp_path / "there, too"
    (here / "raw").mkdir(parents=True)
    there.mkdir()
    write_raw_files("mnist", here / "raw")
    small = ["model.depth=3", "trainer=cpu", "logger=csv", "pictures=false", "trainer.max_epochs=1"]
    small.append("trainer.limit_train_batches=2")
    small += ["data=mnist", "data.batch_size=8", "data.val_size=20", "data.raw_dir=raw"]
    done = typed("train", *small, cwd=here)
    assert done.returncode == 0, done.stderr
    (run,) = (path.parent for path in here.glob("runs/*/*/status.json"))
    places = [f"paths.data={there}/cache", f"paths.runs={there}/runs"]
    places = [f'{word.partition("=")[0]}="{word.partition("=")[2]}"' for word in places]
    assert typed("eval", str(run), *places, cwd=there).returncode == 0
    shutil.move(here / "raw", there / "moved")
    gone = typed("eval", str(run), *places, cwd=there)
    assert gone.returncode == 2
    assert "raw" in gone.stderr
    again = typed("eval", str(run), *places, "data.raw_dir=moved", cwd=there)
    assert again.returncode == 0, again.stderr
    more = [f'resume="{run}"', "trainer.max_epochs=2", "data.raw_dir=moved"]
    further = typed("train", *more, *places, cwd=there)
    assert further.returncode == 0, further.stderr
    assert json.loads((run / "summary.json").read_text())["steps"] == 4
    last = typed("eval", str(run), *places, cwd=here)  # where it was given is written down whole
    assert last.returncode == 0, last.stderr


@pytest.mark.parametrize("option", ["auto", "cpu"])
def test_every_trainer_that_this_machine_has(make_config, option):
    assert (
        train(make_config("model.depth=3", f"trainer={option}", "trainer.max_steps=3"))["steps"]
        == 3
    )


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.max_steps=5"],  # ends before the first validation
        ["trainer.limit_val_batches=0.5", "data.eval_batch_size=100", "trainer.max_epochs=2"],
        ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"],
    ],
)
def test_early_stopping_where_validation_seldom_happens(make_config, words):
    common = ["callbacks.early_stopping.patience=1", "data.train_size=300", "trainer.max_steps=-1"]
    summary = train(make_config(*common, "model.depth=3", "trainer.max_epochs=2", *words))
    assert summary["state"] == "finished"


def test_a_folder_whose_name_is_markup_is_printed_as_it_is(typed, tmp_path, data_cache):
    words = ["model.depth=3", "trainer.max_steps=2", "pictures=false", "logger=csv", "trainer=cpu"]
    folder = tmp_path / "a[" / "red]b"
    done = typed(
        "train", *words, f"paths.runs='{folder}'", f"paths.data={data_cache}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "a[/red]b" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("next: ")]
    assert Path(shlex.split(line)[-1]).is_dir()


class OwnData(LightningDataModule):
    """Batches of five, 20 for training and 10 of each other split."""

    input_shape = (1, 28, 28)
    num_classes = 10

    def _batches(self, count):
        images = torch.zeros(count, *self.input_shape)
        examples = TensorDataset(images, torch.zeros(count, dtype=torch.int64))
        return DataLoader(examples, batch_size=5)

    def train_dataloader(self):
        return self._batches(20)

    def val_dataloader(self):
        return self._batches(10)

    def test_dataloader(self):
        return self._batches(10)


@pytest.mark.parametrize(("split", "share"), [("train", 0.2), ("val", 0.4), ("test", 0.4)])
def test_a_share_of_anybodys_data_that_is_no_batch(make_config, split, share):
    key = f"trainer.limit_{split}_batches"
    with pytest.raises(UserError, match=rf"{key}={share}: of \d batches is none"):
        check_limits(make_config(f"{key}={share}"), OwnData())
    check_limits(make_config(f"{key}=0.5"), OwnData())


@pytest.mark.parametrize(
    "word", ["+trainer.val_check_interval=1000", "+trainer.overfit_batches=0.0001"]
)
def test_a_share_that_lightning_refuses_later(make_config, word):
    with pytest.raises(UserError, match=word[1:].replace(".", r"\.")):
        train(make_config(word))


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-1, 3)])
def test_labels_of_anybodys_data(low, high):
    """In the middle of a step torch would say that a target is out of bounds."""
    data = OwnData()
    check_labels(data)
    images = torch.zeros(2, *data.input_shape)
    batches = DataLoader(TensorDataset(images, torch.tensor([low, high])), batch_size=2)
    data.train_dataloader = lambda: batches
    with pytest.raises(UserError, match=f"num_classes=10: OwnData has labels from {low} to {high}"):
        check_labels(data)


def test_batch_norm_that_a_network_brings_along(make_config):
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    check_batch_norms(make_config("data.batch_size=2"), network)
    check_batch_norms(make_config("data.batch_size=1"), torch.nn.Sequential())
    for words in (["data.batch_size=1"], ["data.batch_size=2", "trainer.devices=2"]):
        with pytest.raises(UserError, match=r"data\.batch_size=\d: the network's batch norm"):
            check_batch_norms(make_config(*words), network)


def test_what_a_diverged_run_is_evaluated_to_is_json(make_config, capsys):
    words = ["model.depth=3", "activation=relu", "optimizer.lr=1e20", "trainer.max_steps=5"]
    config = make_config(*words)
    summary = train(config)
    assert summary["state"] == "diverged"
    path = Path(config.paths.runs) / summary["study"] / summary["run_id"]
    capsys.readouterr()
    evaluate(compose("eval", [f"run={path}", "checkpoint=last", f"paths.data={config.paths.data}"]))

    def refuse(word):
        raise ValueError(f"{word} is no JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["test_loss"] is None

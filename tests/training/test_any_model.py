"""Anybody's module as a model of `isometry train`: one YAML, nothing else."""

from __future__ import annotations

import math

import pytest

from commands import run_of
from isometry.config.compose import compose, resolved
from isometry.errors import UserError
from isometry.layers.discover import layers_of
from isometry.runs.identity import run_id
from isometry.runs.signal_store import read_signals
from isometry.training.build import build_network
from isometry.training.run import train
from isometry.verbs.diagnose import diagnose

OWN = "defaults: [override /activation@_global_.activation: own]\n"
GRAY = f"""{OWN}
_target_: torch.nn.Sequential
name: gray
_args_:
  - {{_target_: torch.nn.Conv2d, in_channels: 1, out_channels: 4, kernel_size: 4, stride: 4}}
  - {{_target_: torch.nn.ReLU}}
  - {{_target_: torch.nn.Flatten}}
  - {{_target_: torch.nn.Linear, in_features: 196, out_features: 10}}
"""

TIMM = f"""{OWN}
_target_: timm.create_model
name: resnet10t
model_name: resnet10t
in_chans: 1
"""


@pytest.fixture(autouse=True)
def conf(tmp_path, monkeypatch):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "gray.yaml").write_text(GRAY)
    (tmp_path / "conf" / "model" / "timm.yaml").write_text(TIMM)
    monkeypatch.setenv("ISOMETRY_CONF", str(tmp_path / "conf"))


def test_resnet18_is_initialized_and_gets_the_number_of_classes():
    config = compose("train", ["model=resnet18", "initializer=he_normal", "seed=3"])
    layers = layers_of(build_network(config, (3, 32, 32), 7))
    assert len(layers) == 21
    assert layers[-1].size == (7, 512)
    for spec in layers:
        expected = math.sqrt(2 / spec.fan_in)
        # the sample of n has a relative error of 1/sqrt(2n)
        error = 5 / math.sqrt(2 * spec.weight.numel())
        assert spec.weight.std().item() == pytest.approx(expected, rel=error), spec.name


def test_a_model_of_timm_is_initialized_and_trained(tmp_path, data_cache):
    words = ["model=timm", "initializer=he_normal", "trainer=cpu", "trainer.max_steps=2"]
    more = ["logger=csv", "pictures=false", "data.batch_size=8", "trainer.limit_val_batches=1"]
    folders = [f"paths.runs={tmp_path}/runs", f"paths.data={data_cache}"]
    config = compose("train", [*words, *more, "trainer.limit_test_batches=1", *folders])
    summary = train(config)
    frame = read_signals(run_of(summary, config).signals)
    first = frame[frame.step == 0]
    assert len(first) == 15
    assert list(first["kind"])[-1] == "readout"
    assert (first["preactivation_var"] > 0).all()


def test_images_that_it_does_not_take_are_told_before_a_training():
    config = compose("train", ["model=resnet18"])
    with pytest.raises(UserError, match=r"model=resnet18: does not take examples \[1, 28, 28\]"):
        build_network(config, (1, 28, 28), 10)


def test_logits_of_another_width_are_told_before_a_training():
    with pytest.raises(UserError, match="10"):
        build_network(compose("train", ["model=gray"]), (1, 28, 28), 7)


def test_a_sequential_of_a_config_is_diagnosed(tmp_path, data_cache):
    words = ["model=gray", "trainer=cpu", "plot=false"]
    folders = [f"paths.runs={tmp_path}/runs", f"paths.data={data_cache}"]
    layers = diagnose(compose("diagnose", [*words, *folders]))["layers"]
    assert [layer["name"] for layer in layers] == ["0", "3"]
    assert all(layer["backprop_norm"] > 0 for layer in layers)


def test_a_sequential_of_a_config_is_trained(tmp_path, data_cache):
    words = ["model=gray", "trainer=cpu", "trainer.max_steps=4", "logger=csv", "pictures=false"]
    folders = [f"paths.runs={tmp_path}/runs", f"paths.data={data_cache}"]
    config = compose("train", [*words, *folders])
    summary = train(config)
    assert summary["state"] == "finished"
    frame = read_signals(run_of(summary, config).signals)
    assert frame.name.unique().tolist() == ["0", "3"]
    assert (frame[frame.step == 0].weight_grad_norm > 0).all()


def test_a_run_of_a_network_with_its_own_phi_is_not_named_after_another():
    assert run_id(resolved(compose("train", ["model=gray"]))).startswith("gray-glorot_normal-s0-")


def test_an_activation_that_a_network_does_not_take_is_an_error():
    words = r"activation=relu: model=gray takes none: activation=own"
    with pytest.raises(UserError, match=words):
        build_network(compose("train", ["model=gray", "activation=relu"]), (1, 28, 28), 10)
    with pytest.raises(UserError, match="activation=own: is a network's own φ"):
        build_network(compose("train", ["activation=own"]), (1, 28, 28), 10)


def test_a_config_without_that_line_is_told_it(tmp_path):
    bare = "_target_: torchvision.models.resnet18\nname: bare\n"
    (tmp_path / "conf" / "model" / "bare.yaml").write_text(bare)
    with pytest.raises(UserError, match="model=bare takes none: activation=own, or in the model's"):
        build_network(compose("train", ["model=bare"]), (3, 32, 32), 10)
    network = build_network(compose("train", ["model=bare", "activation=own"]), (3, 32, 32), 10)
    assert len(layers_of(network)) == 21

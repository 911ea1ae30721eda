"""`isometry diagnose my.module:factory`: anybody's network, without a config."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isometry.errors import UserError
from isometry.verbs.own_network import build_own

MINE = """
import torch, torchvision
from torch import nn


def resnet():
    return torchvision.models.resnet18(num_classes=10)


def sigmoids():
    hidden = [m for _ in range(8) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(16, 4))


def words():
    return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 50))


def two():
    return nn.Bilinear(3, 4, 5), torch.randn(6, 3), torch.randn(6, 4)


def silent():
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    nn.init.zeros_(network[2].weight)
    return network


made = nn.Linear(3, 2)


def broken():
    raise KeyError("hello")


def three():
    return 3


def weightless():
    return nn.Tanh()
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def diagnosis(folder):
    (path,) = folder.glob("runs/diagnose/*/diagnosis.json")
    return json.loads(path.read_text())


def test_a_resnet_is_diagnosed_layer_by_layer(typed, mine):
    done = typed("diagnose", "mine:resnet", "input=8,3,32,32", "plot=true", cwd=mine)
    assert done.returncode == 0, done.stderr
    found = diagnosis(mine)
    names = [layer["name"] for layer in found["layers"]]
    assert len(names) == 21
    assert all(name in done.stdout for name in names)
    assert all(layer["backprop_norm"] > 0 for layer in found["layers"])
    assert all(layer["backprop_norm_predicted"] is None for layer in found["layers"])
    assert found["reason"].startswith("a network's own weights")
    assert (mine / done.stderr.splitlines()[-1].removeprefix("-> ")).is_file()


def test_numbers_are_autograds_in_float64(mine):
    own = build_own("mine:sigmoids", [32, 16], None, seed=3)
    columns = own.measure()
    torch.manual_seed(3)
    import mine as module

    network = module.sigmoids()
    x = torch.randn(32, 16)
    network(x)
    labels = torch.randint(4, (32,))
    network.double()
    hs = []
    h = x.double()
    for layer in network:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            h.retain_grad()
            hs.append(h)
    F.cross_entropy(h, labels, reduction="sum").backward()
    for k, tensor in enumerate(hs):
        delta = tensor.grad.square().sum().div(32).sqrt().item()
        assert columns["backprop_norm"][k] == pytest.approx(delta, rel=1e-9)
        q = tensor.square().mean().item()
        assert columns["forward_second_moment"][k] == pytest.approx(q, rel=1e-9)


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        (("mine:words", "input=4,7", "vocabulary=50"), 3),
        (("mine:two",), 1),
        (("mine:made", "input=5,3"), 1),
    ],
)
def test_tokens_several_inputs_and_a_ready_module(typed, mine, words, layers):
    done = typed("diagnose", *words, cwd=mine)
    assert done.returncode == 0, done.stderr
    assert len(diagnosis(mine)["layers"]) == layers


def test_a_readout_that_begins_at_zero_is_told(typed, mine):
    done = typed("diagnose", "mine:silent", "input=5,4", cwd=mine)
    assert done.returncode == 0, done.stderr
    assert "no gradient reaches the last hidden layer" in done.stderr
    assert diagnosis(mine)["verdict_init"] is None


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("mine", [3], "network=mine: must be module:function"),
        ("nowhere:f", [3], "No module named 'nowhere'; looked in this folder, too"),
        ("mine:nothing", [3], "mine has no nothing"),
        ("mine:three", [3], "must return a torch module, not int"),
        ("mine:broken", [3], r"network=mine:broken: KeyError: 'hello' \(mine.py:\d+\)"),
        ("mine:resnet", None, "input=null: say what goes in"),
        ("mine:resnet", [3, 5], r"input=\[3, 5\]: RuntimeError: Expected 3D"),
        ("mine:weightless", [3, 5], "applies no weight"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_message(mine, name, shape, words):
    with pytest.raises(UserError, match=words):
        build_own(name, shape, None, seed=0)


def test_a_shape_is_checked(typed, mine):
    for wrong in ("input=a", "input=8,0", "input=[8,x]"):
        done = typed("diagnose", "mine:resnet", wrong, cwd=mine)
        assert done.returncode == 2
        assert "must be whole numbers of at least 1" in done.stderr

"""Layers measured as they compute, against the same step measured behind its forward and backward
pass.
"""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import builders
from builders import convnet, fan_scaled, phi_of
from isometry import activations
from isometry.columns import MEASURED
from isometry.networks.mlp import MLP
from isometry.signals import kernels
from isometry.signals.recorder import Recorder


class Residual(MLP):
    """The input of a layer is not the activation of the one below."""

    def forward(self, x, probe=None):
        x = self.layers[0](x.flatten(1), probe)
        for layer in self.layers[1:-1]:
            x = x + layer(x, probe)
        return self.layers[-1](x, probe)


class Checkpointed(Residual):
    """Computes its layers again in the backward pass, in its own way, with the probe in their
    hands.
    """

    def forward(self, x, probe=None):
        x = self.layers[0](x.flatten(1), probe)
        for layer in self.layers[1:-1]:
            x = x + checkpoint(layer, x, probe, use_reentrant=False)
        return self.layers[-1](x, probe)


class Transposed(nn.Module):
    """φ whose result does not lie in memory row by row."""

    def forward(self, z):
        return torch.tanh(z).t().contiguous().t()


def transposed(network):
    network.layers[1].activation = Transposed()
    return network


def mlp(activation="relu", normalization="none", kind=MLP):
    return builders.mlp((1, 6, 6), 3, phi_of(activation), normalization, width=7, kind=kind)


NETWORKS = {
    "relu": mlp,
    "sigmoid, saturated on both sides": lambda: mlp("sigmoid"),
    "prelu, saturation by slope": lambda: mlp("prelu"),
    "layer norm": lambda: mlp("tanh", "layer"),
    "batch norm": lambda: mlp("tanh", "batch"),
    "residual": lambda: mlp(kind=Residual),
    "checkpointing of its own": lambda: mlp(kind=Checkpointed),
    "convnet": lambda: convnet((1, 6, 6), 3, activations.relu(), depth=4, channels=4, stages=2),
    "one layer that is not measured at once": lambda: transposed(mlp("tanh")),
}


def prepared(name, dtype=torch.float32):
    network = NETWORKS[name]()
    fan_scaled(gain=1.3)(network.layer_map(), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(10, 1, 6, 6, generator=generator)
    labels = torch.randint(0, 3, (10,), generator=generator)
    return network.to(dtype), x.to(dtype), labels


def steps(network, x, labels, recorder, micro_batches=1, count=2):
    """Row by row [count, columns, layers], NaN where nothing is measured; the weights stay as they
    are.
    """
    for _ in range(count):
        network.zero_grad()
        for part, target in zip(x.chunk(micro_batches), labels.chunk(micro_batches), strict=True):
            loss = F.cross_entropy(network(part, recorder.begin(True, len(part))), target)
            recorder.after_forward(loss)
            loss.backward()
            recorder.after_backward(1 / len(target))
        recorder.before_update(True)
        recorder.after_update(True)
        x = 0.5 * x  # the next step has to find nothing of this one
    flush = recorder.flush()
    return np.where(flush.measured, flush.values, np.nan)


@pytest.mark.parametrize("micro_batches", [1, 3])  # of 4, 4 and 2 examples
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_measured_as_it_computes_is_the_same(name, dtype, micro_batches):
    """Sums in another order: the tolerance is that of float64 sums over a few hundred numbers."""
    network, x, labels = prepared(name, dtype)
    afterwards = steps(
        network, x, labels, Recorder(network.layer_map(), keeps_tensors=True), micro_batches
    )
    at_once = steps(network, x, labels, Recorder(network.layer_map()), micro_batches)
    np.testing.assert_allclose(at_once, afterwards, rtol=1e-11, atol=1e-15)
    assert np.isfinite(at_once[:, MEASURED.index("backprop_norm")]).all()


def watched_step(network, x, labels, recorder):
    probe = recorder.begin(True, len(x))
    loss = F.cross_entropy(network(x, probe), labels)
    recorder.after_forward(loss)
    return probe, loss


@pytest.mark.parametrize("name", ["relu", "convnet", "residual"])
def test_all_layers_are_measured_at_once(name):
    network, x, labels = prepared(name)
    probe, loss = watched_step(network, x, labels, Recorder(network.layer_map()))
    assert all(h is probe.nothing for h in [*probe.preactivations, *probe.arguments])
    loss.backward()
    assert probe.at_once.complete
    assert not probe.at_once.left


def test_a_layer_that_is_not_leaves_nothing_behind():
    network, x, labels = prepared("one layer that is not measured at once")
    recorder = Recorder(network.layer_map())
    probe, loss = watched_step(network, x, labels, recorder)
    assert [h is not probe.nothing for h in probe.preactivations] == [False, True, False, False]
    loss.backward()
    assert list(probe.at_once.left) == [1]
    recorder.after_backward(1 / len(x))
    assert not probe.at_once.left


def test_what_autograd_does_not_need_is_not_kept():
    """h of a rectifier, whose backward pass needs a alone."""
    network, x, labels = prepared("relu")
    seen = []
    recorder = Recorder(network.layer_map())
    network.layers[1].weighted.register_forward_hook(
        lambda module, inputs, h: seen.append(weakref.ref(h))
    )
    _, loss = watched_step(network, x, labels, recorder)
    gc.collect()
    assert seen[0]() is None
    assert loss.isfinite()


def test_the_room_is_that_of_the_last_step_unless_the_batch_has_another_size():
    network, _, _ = prepared("relu")
    recorder = Recorder(network.layer_map())
    rooms = [recorder._forward_plan.room(0, size) for size in (4, 4, 5)]
    assert rooms[0] is rooms[1] is not rooms[2]
    assert rooms[2].squares.shape == (5, 5)


@pytest.mark.parametrize("settings", [{"compiled": True}, {"keeps_tensors": True}], ids=str)
def test_where_tensors_are_kept_there_is_no_room(settings):
    network, _, _ = prepared("relu")
    assert Recorder(network.layer_map(), **settings)._forward_plan.room(0, 4) is None


def test_a_layer_that_is_applied_twice_is_measured_behind_the_pass():
    network, _, _ = prepared("relu")
    layer = network.layers[1]
    network.finish([network.layers[0], layer, layer, network.layers[3]])
    assert Recorder(network.layer_map())._forward_plan.room(0, 4) is None


@pytest.mark.parametrize(
    "h",
    [
        torch.randn(4, 7)[:, :6],
        torch.randn(3, 6),
        torch.randn(4, 5),
        torch.randn(24),
        torch.zeros(4, 6).half(),
    ],
)
def test_a_tensor_of_another_shape_or_layout_is_not_measured_at_once(h):
    network, _, _ = prepared("relu")
    room = Recorder(network.layer_map()).reductions.layer_by_layer(4, [None], (6,)).open()
    good = torch.randn(4, 6)
    assert room.see(0, good, good)
    assert not room.see(0, h, good)
    assert not room.see(0, good, h)
    assert not room.see(0, good, torch._neg_view(good))
    room.hooks[0](h)
    assert not room.complete
    assert room.take_left() == {0: h}


def test_a_kernel_that_is_not_called_is_missed(monkeypatch):
    """The mutation: were δ not seen, the row would not be what it is."""
    network, x, labels = prepared("relu")
    expected = steps(network, x, labels, Recorder(network.layer_map()), count=1)
    monkeypatch.setattr(kernels, "see_delta", lambda *arguments: True)
    found = steps(network, x, labels, Recorder(network.layer_map()), count=1)
    column = MEASURED.index("backprop_norm")
    assert np.isfinite(expected[:, column]).all()
    assert np.isnan(found[:, column]).all()

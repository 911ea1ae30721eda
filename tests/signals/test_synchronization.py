"""Nothing in a step waits for the device; one copy a flush."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from builders import convnet, mlp, recorder_of, shown
from isometry import activations
from isometry.layers import discover
from isometry.signals import norms

PHI = activations.tanh()
_ = PHI.saturated_intervals  # computed once, on real numbers

# operations that hand a number or a tensor of unknown size to the host
SYNCHRONIZING = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "equal",
}


@pytest.fixture(autouse=True)
def _no_generator_of_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(discover, "untouched", lambda module: contextlib.nullcontext())


def build(kind):
    if kind == "mlp":
        return mlp((1, 4, 4), 3, PHI, depth=4, width=6), torch.randn(10, 1, 4, 4)
    return convnet((1, 6, 6), 3, PHI, depth=4, channels=4), torch.randn(10, 1, 6, 6)


def step(recorder, network, x, optimizer, recorded):
    """One step of training; what is between the marks is ours."""
    optimizer.zero_grad()
    loss = F.cross_entropy(
        shown(recorder, network, x, recorded), torch.zeros(len(x), dtype=torch.long)
    )
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(1 / len(x))
    recorder.before_update(recorded)
    optimizer.step()
    recorder.after_update(recorded)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_a_step_runs_on_fake_tensors_where_any_look_at_a_value_raises(kind, monkeypatch):
    monkeypatch.setattr(norms, "SCREENED", frozenset())  # the path that accelerators take
    with FakeTensorMode():
        network, x = build(kind)
        recorder = recorder_of(network, flush_every=4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for recorded in (True, False, True):
            step(recorder, network, x, optimizer, recorded)
        assert recorder.buffer.shape == (4, 18, 4)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            recorder.buffer[0, 0, 0].item()


class Count(TorchDispatchMode):
    """Names of the operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__.split(".")[0])
        return function(*args, **(kwargs or {}))


def test_dispatched_operations_of_a_step(monkeypatch):
    """No synchronizing operation; and steps that are not recorded cost a handful of operations,
    whatever the depth.
    """
    monkeypatch.setattr(norms, "SCREENED", frozenset())
    extra = {}
    for depth in (4, 40):
        network = mlp((1, 4, 4), 3, PHI, depth=depth, width=6)
        x = torch.randn(10, 1, 4, 4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, foreach=True)
        recorder = recorder_of(network, flush_every=8)
        step(recorder, network, x, optimizer, True)
        for recorded in (True, False):
            with Count() as ours:
                shown(recorder, network, x, recorded)
                recorder.after_forward(torch.zeros(()))
                recorder.before_update(False) if not recorded else None
            recorder.observer.close()
            assert not SYNCHRONIZING & set(ours.names), SYNCHRONIZING & set(ours.names)
            recorder.rows.append(None)
            recorder._open_step()
            with Count() as plain:
                network(x)
            extra[depth, recorded] = len(
                [n for n in ours.names if n not in ("detach", "view")]
            ) - len(plain.names)
    assert extra[40, False] <= extra[4, False] + 5
    assert extra[40, False] < 40


def operations(depth, recorded):
    """Operations, views left out, that the recorder's own calls ask for in one step of a network
    that has run before.
    """
    network = mlp((1, 4, 4), 3, PHI, depth=depth, width=6)
    x = torch.randn(10, 1, 4, 4)
    labels = torch.zeros(10, dtype=torch.long)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = recorder_of(network, flush_every=8)
    step(recorder, network, x, optimizer, recorded)
    optimizer.zero_grad()
    with Count() as ours:
        recorder.begin(recorded, 10)
        logits = network(x)
    loss = F.cross_entropy(logits, labels)
    with ours:
        recorder.after_forward(loss)
    loss.backward()
    with ours:
        recorder.after_backward(0.1)
        recorder.before_update(recorded)
        recorder.after_clipping(recorded)
    optimizer.step()
    with ours:
        recorder.after_update(recorded)
    return len([name for name in ours.names if name not in VIEWS])


VIEWS = {
    "detach",
    "view",
    "unsqueeze",
    "slice",
    "select",
    "alias",
    "unbind",
    "split",
    "t",
    "_unsafe_view",
    "empty",
    "permute",
}


def test_the_recorders_operations_are_few(monkeypatch):
    """On an accelerator a step costs what the host needs to ask for it: a watched step's operations
    do not grow with the depth, a recorded one's by so many a layer (forward pass and loss of the
    network itself included, 4 a layer).
    """
    monkeypatch.setattr(norms, "SCREENED", frozenset())
    grown = {
        recorded: operations(40, recorded) - operations(12, recorded) for recorded in (True, False)
    }
    assert grown[False] <= 5 * 28
    assert grown[True] <= 45 * 28


class Copies(TorchDispatchMode):
    """Operations on tensors of the host and of the device at once (the host waits for such copies),
    or that look at a value.
    """

    def __init__(self):
        super().__init__()
        self.on = False
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if self.on:
            tensors = [
                t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)
            ]
            name = function.__name__.split(".")[0]
            if len({t.device.type for t in tensors}) > 1 or name in SYNCHRONIZING:
                self.found.append(name)
        return result


def pretend_backward(network, recorder, recorded):
    """No backward pass runs on fake tensors of a device that is not there."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    for spec in recorder.layers if recorded else ():
        recorder.sums.delta(spec, torch.empty(10, spec.size[0], 2, device="cuda"))


def freeze(network):
    network.layers[1].weighted.requires_grad_(False)


def tie(network):
    network.layers[2].weighted.weight = network.layers[1].weighted.weight


def checkpoint(network):
    network.activation_checkpointing = True


def parametrize(network):
    torch.nn.utils.parametrizations.weight_norm(network.layers[1].weighted)


GELU = activations.gelu()
_ = GELU.saturated_intervals
REGIMES = {
    "plain": {},
    "without biases": {"bias": False},
    "accumulation": {"accumulated": 2},
    "batch norm": {"normalization": "batch"},
    "layer norm": {"normalization": "layer"},
    "gelu": {"activation": GELU},
    "frozen": {"change": freeze},
    "tied": {"change": tie},
    "checkpointing": {"change": checkpoint},
    "parametrized": {"change": parametrize},
    "convnet": {"build": convnet},
}


@pytest.mark.parametrize("regime", REGIMES)
def test_no_step_copies_between_host_and_device(regime):
    """On a pretended GPU, after the first two steps, which make what lies there for good."""
    options = {
        "build": mlp,
        "activation": PHI,
        "accumulated": 1,
        "change": lambda network: None,
        **REGIMES[regime],
    }
    build, phi, accumulated, change = (
        options.pop(name) for name in ("build", "activation", "accumulated", "change")
    )
    with FakeTensorMode(), Copies() as copies:
        with torch.device("cuda"):
            network = build((1, 6, 6), 3, phi, **options)
            x = torch.randn(10, 1, 6, 6)
            labels = torch.zeros(10).long()
            change(network)
        recorder = recorder_of(network, flush_every=8)
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        for index in range(6):
            copies.on = index >= 2
            recorded = index % 2 == 0
            optimizer.zero_grad()
            for _ in range(accumulated):
                loss = F.cross_entropy(shown(recorder, network, x, recorded), labels)
                recorder.after_forward(loss)
                pretend_backward(network, recorder, recorded)
                recorder.after_backward(0.1)
            recorder.before_update(recorded)
            recorder.after_clipping(recorded)
            optimizer.step()
            recorder.after_update(recorded)
    assert copies.found == []


def test_a_copy_between_host_and_device_is_seen():
    with FakeTensorMode(), Copies() as copies:
        x = torch.zeros(3, device="cuda")
        copies.on = True
        x[[0, 2]] = 1.0
    assert copies.found


def test_one_copy_to_the_host_a_flush(monkeypatch):
    network, x = build("mlp")
    recorder = recorder_of(network, flush_every=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    copies = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self: (copies.append(tuple(self.shape)), original(self))[1]
    )
    for _ in range(4):
        step(recorder, network, x, optimizer, True)
    assert copies == []
    recorder.flush()
    assert copies == [(4, 18, 4)]


def test_memory_is_bounded_by_the_flush():
    network, x = build("mlp")
    recorder = recorder_of(network, flush_every=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = recorder.buffer.data_ptr()
    for index in range(9):
        step(recorder, network, x, optimizer, True)
        if recorder.full:
            assert recorder.flush().steps.tolist() == [index - 2, index - 1, index]
    assert recorder.buffer.data_ptr() == before
    assert not recorder.rows

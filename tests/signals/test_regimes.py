"""The recorder in the regimes where other tools report something else. Each test has its mutation:
the number without the unscaling, the all-reduce or the aggregation is shown to differ."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import reference
from builders import fan_scaled, map_of, mlp, recorder_of, shown
from isometry import activations
from isometry.columns import MEASURED
from isometry.networks.blocks import Layer, Network
from isometry.signals.norms import norms
from isometry.signals.parameters import LayerParameters
from isometry.signals.statistics import Constants
from isometry.training.scaling import gradient_scale, loss_scale


def build(dtype=torch.float32, depth=4):
    network = mlp((1, 4, 4), 3, activations.tanh(), depth=depth, width=6)
    fan_scaled(gain=1.3)(map_of(network), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    return (
        network.to(dtype),
        torch.randn(10, 1, 4, 4, generator=generator).to(dtype),
        torch.arange(10) % 3,
    )


def column(flush, name, step=0):
    return flush.values[step, MEASURED.index(name)]


def one_step(network, x, labels):
    """A recorded forward and backward pass of 10 examples, without an update."""
    recorder = recorder_of(network, flush_every=2)
    loss = F.cross_entropy(shown(recorder, network, x, True), labels)
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(0.1)
    recorder.before_update(True)
    recorder.after_update(True)
    return recorder.flush()


def amp_step(optimizer_options, poison=False, unscale=True):
    """One step as Lightning's fp16 precision does it, with a real GradScaler; returns flush, scaler
    and the network.
    """
    network, x, labels = build()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, **optimizer_options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    recorder = recorder_of(network, flush_every=4, skips_overflow=True)
    loss = scaler.scale(F.cross_entropy(shown(recorder, network, x, True), labels))
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(loss_scale(scaler) / 10)
    if poison:
        network.layers[1].weighted.weight.grad[0, 0] = float("inf")
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)
    recorder.before_update(True, gradient_scale(scaler, optimizer) if unscale else 1.0)
    recorder.after_clipping(True)
    scaler.step(optimizer)
    scaler.update()
    recorder.after_update(True)
    return recorder.flush(), scaler


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["plain", "fused"])
def test_gradients_and_deltas_are_unscaled_under_a_gradient_scaler(options):
    network, x, labels = build(torch.float64)
    expected = reference.columns(network, x, labels)
    flush, _ = amp_step(options)
    for name in (
        "weight_grad_norm",
        "backprop_norm",
        "sample_weight_grad_rms",
        "bias_grad_norm",
        "weight_grad_norm_clipped",
    ):
        wanted = [row.get(name, row["weight_grad_norm"]) for row in expected]
        np.testing.assert_allclose(column(flush, name), wanted, rtol=1e-4, err_msg=name)


def test_without_the_unscaling_a_fused_optimizers_gradients_are_wrong():
    flush, _ = amp_step({"fused": True}, unscale=False)
    right, _ = amp_step({"fused": True})
    ratio = column(flush, "weight_grad_norm") / column(right, "weight_grad_norm")
    np.testing.assert_allclose(ratio, 2.0**16, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["plain", "fused"])
def test_a_skipped_step_is_recorded_as_skipped_and_is_no_divergence(options):
    flush, scaler = amp_step(options, poison=True)
    assert scaler.get_scale() == 2.0**15  # the scaler has seen it
    assert flush.divergence is None
    assert column(flush, "nonfinite").tolist() == [0, 1, 0, 0]
    assert np.isinf(column(flush, "weight_grad_norm")[1])
    assert (column(flush, "update_norm") == 0).all()
    # nothing was clipped; the kernel of a fused optimizer that skips leaves the loss scale in
    np.testing.assert_array_equal(
        column(flush, "weight_grad_norm_clipped"), column(flush, "weight_grad_norm")
    )


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_clipped_gradients_are_read_before_the_optimizer_computes_in_their_memory(
    clip, up_to_the_gradients
):
    """torch's SGD with Nesterov's momentum adds the momentum to the gradients, in place, where it
    takes them all at once.
    """
    network, x, labels = build(torch.float64)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True
    )
    recorder = recorder_of(network, flush_every=2)
    up_to_the_gradients(recorder, network, x, labels)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    expected = [spec.weights[0].grad.norm().item() for spec in map_of(network)]
    recorder.after_clipping(True)
    optimizer.step()
    recorder.after_update(True)
    np.testing.assert_allclose(
        column(recorder.flush(), "weight_grad_norm_clipped"), expected, rtol=1e-12
    )
    assert map_of(network)[0].weights[0].grad.norm().item() > 1.5 * expected[0]  # it did


def test_an_update_relative_to_weights_of_zero_is_null():
    network, x, labels = build(torch.float64)
    with torch.no_grad():
        map_of(network)[-1].weight.zero_()
    recorder = one_step(network, x, labels)
    assert recorder.measured[0, MEASURED.index("update_ratio")].tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_a_frozen_layer_has_no_gradient_and_is_null():
    network, x, labels = build(torch.float64)
    for parameter in network.layers[1].parameters():
        parameter.requires_grad_(False)
    recorder = recorder_of(network, flush_every=2)
    loss = F.cross_entropy(shown(recorder, network, x, True), labels)
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(0.1)
    recorder.before_update(True)
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    recorder.after_update(True)
    flush = recorder.flush()
    assert flush.divergence is None
    for name in (
        "weight_grad_norm",
        "weight_grad_norm_clipped",
        "bias_grad_norm",
        "nonfinite",
        "sample_weight_grad_rms",
    ):
        assert flush.measured[0, MEASURED.index(name)].tolist() == [True, False, True, True], name
    assert column(flush, "update_norm")[1] == 0  # measured: it did not move
    whole, x, labels = build(torch.float64)
    expected = [row["backprop_norm"] for row in reference.columns(whole, x, labels)]
    # δ passes through
    np.testing.assert_allclose(column(flush, "backprop_norm"), expected, rtol=1e-9)


class Shared(Network):
    """The second layer is applied three times."""

    example = torch.zeros(2, 16)

    def __init__(self):
        phi = activations.tanh()
        first = Layer(nn.Linear(16, 6), phi)
        shared = Layer(nn.Linear(6, 6), phi)
        readout = Layer(nn.Linear(6, 3))
        super().__init__([first, shared, shared, shared, readout])

    def forward(self, x):
        return super().forward(x.flatten(1))


def test_a_shared_weight_is_one_layer():
    torch.manual_seed(0)
    network = Shared().double()
    (_, x, labels) = build(torch.float64)
    layers = map_of(network)
    assert [(spec.index, spec.kind, spec.uses) for spec in layers] == [
        (1, "hidden", 1),
        (2, "hidden", 3),
        (3, "readout", 1),
    ]
    flush = one_step(network, x, labels)
    grads = [spec.weights[0].grad.norm().item() for spec in layers]
    np.testing.assert_allclose(column(flush, "weight_grad_norm"), grads, rtol=1e-12)
    assert not flush.measured[0, MEASURED.index("sample_weight_grad_rms"), 1]
    # δ of the shared layer: all three applications together
    h = x.flatten(1)
    hs = []
    for layer in network.layers:
        h = layer.weighted(h)
        h.retain_grad()
        hs.append(h)
        h = h if layer.activation is None else layer.activation(h)
    F.cross_entropy(h, labels).backward()
    squares = [(10 * value.grad).square().sum(1).mean() for value in hs]
    assert column(flush, "backprop_norm")[1] == pytest.approx(
        sum(squares[1:4]).sqrt().item(), rel=1e-9
    )


def test_tied_weights_count_once():
    """Two layers of one parameter: each shows its gradient, and their sum has it once."""
    network, x, labels = build(torch.float64, depth=5)
    first = network.layers[1].weighted
    second = network.layers[3].weighted
    second.weight = first.weight
    flush = one_step(network, x, labels)
    grads = [network.layers[i].weighted.weight.grad.norm().item() for i in range(5)]
    np.testing.assert_allclose(column(flush, "weight_grad_norm"), grads, rtol=1e-12)
    distinct = [grads[0], grads[1], grads[2], grads[4]]
    np.testing.assert_allclose(flush.gradient_norms, [np.linalg.norm(distinct)], rtol=1e-12)
    # the gradient of one example is a sum of two outer products
    assert flush.measured[0, MEASURED.index("sample_weight_grad_rms")].tolist() == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_parametrized_weight_is_one_layer_of_its_originals():
    network, x, labels = build(torch.float64)
    parametrizations.weight_norm(network.layers[1].weighted)
    spec = map_of(network)[1]
    assert len(spec.weights) == 2
    flush = one_step(network, x, labels)
    expected = torch.cat([p.grad.flatten() for p in spec.weights]).norm().item()
    assert column(flush, "weight_grad_norm")[1] == pytest.approx(expected, rel=1e-12)
    assert column(flush, "weight_grad_norm")[1] != pytest.approx(
        spec.weights[0].grad.norm().item(), rel=1e-3
    )


def _sharded(rank: int, port: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(0)
    full = [torch.randn(7, 5, generator=generator) * 10.0**e for e in (-30, 0, 25, 1, 2)]
    placements = [(mesh, [Shard(0)]), (mesh, [Shard(1)]), (mesh, [Replicate()])]
    plane = init_device_mesh("cpu", (2, 1))
    placements += [(plane, [Shard(0), Replicate()]), (plane, [Replicate(), Shard(0)])]
    parameters = [
        nn.Parameter(distribute_tensor(t, m, p)) for t, (m, p) in zip(full, placements, strict=True)
    ]
    constants = Constants(torch.device("cpu"))
    layers = LayerParameters([[parameter] for parameter in parameters], constants)
    local = norms(layers.values(), torch.device("cpu"))
    whole = layers.norm_by_layer(local)
    ones = layers.sum_by_layer(torch.ones(5, dtype=torch.float64), range(5))
    # a replicated weight whose gradient still has to be summed over the mesh
    parameters[2].grad = DTensor.from_local(torch.full((7, 5), 1.0 + rank), mesh, [Partial()])
    gradients, positions = layers.with_gradient()
    torch.save(
        (whole, local, norms(full, torch.device("cpu")), ones, gradients, positions),
        f"{folder}/{rank}.pt",
    )
    dist.barrier()
    # past the C++ destructors: gloo's threads race with them at exit, and one time in a hundred
    # abort
    os._exit(0)


def test_sharded_parameters_are_measured_whole(tmp_path):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_sharded, args=(port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        whole, local, expected, ones, gradients, positions = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(whole, expected, rtol=1e-9, atol=0)
        # without the all-reduce each process would report its own shard
        assert (local[:2] < 0.99 * expected[:2]).all()
        assert ones.tolist() == [2, 2, 1, 2, 1]  # counts are those of all shards
        assert positions == [2]
        assert (gradients[0] == 3.0).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_network_measures_the_same_without_breaking_the_graph(
    checkpointing, up_to_the_gradients
):
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    flushes = []
    for compiled in (False, True):
        network, x, labels = build()
        network.activation_checkpointing = checkpointing
        if compiled:
            network.compile(fullgraph=True, backend="aot_eager")
        recorder = recorder_of(network, flush_every=8)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for recorded in (True, False, True, False, True):
            replay = functools.partial(network, x)
            up_to_the_gradients(recorder, network, x, labels, recorded, replay)
            optimizer.step()
            recorder.after_update(recorded)
        flushes.append(recorder.flush())
    eager, graph = flushes
    np.testing.assert_array_equal(eager.measured, graph.measured)
    np.testing.assert_allclose(
        graph.values[eager.measured], eager.values[eager.measured], rtol=1e-4, atol=1e-9
    )
    assert not dynamo.utils.counters["graph_break"]
    # recorded steps run eagerly; all others are one graph
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 1

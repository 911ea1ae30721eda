"""The recorder against the plain account in `reference.py`, and against itself where the
mathematics says "the same".
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import reference
from builders import convnet, fan_scaled, map_of, mlp, phi_of, recorder_of, shown
from isometry import activations
from isometry.columns import MEASURED
from isometry.initializers import Normal
from isometry.networks.mlp import MLP
from isometry.signals import norms
from isometry.signals.recorder import Recorder


def build(
    kind="mlp",
    activation="tanh",
    normalization="none",
    depth=4,
    initializer=None,
    dtype=torch.float64,
):
    torch.manual_seed(0)
    phi = phi_of(activation)
    if kind == "mlp":
        network = mlp((1, 4, 4), 3, phi, normalization, depth=depth, width=6)
    else:
        network = convnet((1, 6, 6), 3, phi, normalization, depth=depth, channels=4, stages=2)
    (initializer or fan_scaled(gain=1.3))(map_of(network), torch.Generator().manual_seed(1))
    side = 4 if kind == "mlp" else 6
    return (
        network.to(dtype),
        torch.randn(10, 1, side, side, dtype=dtype),
        torch.randint(0, 3, (10,)),
    )


def measure(network, x, labels, micro_batches=1, lr=0.1, recorder=None, clip=None, first=True):
    """One optimizer step with the recorder, as a training loop would do it."""
    recorder = recorder or recorder_of(network, flush_every=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    optimizer.zero_grad()
    for part, target in zip(x.chunk(micro_batches), labels.chunk(micro_batches), strict=True):
        logits = shown(recorder, network, part, True)
        loss = F.cross_entropy(logits, target) / micro_batches
        recorder.after_forward(loss)
        loss.backward()
        recorder.after_backward(1 / (len(target) * micro_batches))
    recorder.before_update(True)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    recorder.after_update(True)
    return recorder


def row(flush, step, layer):
    """The measured columns of one (step, layer) as a dict."""
    return {
        c: flush.values[step, i, layer]
        for i, c in enumerate(MEASURED)
        if flush.measured[step, i, layer]
    }


def test_weights_that_were_moved_in_memory_are_found_again():
    network, x, labels = build()
    recorder = measure(network, x, labels)
    for parameter in network.parameters():
        parameter.data = 2 * parameter.data
    start = [spec.weight.detach().clone() for spec in map_of(network)]
    flush = measure(network, x, labels, recorder=recorder).flush()
    for layer, (spec, before) in enumerate(zip(map_of(network), start, strict=True)):
        assert row(flush, 1, layer)["weight_norm"] == pytest.approx(before.norm().item(), rel=1e-12)
        assert row(flush, 1, layer)["update_norm"] == pytest.approx(
            (spec.weight - before).norm().item(), rel=1e-9
        )


def test_a_layer_that_is_not_called_is_null():
    network, x, labels = build()
    recorder = recorder_of(network, flush_every=4)
    skipped = network.layers[2]
    network.run = lambda layer, x: x if layer is skipped else layer(x)
    flush = measure(network, x, labels, recorder=recorder).flush()
    measured = row(flush, 0, 2)
    assert measured.keys() == {"weight_norm", "displacement", "update_norm", "update_ratio"}
    assert row(flush, 0, 1)["backprop_norm"] > 0


class Positions(MLP):
    """The same linear maps at each of five positions, and their mean."""

    def forward(self, x):
        x = torch.stack([x.flatten(1) * k for k in range(1, 6)], dim=1)
        for layer in [layer for layer in self.layers if not isinstance(layer, torch.nn.Flatten)]:
            x = self.run(layer, x)
        return x.mean(1)


def test_what_does_not_exist_for_a_sequence_is_null():
    torch.manual_seed(0)
    network = mlp((1, 4, 4), 3, activations.tanh(), kind=Positions).double()
    flush = measure(
        network, torch.randn(10, 1, 4, 4, dtype=torch.float64), torch.randint(0, 3, (10,))
    ).flush()
    for layer in range(4):
        measured = row(flush, 0, layer)
        assert measured["weight_grad_norm"] > 0
        assert measured["backprop_norm"] > 0
        assert "sample_weight_grad_rms" not in measured  # no outer product an example
        assert ("dead" in measured) is (layer < 3)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu"])
@pytest.mark.parametrize("normalization", ["none", "layer", "rms", "batch"])
@pytest.mark.parametrize("path", ["cpu", "accelerator"])
def test_every_column_is_the_float64_definition(kind, activation, normalization, path, monkeypatch):
    if path == "accelerator":
        monkeypatch.setattr(norms, "SCREENED", frozenset())
    network, x, labels = build(kind, activation, normalization)
    expected = reference.columns(network, x, labels)
    flush = measure(network, x, labels).flush()
    for layer, wanted in enumerate(expected):
        measured = row(flush, 0, layer)
        for column, value in wanted.items():
            assert reference.close(measured[column], value, 1e-9), (
                layer,
                column,
                measured[column],
                value,
            )


def test_null_is_where_a_value_does_not_exist():
    network, x, labels = build("convnet", "linear")
    flush = measure(network, x, labels).flush()
    hidden = row(flush, 0, 0)
    readout = row(flush, 0, 3)
    assert "sample_weight_grad_rms" not in hidden  # a convolution would need extra backward passes
    assert "sample_weight_grad_rms" in readout
    assert "dead" not in readout
    assert "saturation" not in readout
    network, x, labels = build("mlp", "relu", "batch")
    # examples interact
    assert "sample_weight_grad_rms" not in row(measure(network, x, labels).flush(), 0, 0)


def test_update_columns_are_what_happened_to_the_weights():
    network, x, labels = build()
    start = [spec.weight.detach().clone() for spec in map_of(network)]
    recorder = measure(network, x, labels, lr=0.5)
    middle = [spec.weight.detach().clone() for spec in map_of(network)]
    measure(network, x, labels, lr=0.5, recorder=recorder)
    end = [spec.weight.detach() for spec in map_of(network)]
    flush = recorder.flush()
    for layer, (w0, w1, w2) in enumerate(zip(start, middle, end, strict=True)):
        first = row(flush, 0, layer)
        second = row(flush, 1, layer)
        assert first["update_norm"] == pytest.approx(float((w1 - w0).norm()), rel=1e-12)
        assert second["update_ratio"] == pytest.approx(
            float((w2 - w1).norm() / w1.norm()), rel=1e-12
        )
        assert first["displacement"] == 0
        assert second["displacement"] == pytest.approx(
            float((w1 - w0).norm() / w0.norm()), rel=1e-12
        )


def test_clipping_changes_the_clipped_norm_only():
    network, x, labels = build()
    plain = measure(*build()).flush()
    clipped = measure(network, x, labels, clip=1e-3).flush()
    before = MEASURED.index("weight_grad_norm")
    after = MEASURED.index("weight_grad_norm_clipped")
    np.testing.assert_allclose(clipped.values[:, before], plain.values[:, before], rtol=1e-12)
    np.testing.assert_allclose(plain.values[:, after], plain.values[:, before], rtol=1e-12)
    assert np.sqrt((clipped.values[0, after] ** 2).sum()) <= 1e-3


@pytest.mark.parametrize("micro_batches", [2, 5])
def test_accumulation_measures_the_whole_batch(micro_batches):
    whole = measure(*build()).flush()
    parts = measure(*build(), micro_batches=micro_batches).flush()
    np.testing.assert_array_equal(whole.measured, parts.measured)
    np.testing.assert_allclose(
        parts.values[whole.measured], whole.values[whole.measured], rtol=1e-9, atol=1e-300
    )


def test_vanishing_gradients_are_numbers_in_float32():
    """Twelve sigmoid layers with N(0, 1e-4²): δ at layer 1 is of the order of 1e-41, a float32
    denormal, and not 0.
    """
    network, x, labels = build(
        activation="sigmoid", depth=12, initializer=Normal(1e-3, 0.0), dtype=torch.float32
    )
    flush = measure(network, x, labels).flush()
    delta = flush.values[0, MEASURED.index("backprop_norm")]
    double, *_ = build(activation="sigmoid", depth=12, initializer=Normal(1e-3, 0.0))
    expected = [layer["backprop_norm"] for layer in reference.columns(double, x.double(), labels)]
    assert delta[0] < 1e-32  # its square is not representable in float32
    np.testing.assert_allclose(delta, expected, rtol=1e-4)


def test_the_first_non_finite_forward_layer_is_named():
    network, x, labels = build(depth=5)
    recorder = measure(network, x, labels)
    with torch.no_grad():
        network.layers[2].weighted.weight[0, 0] = math.inf
    measure(network, x, labels, recorder=recorder)
    measure(network, x, labels, recorder=recorder)
    flush = recorder.flush()
    assert (flush.divergence.step, flush.divergence.kind, flush.divergence.layer) == (
        1,
        "forward",
        3,
    )
    assert flush.steps.tolist() == [0, 1]  # rows after the divergence are noise


def test_a_non_finite_gradient_with_finite_activations_is_named_from_the_top():
    network, x, labels = build(depth=5)
    recorder = recorder_of(network)
    logits = shown(recorder, network, x, False)
    loss = F.cross_entropy(logits, labels)
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(0.1)
    network.layers[1].weighted.weight.grad[0, 0] = math.nan
    network.layers[3].weighted.weight.grad[0, 0] = math.inf
    recorder.before_update(False)
    recorder.after_update(False)
    divergence = recorder.flush().divergence
    assert (divergence.step, divergence.kind, divergence.layer) == (0, "gradient", 4)


def test_unrecorded_steps_leave_no_rows():
    network, x, labels = build()
    recorder = measure(network, x, labels)
    recorder.after_forward(F.cross_entropy(shown(recorder, network, x, False), labels))
    recorder.before_update(False)
    recorder.after_update(False)
    assert recorder.flush().steps.tolist() == [0]
    measure(network, x, labels, recorder=recorder)
    assert recorder.flush().steps.tolist() == [2]


def test_measuring_does_not_change_the_training():
    network, x, labels = build()
    twin, *_ = build()
    measure(network, x, labels)
    F.cross_entropy(twin(x), labels).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_initial_weights_go_through_a_checkpoint():
    """Layers of two types of numbers and of several shapes."""
    network = convnet((1, 6, 6), 3, activations.tanh(), depth=4, channels=4)
    layers = map_of(network)
    network.layers[1].double()
    before = [spec.weights[0].detach().clone() for spec in layers]
    initial = Recorder(network, layers).initial
    assert {x.dtype for x in initial} == {torch.float32, torch.float64}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    later = Recorder(network, layers)
    later.restore_initial(initial)
    later.weights_only()
    entries = [weight.numel() ** 0.5 / weight.double().norm().item() for weight in before]
    np.testing.assert_allclose(
        later.flush().values[0, MEASURED.index("displacement")], entries, rtol=1e-6
    )


def test_initial_weights_of_another_network_are_none():
    network, *_ = build()
    recorder = Recorder(network, map_of(network), first_step=1)
    recorder.restore_initial([torch.zeros(3)])
    recorder.weights_only()
    flush = recorder.flush()
    assert not flush.measured[:, MEASURED.index("displacement")].any()
    assert flush.measured[:, MEASURED.index("weight_norm")].all()


def test_displacement_from_zero_does_not_exist():
    network, x, labels = build()
    with torch.no_grad():
        network.layers[1].weighted.weight.zero_()
    recorder = measure(network, x, labels)
    measure(network, x, labels, recorder=recorder)
    flush = recorder.flush()
    assert (
        flush.measured[:, MEASURED.index("displacement")].tolist()
        == [[True, False, True, True]] * 2
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_address_is_the_same_on_recorded_and_on_watched_steps(checkpointing):
    """An infinite weight below tanh: the loss stays finite, the gradient of layer 2 is 0 · inf,
    layer 3 was the first to go.
    """
    for recorded in (True, False):
        network, x, labels = build(depth=5)
        network.activation_checkpointing = checkpointing
        recorder = recorder_of(network)
        with torch.no_grad():
            network.layers[2].weighted.weight[0, 0] = math.inf
        loss = F.cross_entropy(shown(recorder, network, x, recorded), labels)
        assert math.isfinite(loss.item())
        recorder.after_forward(loss)
        loss.backward()
        recorder.after_backward(0.1)
        recorder.before_update(recorded)
        recorder.after_update(recorded)
        divergence = recorder.flush().divergence
        # 0 · inf in the layer below
        assert (divergence.kind, divergence.forward_layer, divergence.gradient_layer) == (
            "forward",
            3,
            2,
        )


@pytest.mark.parametrize("poison", [False, True])
def test_a_network_in_bfloat16(poison, up_to_the_gradients):
    """Its loss has no counterpart in numpy; recorded, watched, and lost on a watched step."""
    network, x, labels = build()
    network = network.bfloat16()
    x = x.bfloat16()
    recorder = recorder_of(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for recorded in (True, False):
        if poison and not recorded:
            with torch.no_grad():
                network.layers[1].weighted.weight[0, 0] = math.nan
        up_to_the_gradients(recorder, network, x, labels, recorded, replay(network, x))
        optimizer.step()
        recorder.after_update(recorded)
    flush = recorder.flush()
    expected = [spec.weights[0].grad.double().norm().item() for spec in map_of(network)]
    if poison:
        assert (flush.divergence.step, flush.divergence.kind, flush.divergence.layer) == (
            1,
            "forward",
            2,
        )
    else:
        np.testing.assert_allclose(
            flush.values[0, MEASURED.index("weight_grad_norm")], expected, rtol=1e-12
        )
        np.testing.assert_allclose(flush.gradient_norms, np.linalg.norm(expected), rtol=1e-12)


def replay(network, x):
    """For `Recorder.begin`; counts its calls."""

    def again():
        again.calls += 1
        with torch.no_grad():
            network(x)

    again.calls = 0
    return again


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_step_without_hooks_is_replayed_only_when_it_went_wrong(micro_batch):
    """The address is right whichever micro-batch went wrong."""
    network, x, labels = build(activation="relu", depth=5)
    with torch.no_grad():
        network.layers[0].weighted.weight[0, 0] = 1e300
    recorder = recorder_of(network)
    for step in range(2):
        parts = [x[:5].clone(), x[5:].clone()]
        if step == 1:
            parts[micro_batch] *= 1e200  # and h_1 of that micro-batch is infinite
        again = [replay(network, part) for part in parts]
        network.zero_grad()
        for part, once_more in zip(parts, again, strict=True):
            recorder.begin(False, 5, once_more)
            assert not any(module._forward_hooks for module in network.modules())
            loss = F.cross_entropy(1e-300 * network(part), labels[:5])
            recorder.after_forward(loss)
            loss.backward()
            recorder.after_backward(0.1)
        recorder.before_update(False)
        recorder.after_update(False)
        assert [one.calls for one in again] == [step, step]
    divergence = recorder.flush().divergence
    assert (divergence.step, divergence.kind, divergence.layer) == (1, "forward", 1)


def test_the_alarms_norm_of_gradients_below_float32s_squares():
    network, x, labels = build(depth=3)
    for recorded in (True, False):
        recorder = recorder_of(network)
        loss = F.cross_entropy(shown(recorder, network, x, recorded), labels)
        recorder.after_forward(loss)
        loss.backward()
        recorder.after_backward(0.1)
        for spec in map_of(network):
            spec.weights[0].grad.fill_(1e-30)
        recorder.before_update(recorded)
        recorder.after_update(recorded)
        entries = sum(spec.weight.numel() for spec in map_of(network))
        assert recorder.flush().gradient_norms[0] == pytest.approx(
            1e-30 * math.sqrt(entries), rel=1e-5
        )


def shared(network):
    network.layers[2].weighted.weight = network.layers[1].weighted.weight


def parametrized(network):
    parametrizations.weight_norm(network.layers[1].weighted)


def frozen(network):
    network.layers[1].weighted.weight.requires_grad_(False)


@pytest.mark.parametrize("change", [None, shared, parametrized, frozen])
@pytest.mark.parametrize("scale", [1.0, 1024.0, torch.tensor(1024.0)], ids=str)
def test_the_alarms_norm_is_that_of_all_weights_without_the_loss_scale(
    change, scale, up_to_the_gradients
):
    network, x, labels = build(dtype=torch.float32)
    if change is not None:
        change(network)
    recorder = recorder_of(network)
    for _ in range(2):
        up_to_the_gradients(recorder, network, x, labels, False, replay(network, x), scale)
        recorder.after_update(False)
    weights = {id(weight): weight for spec in map_of(network) for weight in spec.weights}
    gradients = [weight.grad.double() for weight in weights.values() if weight.grad is not None]
    expected = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients)) / float(
        scale
    )
    flush = recorder.flush()
    assert flush.divergence is None
    np.testing.assert_allclose(flush.gradient_norms, expected, rtol=1e-5)


def infinite(logits, labels):
    """With finite gradients."""
    return F.cross_entropy(logits, labels) + math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_loss_that_is_not_finite_by_itself_is_a_divergence(dtype, recorded, up_to_the_gradients):
    """The logits are finite too: it is the readout's, the last of four layers."""
    network, x, labels = build(dtype=dtype)
    recorder = recorder_of(network)
    up_to_the_gradients(
        recorder, network, x, labels, recorded, replay(network, x), criterion=infinite
    )
    recorder.after_update(recorded)
    divergence = recorder.flush().divergence
    assert (divergence.kind, divergence.layer, divergence.gradient_layer) == ("forward", 4, None)

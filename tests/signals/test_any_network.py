"""Networks of strangers, measured, against float64 references that are written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from by_hand import BY_HAND, Account
from isometry.columns import MEASURED
from isometry.signals.recorder import Recorder
from zoo import ZOO, build


def measured(network, inputs, labels, steps=1):
    """Row by layer of a recorded step."""
    recorder = Recorder(network, flush_every=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        recorder.begin(True, len(labels))
        loss = F.cross_entropy(network(*inputs), labels)
        recorder.after_forward(loss)
        loss.backward()
        recorder.after_backward(1 / len(labels))
        recorder.before_update(True)
        optimizer.step()
        recorder.after_update(True)
    flush = recorder.flush()
    rows = {}
    for k, spec in enumerate(recorder.layers):
        name = "head" if spec.name == "wte" and spec.map == "linear" else spec.name
        rows[name] = {
            column: flush.values[-1, i, k]
            for i, column in enumerate(MEASURED)
            if flush.measured[-1, i, k]
        }
    return rows, recorder


def expected(name, network, inputs, labels):
    """The same, from the definitions."""
    network.zero_grad()
    of = Account()
    logits = BY_HAND[name](network, of, *inputs)
    F.cross_entropy(logits, labels).backward()
    return {layer: columns(uses, of.phi[layer], len(labels)) for layer, uses in of.uses.items()}


def columns(uses, phi, batch):
    _, hs, zs, activations = zip(*uses, strict=True)
    h, z, a = (torch.cat([t.detach().flatten() for t in part]) for part in (hs, zs, activations))
    delta = sum((use.grad * batch).square().sum() for use in hs)
    row = {
        "preactivation_mean": h.mean(),
        "preactivation_var": h.var(correction=0),
        "forward_second_moment": h.square().mean(),
        "activation_mean": a.mean(),
        "activation_var": a.var(correction=0),
        "backprop_norm": (delta / batch).sqrt(),
    }
    if phi is not None:
        grid = torch.linspace(-40, 40, 160_001, dtype=torch.float64)
        row["saturation"] = (slope(phi, z) < 0.05 * slope(phi, grid).max()).double().mean()
    return row


def slope(phi, z):
    z = z.clone().requires_grad_(True)
    return torch.autograd.grad(phi(z).sum(), z)[0].abs()


@pytest.mark.parametrize("name", BY_HAND)
def test_every_column_is_the_one_by_hand(name):
    network, inputs, labels = build(name)
    wanted = expected(name, network, inputs, labels)
    grads = {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    rows, recorder = measured(network, inputs, labels)
    assert rows.keys() == wanted.keys()
    for layer, row in rows.items():
        for column, value in wanted[layer].items():
            if column == "saturation" and column not in row:
                continue
            close = pytest.approx(value.item(), rel=1e-9, abs=1e-12)
            assert row[column] == close, (layer, column)
    names = {id(p): key for key, p in network.named_parameters()}
    for row, spec in zip(rows.values(), recorder.layers, strict=True):
        keys = [names[id(weight)] for weight in spec.weights]
        gradient = math.hypot(*(grads[key].norm().item() for key in keys))
        weight = math.hypot(*(before[key].norm().item() for key in keys))
        assert row["weight_grad_norm"] == pytest.approx(gradient, rel=1e-9)
        assert row["weight_norm"] == pytest.approx(weight, rel=1e-12)
        assert row["update_norm"] == pytest.approx(0.1 * gradient, rel=1e-9)
        assert row.get("displacement", 0.0) == 0.0
        assert ("displacement" in row) is (weight > 0)  # torchvision's ViT begins with a zero head


@pytest.mark.parametrize("name", ["siamese", "encoder", "gpt"])
def test_a_gradient_of_one_example_only_where_it_is_one_outer_product(name):
    network, inputs, labels = build(name)
    squares = []
    for k in range(len(labels)) if name != "gpt" else ():
        network.zero_grad()
        single = [x[k : k + 1] for x in inputs]
        F.cross_entropy(network(*single), labels[k : k + 1]).backward()
        squares.append(network.readout.weight.grad.square().sum().item())
    rows, _ = measured(network, inputs, labels)
    # of layers on examples alone, used once, untied
    has = {layer for layer, row in rows.items() if "sample_weight_grad_rms" in row}
    assert has == {"siamese": {"readout"}, "encoder": {"readout"}, "gpt": set()}[name]
    if squares:
        found = rows["readout"]["sample_weight_grad_rms"]
        assert found == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-9)


@pytest.mark.parametrize("name", ZOO)
def test_what_is_null_has_its_reason(name):
    rows, recorder = measured(*build(name))
    for row, spec in zip(rows.values(), recorder.layers, strict=True):
        # a weight that begins at zero has no displacement and no relative update
        of_zero = set() if row["weight_norm"] > 0 else {"displacement", "update_ratio"}
        assert set(MEASURED) - row.keys() - of_zero == set(spec.why), spec.name


@pytest.mark.parametrize("name", ZOO)
def test_training_is_bit_identical_with_and_without(name):
    weights = []
    for watched in (True, False):
        network, inputs, labels = build(name)
        network.float()
        inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
        if watched:
            measured(network, inputs, labels, steps=2)
        else:
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(network(*inputs), labels).backward()
                optimizer.step()
        weights.append({key: value.clone() for key, value in network.state_dict().items()})
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("name", ZOO)
def test_nothing_stays_attached(name):
    network, inputs, labels = build(name)
    measured(network, inputs, labels)
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Checkpointed(torch.nn.Module):
    """Two blocks whose inside is computed twice: again in the backward pass."""

    def __init__(self, reentrant=None):
        super().__init__()
        blocks = [
            [torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6), torch.nn.GELU()]
            for _ in range(2)
        ]
        self.blocks = torch.nn.ModuleList(torch.nn.Sequential(*block) for block in blocks)
        self.readout = torch.nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x):
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.readout(x)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_measure_as_if_they_were_not(reentrant):
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.arange(5) % 3
    rows = []
    for how in (None, reentrant):
        torch.manual_seed(0)
        rows.append(measured(Checkpointed(how), (x,), labels)[0])
    plain, again = rows
    assert plain["blocks.0.0"].keys() >= {"backprop_norm", "preactivation_var", "saturation"}
    assert plain == again

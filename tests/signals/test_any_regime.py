"""Networks of strangers in the regimes in which people train them; a mechanism is taken out, to see
that a number shows it.
"""

from __future__ import annotations

import logging

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import isometry
from isometry.config.messages import options
from isometry.signals import observer as module
from isometry.signals.observer import Observer
from isometry.training.run import train as train_run

pytestmark = pytest.mark.filterwarnings("ignore:.*`srun` command", "ignore:.*many workers")


class Net(nn.Module):
    """Two layers and a detour that is not always taken; logits come in a dictionary."""

    def __init__(self, how="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.detour = nn.Linear(8, 8)
        self.readout = nn.Linear(8, 3)
        self.how = how
        self.detours = True

    def hidden(self, x):
        h = torch.tanh(self.first(x))
        return torch.tanh(self.detour(h)) if self.detours else h

    def forward(self, x):
        if self.how == "plain":
            h = self.hidden(x)
        else:
            h = checkpoint(self.hidden, x, use_reentrant=self.how == "reentrant")
        return {"logits": self.readout(h), "hidden": h}


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=generator).to(dtype), torch.arange(8) % 3


def train(net, before=lambda step: None, steps=1, **options):
    x, y = batch(next(net.parameters()).dtype)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    with isometry.watch(net, every_n_steps=1, **options) as signals:
        for step in range(steps):
            before(step)
            optimizer.zero_grad()
            F.cross_entropy(net(x.requires_grad_())["logits"], y).backward()
            optimizer.step()
    return signals.frame()


def by_autograd(net):
    """δ and the weight gradients of step 0, from plain autograd."""
    x, y = batch()
    h = []
    handles = [
        layer.register_forward_hook(lambda m, args, out: (out.retain_grad(), h.append(out))[0])
        for layer in (net.first, net.detour, net.readout)
    ]
    F.cross_entropy(net(x)["logits"], y, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    net.zero_grad()
    return [out.grad.square().sum().div(len(x)).sqrt().item() for out in h]


@pytest.mark.parametrize("how", ["plain", "not reentrant", "reentrant"])
def test_delta_is_autograds(how):
    expected = by_autograd(Net().double())
    first = train(Net(how).double()).query("step == 0")
    np.testing.assert_allclose(first["backprop_norm"], expected, rtol=1e-12)
    assert first["preactivation_var"].notna().all()


def test_a_layer_that_is_not_called_is_null_in_that_step():
    net = Net().double()
    frame = train(net, lambda step: setattr(net, "detours", step != 1), steps=3)
    detour = frame[frame["name"] == "detour"].set_index("step")
    for column in ("backprop_norm", "preactivation_var", "weight_grad_norm", "saturation"):
        assert detour.loc[[0, 1, 2], column].isna().tolist() == [False, True, False], column
    others = frame[(frame["name"] != "detour") & (frame["step"] < 3)]
    assert others["backprop_norm"].notna().all()


def test_a_frozen_layer_shows_what_passes_through_it():
    net = Net().double()
    expected = by_autograd(net)
    net.detour.requires_grad_(False)
    first = train(net).query("step == 0")
    np.testing.assert_allclose(first["backprop_norm"], expected, rtol=1e-12)
    row = first[first["name"] == "detour"].iloc[0]
    assert np.isnan(row["weight_grad_norm"])
    assert row["update_norm"] == 0.0


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0])["logits"], batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(lit, every=2):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    x, y = batch(torch.float32)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)
    signals = isometry.Signals(every_n_steps=every)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_epochs": 1}
    lightning.Trainer(callbacks=[signals], **quiet).fit(lit, data)
    return signals.frame()


def compiled(how):
    lit = Lit()
    if how == "the network":
        lit.net = torch.compile(lit.net, backend="eager")
    elif how == "in place":
        lit.net.compile(backend="eager")
    else:
        return torch.compile(lit, backend="eager")
    return lit


WAYS = ["the network", "in place", "the LightningModule"]


@pytest.mark.parametrize("how", WAYS)
def test_three_ways_to_compile_measure_as_none(how):
    torch._dynamo.reset()
    expected = fit(Lit())
    found = fit(compiled(how))
    assert found["backprop_norm"].notna().sum() == expected["backprop_norm"].notna().sum() > 0
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_without_running_eagerly_torch_compiles_the_measuring_itself(monkeypatch):
    """And refuses: the layers of a compiled network cannot be looked for inside of its graph."""
    torch._dynamo.reset()
    monkeypatch.setattr(module, "is_compiled", lambda part: False)
    with pytest.raises(AssertionError, match="set_stance"):
        fit(compiled("in place"))


@pytest.mark.parametrize("how", ["not reentrant", "reentrant"])
def test_without_knowing_the_backward_pass_a_layer_counts_twice(how, monkeypatch):
    column = "sample_weight_grad_rms"
    assert train(Net(how).double()).query("step == 0")[column].notna().all()
    monkeypatch.setattr(Observer, "backward_begins", lambda self: None)
    found = train(Net(how).double()).query("step == 0")[column]
    assert found.isna().tolist() == [True, True, False]  # of several uses there is none


@pytest.mark.parametrize("name", options("activation"))
def test_checkpointed_layers_of_every_activation_train(make_config, name):
    """Where φ saturates is asked for inside of a checkpointed layer the first time (sine), or φ is
    learned (PReLU); torch counts the tensors that are kept there.
    """
    if name == "own":
        return
    small = ["model.depth=3", "trainer.limit_val_batches=1", f"activation={name}"]
    rows = []
    for on in (False, True):
        summary = train_run(make_config(*small, f"activation_checkpointing={on}"))
        rows.append((summary["gradient_rate_init"], summary["train_loss"]))
    assert rows[0] == rows[1]

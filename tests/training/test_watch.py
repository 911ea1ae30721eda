"""`isometry.watch` in plain torch loops, against Lightning's callback and autograd."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import isometry
from isometry.errors import UserError


def network(dropout=0.1):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 8), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def batches(count=6, size=4):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 6, generator=generator),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def train(model, data=None, clip=None, after=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step, (x, y) in enumerate(batches() if data is None else data):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if after is not None:
            after(step)
    return model.state_dict()


@pytest.mark.parametrize("every", [1, 3])
def test_a_loop_needs_no_line_of_its_own(tmp_path, every):
    plain = train(network())
    model = network()
    with isometry.watch(model, tmp_path, every_n_steps=every) as signals:
        watched = train(model)
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    frame = signals.frame()
    assert frame["step"].unique().tolist() == [*range(0, 6, every), 6]
    assert list(frame["name"][:3]) == ["0", "3", "5"]
    read = pd.read_parquet(tmp_path / "signals.parquet").sort_values(["step", "layer"])
    pd.testing.assert_frame_equal(read.reset_index(drop=True), frame)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def reference(model, x, y, clip):
    """Of one step, by autograd alone."""
    h = []
    handles = [
        layer.register_forward_hook(lambda module, args, out: (out.retain_grad(), h.append(out))[0])
        for layer in model
        if isinstance(layer, nn.Linear)
    ]
    F.cross_entropy(model(x), y).backward()
    for handle in handles:
        handle.remove()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    whole = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    gradient = np.array([layer.weight.grad.norm().item() for layer in linear])
    return {
        "backprop_norm": [out.grad.norm().item() * math.sqrt(len(x)) for out in h],
        "weight_grad_norm": gradient,
        "weight_grad_norm_clipped": gradient * min(1.0, clip / (whole + 1e-6)),  # torch's
        "bias_grad_norm": [layer.bias.grad.norm().item() for layer in linear],
        "preactivation_var": [out.var(correction=0).item() for out in h],
    }


def test_gradients_before_and_after_clipping_are_autograds():
    model = network(dropout=0.0).double()
    x, y = batches()[0]
    expected = reference(model, x.double(), y, clip=0.1)
    model.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    with isometry.watch(model, every_n_steps=1) as signals:
        train(model, data=[(x.double(), y)], clip=0.1)
    frame = signals.frame()
    first = frame[frame.step == 0]
    for column, values in expected.items():
        np.testing.assert_allclose(first[column], values, rtol=1e-12)
    moved = [(a - b).norm().item() for a, b in zip(model.parameters(), before, strict=True)][::2]
    np.testing.assert_allclose(first["update_norm"], moved, rtol=1e-12)


def test_accumulated_micro_batches_are_one_batch():
    rows = []
    x, y = batches(1, 8)[0]
    for parts in (1, 2):
        model = network(dropout=0.0).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with isometry.watch(model, every_n_steps=1, accumulate=parts) as signals:
            for inputs, labels in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(model(inputs), labels) / parts).backward()
            signals.step()
            optimizer.step()
        rows.append(signals.frame())
    pd.testing.assert_frame_equal(*rows, rtol=1e-12)


def test_two_calls_for_one_loss_are_two_uses():
    class Both(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, y):
            return self.inner(x) + self.inner(y)

    rows = []
    x, y = batches(1, 8)[0]
    for together in (True, False):
        model = network(dropout=0.0).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with isometry.watch(Both(model) if together else model, every_n_steps=1) as signals:
            a, b = x.double(), x.double().flip(0)
            out = signals.model(a, b) if together else model(a) + model(b)
            F.cross_entropy(out, y).backward()
            optimizer.step()
        rows.append(signals.frame().drop(columns="name"))
    pd.testing.assert_frame_equal(*rows, rtol=1e-12)


def test_evaluation_between_steps_changes_nothing():
    model = network()
    with isometry.watch(model, every_n_steps=1) as signals:
        train(model)
    alone = signals.frame()

    model = network()

    def evaluate(step):
        with torch.no_grad(), torch.random.fork_rng():
            model(torch.randn(3, 6))

    with isometry.watch(model, every_n_steps=1) as signals:
        train(model, after=evaluate)
    pd.testing.assert_frame_equal(signals.frame(), alone)


def test_what_went_wrong_is_told_with_step_and_layer():
    model = network()
    data = batches()
    data[3] = (data[3][0] * math.inf, data[3][1])
    with (
        pytest.warns(UserWarning, match="preactivation of layer 1 is not finite at step 3"),
        isometry.watch(model, every_n_steps=10) as signals,
    ):
        train(model, data=data)
    assert signals.divergence.step == 3
    assert signals.divergence.forward_layer == 1
    assert signals.frame()["step"].unique().tolist() == [0]


def test_mixed_precision_with_a_scaler_that_skips():
    """δ and gradients without the scale; a step that the scaler leaves out is none."""

    class Scaler:
        """torch.amp.GradScaler is for accelerators: the same calls, and one step left out."""

        def is_enabled(self):
            return True

        def _get_scale_async(self):
            return torch.tensor(1024.0)

    rows = []
    for scaler in (None, Scaler()):
        model = network(dropout=0.0).double()
        factor = 1.0 if scaler is None else 1024.0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with isometry.watch(model, every_n_steps=1, scaler=scaler) as signals:
            for step, (x, y) in enumerate(batches(3)):
                optimizer.zero_grad()
                (factor * F.cross_entropy(model(x.double()), y)).backward()
                for p in model.parameters():
                    p.grad /= factor
                if step != 1 or scaler is None:
                    optimizer.step()
            rows.append(signals.frame())
    plain, scaled = rows
    assert scaled["step"].unique().tolist() == [0, 1]  # of three
    first = plain[plain.step == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, scaled[scaled.step == 0].reset_index(drop=True), rtol=1e-9)


def two_passes(model, optimizer, signals):
    for x, y in batches(2):
        F.cross_entropy(model(x), y).backward()


def two_optimizers(model, optimizer, signals):
    other = torch.optim.SGD(model[0].parameters(), lr=0.1)
    for each in (optimizer, other):
        x, y = batches(1)[0]
        F.cross_entropy(model(x), y).backward()
        each.step()


def no_batch(model, optimizer, signals):
    model(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (two_passes, "2 backward passes before a step of the optimizer; accumulate=N"),
        (two_optimizers, "several optimizers"),
        (no_batch, r"no dimension 0 \(batch_dim\)"),
    ],
)
def test_what_is_no_step_is_refused_by_name(loop, words):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=words), isometry.watch(model) as signals:
        loop(model, optimizer, signals)


def test_options_folders_and_scripts_are_checked(tmp_path):
    model = network()
    with pytest.raises(UserError, match="every=3: allowed are every_n_steps"):
        isometry.watch(model, every=3)
    with isometry.watch(model, tmp_path):
        train(model)
    with pytest.raises(UserError, match=r"signals\.parquet holds the rows of another training"):
        isometry.watch(model, tmp_path)
    with pytest.warns(FutureWarning, match="is deprecated"):
        scripted = torch.jit.script(nn.Linear(3, 3))
    with pytest.raises(UserError, match="is a ScriptModule"):
        isometry.watch(nn.Sequential(scripted))


def test_a_block_without_an_optimizer_says_so():
    with pytest.warns(UserWarning, match="no optimizer of torch's"), isometry.watch(network()):
        pass


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_network_measures_as_the_plain_one(how):
    plain = network(dropout=0.0)
    with isometry.watch(plain, every_n_steps=3) as signals:
        train(plain)
    expected = signals.frame()
    model = network(dropout=0.0)
    called = torch.compile(model, backend="eager") if how == "wrapped" else model
    if how == "in place":
        model.compile(backend="eager")
    torch._dynamo.utils.counters.clear()
    with isometry.watch(called, every_n_steps=3) as signals:
        train(called)
    pd.testing.assert_frame_equal(signals.frame(), expected, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


TRAIN = """
import os, sys, torch
from torch import distributed, nn
from torch.nn import functional as F
import isometry
from isometry.errors import UserError

rank, world, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
if world > 1:
    store = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
called = nn.parallel.DistributedDataParallel(model) if world > 1 else model
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
generator = torch.Generator().manual_seed(1)
x = torch.randn(3, 8, 6, generator=generator, dtype=torch.float64)
y = torch.randint(0, 3, (3, 8), generator=generator)
with isometry.watch(called, every_n_steps=1) as signals:
    for step in range(3):
        optimizer.zero_grad()
        inputs, labels = x[step].chunk(world)[rank], y[step].chunk(world)[rank]
        loss = F.cross_entropy(called(inputs), labels)
        loss.backward()
        signals.step(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
if rank == 0:
    signals.frame().to_parquet(folder + f"/{world}.parquet")
try:
    with isometry.watch(called) as signals:
        F.cross_entropy(called(inputs), labels).backward()
        optimizer.step()
except UserError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    outputs = []
    for world in (1, 2):
        port = "29613"
        running = [
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, str(rank), str(world), port, str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        outputs.append([process.communicate(timeout=120)[0] for process in running])
    one, two = (pd.read_parquet(Path(tmp_path) / f"{world}.parquet") for world in (1, 2))
    pd.testing.assert_frame_equal(one, two, rtol=1e-9)
    assert outputs[0] == [""]  # one process needs no call
    assert all("call signals.step(loss) between" in printed for printed in outputs[1])


def test_what_is_no_network_is_not_watched():
    with pytest.raises(UserError, match=r"isometry\.watch: int is no torch module"):
        isometry.watch(3)


def test_nothing_is_drawn_of_nothing():
    with pytest.raises(UserError, match="plot: nothing is recorded yet"):
        isometry.Signals().plot()

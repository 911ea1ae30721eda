"""Recurrent layers gate by gate and step by step, against equations that are written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import isometry
from isometry.layers.recurrent import unrolled, why_hidden

BATCH, TIME, INPUT, WIDTH = 5, 4, 3, 6


class Net(nn.Module):
    """A recurrent layer, read at its outputs and its last state; another layer below it."""

    def __init__(self, recurrent, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.below = nn.Linear(INPUT, INPUT)
        self.recurrent = recurrent(INPUT, WIDTH, **settings)
        both = 1 + settings.get("bidirectional", False)
        self.readout = nn.Linear(2 * both * WIDTH, 3)

    def forward(self, x):
        out, last = self.recurrent(self.below(x))
        h = last[0] if isinstance(last, tuple) else last
        end = h[-1] if not self.recurrent.bidirectional else torch.cat([h[-2], h[-1]], -1)
        middle = out[1] if not self.recurrent.batch_first else out[:, 1]
        return self.readout(torch.cat([middle, end], -1))


class Cells(nn.Module):
    """A cell in a loop; all states are read."""

    def __init__(self, cell):
        super().__init__()
        torch.manual_seed(0)
        self.cell = cell(INPUT, WIDTH)
        self.readout = nn.Linear(WIDTH, 3)

    def forward(self, x):
        state = None
        total = 0.0
        for now in x:
            state = self.cell(now, state)
            total = total + (state[0] if isinstance(state, tuple) else state)
        return self.readout(total)


def lstm(cell, x, h, c, note):
    """Gers et al. 2000; torch's order of the gates."""
    z = x @ cell["weight_ih"].T + cell["bias_ih"] + h @ cell["weight_hh"].T + cell["bias_hh"]
    i, f, g, o = (note(name, part) for name, part in zip("ifgo", z.split(WIDTH, -1), strict=True))
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(cell, x, h, c, note):
    """Cho et al. 2014; the reset gate behind the recurrent map."""
    of_x = (x @ cell["weight_ih"].T + cell["bias_ih"]).split(WIDTH, -1)
    of_h = (h @ cell["weight_hh"].T + cell["bias_hh"]).split(WIDTH, -1)
    r = torch.sigmoid(note("r", of_x[0] + of_h[0]))
    z = torch.sigmoid(note("z", of_x[1] + of_h[1]))
    n = torch.tanh(note("n", of_x[2] + r * of_h[2]))
    return n + z * (h - n), c


def plain(cell, x, h, c, note):
    z = x @ cell["weight_ih"].T + cell["bias_ih"] + h @ cell["weight_hh"].T + cell["bias_hh"]
    return torch.tanh(note("h", z)), c


CASES = {
    "lstm": (nn.LSTM, nn.LSTMCell, lstm),
    "gru": (nn.GRU, nn.GRUCell, gru),
    "rnn": (nn.RNN, nn.RNNCell, plain),
}


def noted(found, prefix, time):
    def note(name, z):
        z.retain_grad()
        found.setdefault(prefix + name, {})[time] = z
        return z

    return note


def by_hand(net, step, x):
    """Logits, and the gates' preactivations by name and time."""
    module = net.recurrent
    both = (False, True) if module.bidirectional else (False,)
    single = module.num_layers * len(both) == 1
    found = {}
    sequence = net.below(x)
    for level in range(module.num_layers):
        ends = []
        lasts = []
        for backwards in both:
            suffix = f"_l{level}" + ("_reverse" if backwards else "")
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            cell = {name: getattr(module, name + suffix) for name in names}
            h = c = torch.zeros(BATCH, WIDTH, dtype=torch.float64)
            out = [None] * TIME
            for time in reversed(range(TIME)) if backwards else range(TIME):
                # DESIGN's `time` counts the layer's own steps
                own = TIME - 1 - time if backwards else time
                note = noted(found, "" if single else suffix[1:] + ".", own)
                h, c = step(cell, sequence[time], h, c, note)
                out[time] = h
            ends.append(torch.stack(out))
            lasts.append(h)
        sequence = torch.cat(ends, -1)
    return net.readout(torch.cat([sequence[1], *lasts], -1)), found


def measured(net, x, labels):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with isometry.watch(net, every_n_steps=1, batch_dim=x.shape.index(BATCH)) as signals:
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    frame = signals.frame_over_time()
    return signals.frame().query("step == 0"), frame[frame["step"] == 0]


def check(frame, found):
    assert set(frame["gate"]) == set(found)
    for gate, times in found.items():
        rows = frame[frame["gate"] == gate].sort_values("time")
        assert rows["time"].tolist() == sorted(times)
        for column, values in {
            "preactivation_mean": [times[t].mean().item() for t in sorted(times)],
            "forward_second_moment": [times[t].square().mean().item() for t in sorted(times)],
            "backprop_norm": [
                (BATCH * times[t].grad).square().sum().div(BATCH).sqrt().item()
                for t in sorted(times)
            ],
        }.items():
            np.testing.assert_allclose(rows[column], values, rtol=1e-9, atol=1e-15)


def whole(row, found):
    """The layer's one row is over all gates and times."""
    zs = [z for times in found.values() for z in times.values()]
    h = torch.cat([z.detach().flatten() for z in zs])
    assert row["preactivation_mean"] == pytest.approx(h.mean().item(), rel=1e-9)
    assert row["preactivation_var"] == pytest.approx(h.var(correction=0).item(), rel=1e-9)
    delta = sum((BATCH * z.grad).square().sum().item() for z in zs)
    assert row["backprop_norm"] == pytest.approx((delta / BATCH) ** 0.5, rel=1e-9)
    assert 0 <= row["saturation"] <= 1
    assert row["activation_var"] > 0


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_gate_of_a_fused_layer_at_every_time(name, settings):
    module, _, step = CASES[name]
    net = Net(module, **settings).double()
    x = torch.randn(TIME, BATCH, INPUT, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.arange(BATCH) % 3
    logits, found = by_hand(net, step, x)
    torch.testing.assert_close(logits, net(x), rtol=1e-12, atol=1e-12)
    F.cross_entropy(logits, labels).backward()
    net.zero_grad()
    rows, over_time = measured(net, x, labels)
    check(over_time, found)
    whole(rows[rows["name"] == "recurrent"].iloc[0], found)
    assert rows["backprop_norm"].notna().all()


@pytest.mark.parametrize("name", CASES)
def test_every_gate_of_a_cell_in_a_loop(name):
    _, cell, step = CASES[name]
    net = Cells(cell).double()
    x = torch.randn(TIME, BATCH, INPUT, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.arange(BATCH) % 3
    found = {}
    h = c = torch.zeros(BATCH, WIDTH, dtype=torch.float64)
    total = 0.0
    for time in range(TIME):
        h, c = step(dict(net.cell.named_parameters()), x[time], h, c, noted(found, "", time))
        total = total + h
    F.cross_entropy(net.readout(total), labels).backward()
    net.zero_grad()
    rows, over_time = measured(net, x, labels)
    check(over_time, found)
    whole(rows[rows["name"] == "cell"].iloc[0], found)


def test_batch_first_and_a_given_state():
    torch.manual_seed(0)
    module = nn.LSTM(INPUT, WIDTH, batch_first=True).double()
    x = torch.randn(BATCH, TIME, INPUT, dtype=torch.float64)
    state = tuple(torch.randn(1, BATCH, WIDTH, dtype=torch.float64) for _ in range(2))
    _, results = unrolled(module, x, state)
    out, (h, c) = module(x, state)
    for found, expected in zip(results, (out, h, c), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_accumulation_is_one_batch():
    frames = []
    for parts in (1, 5):
        net = Cells(nn.GRUCell).double()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(TIME, BATCH, INPUT, generator=generator).double()
        labels = torch.arange(BATCH) % 3
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        options = {"every_n_steps": 1, "batch_dim": 1, "accumulate": parts}
        with isometry.watch(net, **options) as signals:
            for part, own in zip(x.chunk(parts, 1), labels.chunk(parts), strict=True):
                (F.cross_entropy(net(part), own) / parts).backward()
            optimizer.step()
        frames.append(signals.frame_over_time().drop(columns="name"))
    one, several = (frame.to_numpy(dtype=float, na_value=np.nan) for frame in map(numeric, frames))
    np.testing.assert_allclose(several, one, rtol=1e-9)


def numeric(frame):
    return frame.drop(columns="gate")


@pytest.mark.parametrize(
    ("module", "given", "words"),
    [
        (nn.LSTM(3, 4, proj_size=2), torch.ones(2, 2, 3), "projections"),
        (nn.GRU(3, 4, 2, dropout=0.1), torch.ones(2, 2, 3), "dropout between its levels"),
        (nn.GRU(3, 4), torch.ones(2, 3), "without a batch dimension"),
        (nn.GRU(3, 4), nn.utils.rnn.pack_sequence([torch.ones(2, 3)]), "packed sequences"),
        (None, None, "called as a function"),
    ],
)
def test_why_there_are_no_gates(module, given, words):
    assert words in why_hidden(module, given)


def test_what_has_no_gates_is_null_and_the_rest_is_there():
    torch.manual_seed(0)

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4)
            self.readout = nn.Linear(4, 3)

        def forward(self, x):
            packed = nn.utils.rnn.pack_sequence([row[: k + 1] for k, row in enumerate(x)], False)
            return self.readout(self.lstm(packed)[1][0][-1])

    net = Packed()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with isometry.watch(net, every_n_steps=1) as signals:
        F.cross_entropy(net(torch.randn(3, 4, 3)), torch.arange(3)).backward()
        optimizer.step()
    first = signals.frame().query("step == 0").iloc[0]
    assert first["weight_grad_norm"] > 0
    assert first[["backprop_norm", "preactivation_var", "saturation"]].isna().all()
    assert signals.frame_over_time().empty

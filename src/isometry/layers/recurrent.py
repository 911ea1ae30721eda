"""What a recurrent kernel computes: its gates, step by step, in operations that autograd sees.

LSTM: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; GRU: Cho et al. 2014
in torch's variant, where the reset gate acts behind the recurrent map.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from isometry import activations
from isometry.activations import Activation

State = tuple[Tensor, ...]
"""h, and c of an LSTM; [B, H] each."""

SIGMOID = activations.sigmoid()
TANH = activations.tanh()
RELU = activations.relu()


@dataclass
class Gate:
    """A gate of one level and direction.

    Attributes:
        name: `i`, `f`, `g`, `o` of an LSTM, `r`, `z`, `n` of a GRU, `h` of a plain network; behind
            the level and direction where there are several, `l1_reverse.f`.
        activation: its φ.
        z: its preactivation at each time, [B, H].
    """

    name: str
    activation: Activation
    z: list[Tensor] = field(default_factory=list)


def why_hidden(module: nn.Module | None, given: object = None) -> str | None:
    """Why the gates of a recurrent layer cannot be had; None where they can.

    Args:
        module: whose forward pass calls the kernel.
        given: its input, where there is one.
    """
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "a recurrent kernel that is called as a function shows no gates"
    if isinstance(given, PackedSequence):
        return "packed sequences: not every example has every time step"
    if getattr(module, "proj_size", 0):
        return "an LSTM with projections is not unrolled"
    if isinstance(module, nn.RNNBase) and module.num_layers > 1 and module.dropout > 0:
        return "dropout between its levels: its random numbers are the kernel's own"
    batched = 3 if isinstance(module, nn.RNNBase) else 2
    if isinstance(given, Tensor) and given.dim() != batched:
        return "an input without a batch dimension"
    return None


def unrolled(
    module: nn.RNNBase | nn.RNNCellBase, x: Tensor, state: State | None
) -> tuple[list[Gate], list[Tensor]]:
    """Gates, and what the module returns, with their graph.

    Args:
        module: `nn.LSTM`, `nn.GRU`, `nn.RNN` or one of their cells.
        x: its input.
        state: as it was given, None for zeros.
    """
    if isinstance(module, nn.RNNCellBase):
        gates = _gates(module, "")
        return gates, list(_step(module, "", gates)(x, state or _zeros(module, x)))
    sequence = _time_first(module, x)
    first = state or tuple(
        torch.stack([zero] * _runs(module)) for zero in _zeros(module, sequence[0])
    )
    every: list[Gate] = []
    last: list[State] = []
    for level in range(module.num_layers):
        ends = []
        for suffix in ["", "_reverse"][: 1 + module.bidirectional]:
            name = f"_l{level}{suffix}"
            gates = _gates(module, "" if _runs(module) == 1 else f"{name[1:]}.")
            start = tuple(each[len(last)] for each in first)
            ends.append(_run(_step(module, name, gates), sequence, start, bool(suffix), last))
            every += gates
        sequence = torch.cat(ends, -1)
    output = sequence.transpose(0, 1) if module.batch_first else sequence
    return every, [output, *(torch.stack(parts) for parts in zip(*last, strict=True))]


def _run(
    step: Callable[[Tensor, State], State],
    sequence: Tensor,
    state: State,
    backwards: bool,
    last: list[State],
) -> Tensor:
    """h at every time, [T, B, H]; the last state is appended to `last`."""
    found = []
    for x in reversed(sequence) if backwards else sequence:
        state = step(x, state)
        found.append(state[0])
    last.append(state)
    return torch.stack(found[::-1] if backwards else found)


def _time_first(module: nn.RNNBase, x: Tensor) -> Tensor:
    return x.transpose(0, 1) if module.batch_first else x


def _runs(module: nn.RNNBase) -> int:
    return int(module.num_layers * (1 + module.bidirectional))


def _zeros(module: nn.Module, x: Tensor) -> State:
    zero = x.new_zeros(len(x), int(module.hidden_size))  # type: ignore[arg-type]
    return (zero, zero) if isinstance(module, nn.LSTM | nn.LSTMCell) else (zero,)


def _gates(module: nn.Module, prefix: str) -> list[Gate]:
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        kinds = {"i": SIGMOID, "f": SIGMOID, "g": TANH, "o": SIGMOID}
    elif isinstance(module, nn.GRU | nn.GRUCell):
        kinds = {"r": SIGMOID, "z": SIGMOID, "n": TANH}
    else:
        kinds = {"h": RELU if module.nonlinearity == "relu" else TANH}
    return [Gate(prefix + name, phi) for name, phi in kinds.items()]


def _step(
    module: nn.Module, suffix: str, gates: Sequence[Gate]
) -> Callable[[Tensor, State], State]:
    """One step of a level; notes the gates' preactivations."""
    names = [f"{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    w_x, w_h, b_x, b_h = (getattr(module, name, None) for name in names)
    assert w_x is not None
    assert w_h is not None
    of_x = functools.partial(nn.functional.linear, weight=w_x, bias=b_x)
    of_h = functools.partial(nn.functional.linear, weight=w_h, bias=b_h)
    cell = {4: _lstm, 3: _gru, 1: _plain}[len(gates)]
    return lambda x, state: cell(of_x(x), of_h(state[0]), state, gates)


def _lstm(x: Tensor, h: Tensor, state: State, gates: Sequence[Gate]) -> State:
    zs = (x + h).chunk(4, -1)
    i, f, g, o = _open(gates, zs)
    c = f * state[1] + i * g
    return o * torch.tanh(c), c


def _gru(x: Tensor, h: Tensor, state: State, gates: Sequence[Gate]) -> State:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
    r, z = _open(gates[:2], (x_r + h_r, x_z + h_z))
    (n,) = _open(gates[2:], (x_n + r * h_n,))
    return ((1 - z) * n + z * state[0],)


def _plain(x: Tensor, h: Tensor, state: State, gates: Sequence[Gate]) -> State:
    return tuple(_open(gates, (x + h,)))


def _open(gates: Sequence[Gate], zs: Sequence[Tensor]) -> list[Tensor]:
    for gate, z in zip(gates, zs, strict=True):
        gate.z.append(z)
    functions = {SIGMOID: torch.sigmoid, TANH: torch.tanh, RELU: torch.relu}
    return [functions[gate.activation](z) for gate, z in zip(gates, zs, strict=True)]


class Recurrence:
    """One call of a recurrent module: what went in, and the gradients of what came out.

    Args:
        module: it.
        x, state: what it was given.
    """

    def __init__(self, module: nn.RNNBase | nn.RNNCellBase, x: Tensor, state: State | None):
        precision = next(module.parameters()).dtype  # autocast ends before the backward pass
        self.module = module
        self.x = x.detach().to(precision).requires_grad_()
        self.state = None if state is None else tuple(each.detach().to(precision) for each in state)
        self.gradients: dict[int, Tensor] = {}

    def receive(self, index: int, gradient: Tensor) -> None:
        """The gradient with respect to a result: only what comes from outside of the module."""
        self.gradients[index] = gradient

    def gates(self) -> list[tuple[Gate, Tensor, Tensor | None]]:
        """Each gate with its preactivations and their δ, [T, B, H]; None where no gradient came."""
        with torch.enable_grad():
            gates, results = unrolled(self.module, self.x, self.state)
        every = [z for gate in gates for z in gate.z]
        deltas = self._deltas(results, every) if self.gradients else None
        found = []
        for k, gate in enumerate(gates):
            own = slice(k * len(gate.z), (k + 1) * len(gate.z))
            delta = None if deltas is None else torch.stack(deltas[own])
            found.append((gate, torch.stack(gate.z).detach(), delta))
        return found

    def _deltas(self, results: Sequence[Tensor], zs: Sequence[Tensor]) -> list[Tensor]:
        zeros = [torch.zeros_like(result) for result in results]
        outer = [self.gradients.get(k, zero).to(zero) for k, zero in enumerate(zeros)]
        deltas = torch.autograd.grad(results, zs, outer, allow_unused=True)
        return [torch.zeros_like(z) if d is None else d for z, d in zip(zs, deltas, strict=True)]

"""Recurrent networks that read an image row by row, or pixel by pixel; the signals' axis is time.

The recurrences are torch's own. Initializers leave them alone: how they begin is said here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from isometry.activations import Activation
from isometry.errors import bad_value
from isometry.networks.blocks import Layer

Reads = Literal["rows", "pixels"]
Start = Literal["torch", "orthogonal", "identity", "gaussian"]
"""How recurrent matrices begin: torch's U(±1/√width), Haar-orthogonal (unitary), the identity
(Le et al. 2015), or N(0, 1/width); all but torch's times a gain.
"""


class Recurrent(nn.Module):
    """A recurrence over the parts of an image, and a readout of its last state.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes: units of the readout.
        recurrence: torch's class.
        depth: L: levels of the recurrence, and the readout (≥ 2).
        width: units of a level.
        reads: what a time step is: a row of the image, or a pixel.
        start, gain: of the recurrent matrices.
        settings: more for the class.

    Raises:
        UserError: for a depth under 2.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        recurrence: Callable[..., nn.RNNBase],
        depth: int,
        width: int,
        reads: Reads,
        start: Start,
        gain: float,
        **settings: str,
    ):
        super().__init__()
        if depth < 2:
            raise bad_value("model.depth", depth, "must be at least 2: a recurrence and a readout")
        self.reads = reads
        units = input_shape[0] * (input_shape[2] if reads == "rows" else 1)
        self.recurrence = recurrence(units, width, depth - 1, batch_first=True, **settings)
        self.readout = Layer(nn.Linear(width, num_classes))
        _begin(self.recurrence, start, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, classes]."""
        x = x.permute(0, 2, 3, 1)
        x = x.flatten(2) if self.reads == "rows" else x.flatten(1, 2)
        states, _ = self.recurrence(x)
        return self.readout(states[:, -1])  # type: ignore[no-any-return]


class VanillaRNN(Recurrent):
    """h_t = φ(W x_t + U h_{t-1} + b), φ tanh or relu. With `input_std` as an IRNN begins (Le et al.
    2015, sec. 2): weights from the input are N(0, input_std²), biases 0.

    Raises:
        UserError: for another φ.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        activation: Activation,
        depth: int,
        width: int,
        reads: Reads,
        start: Start,
        gain: float,
        input_std: float | None,
    ):
        if activation.name not in ("tanh", "relu"):
            raise bad_value("activation", activation.name, "model=rnn takes tanh or relu")
        size = (depth, width, reads, start, gain)
        super().__init__(input_shape, num_classes, nn.RNN, *size, nonlinearity=activation.name)
        if input_std is not None:
            _begin_at_input(self.recurrence, input_std)


class LSTM(Recurrent):
    """Hochreiter & Schmidhuber 1997, with forget gates (Gers et al. 2000) whose bias begins at
    `forget_bias` (Jozefowicz et al. 2015: 1); null leaves torch's.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        depth: int,
        width: int,
        reads: Reads,
        start: Start,
        gain: float,
        forget_bias: float | None,
    ):
        size = (depth, width, reads, start, gain)
        super().__init__(input_shape, num_classes, nn.LSTM, *size)
        if forget_bias is not None:
            _begin_forgetting(self.recurrence, forget_bias)


class GRU(Recurrent):
    """Cho et al. 2014."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        depth: int,
        width: int,
        reads: Reads,
        start: Start,
        gain: float,
    ):
        size = (depth, width, reads, start, gain)
        super().__init__(input_shape, num_classes, nn.GRU, *size)


@torch.no_grad()
def _begin(recurrence: nn.RNNBase, start: Start, gain: float) -> None:
    """Fill each recurrent matrix, gate by gate."""
    if start == "torch":
        if gain != 1.0:
            raise bad_value("model.gain", gain, "is for model.start=orthogonal, identity, gaussian")
        return
    fill = {"orthogonal": nn.init.orthogonal_, "identity": nn.init.eye_, "gaussian": _gaussian}
    for name, weight in recurrence.named_parameters():
        if name.startswith("weight_hh"):
            for gate in weight.split(recurrence.hidden_size):
                fill[start](gate)
            weight.mul_(gain)


def _gaussian(matrix: Tensor) -> Tensor:
    return nn.init.normal_(matrix, 0.0, len(matrix) ** -0.5)


@torch.no_grad()
def _begin_at_input(recurrence: nn.RNNBase, std: float) -> None:
    for name, parameter in recurrence.named_parameters():
        if name == "weight_ih_l0":
            parameter.normal_(0.0, std)
        elif name.startswith("bias"):
            parameter.zero_()


@torch.no_grad()
def _begin_forgetting(recurrence: nn.RNNBase, bias: float) -> None:
    """torch adds two biases; their sum is what is set."""
    gate = slice(recurrence.hidden_size, 2 * recurrence.hidden_size)
    for name, parameter in recurrence.named_parameters():
        if name.startswith("bias_"):
            parameter[gate] = bias if name.startswith("bias_ih") else 0.0

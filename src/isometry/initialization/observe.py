"""A network at initialization: every column of every layer, in float64, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isometry.columns import MEASURED
from isometry.layers.discover import layers_of
from isometry.layers.operations import tensors_in
from isometry.layers.spec import LayerSpec
from isometry.signals.observer import Observer, Sink
from isometry.signals.recorder import Recorder
from isometry.signals.sums import StepSums


class Kept(StepSums):
    """Keeps the tensors of the last batch beside the sums.

    Attributes:
        preactivations, activations: of each layer in forward order, with their graph.
        deltas: of the layers in backward order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.preactivations: list[Tensor] = []
        self.activations: list[Tensor] = []
        self.deltas: list[Tensor] = []

    def begin(self, examples: int) -> None:
        super().begin(examples)
        self.preactivations = []
        self.activations = []
        self.deltas = []

    def preactivation(self, layer: LayerSpec, x: Tensor, h: Tensor) -> None:
        super().preactivation(layer, x, h)
        self.preactivations.append(h)

    def activation(self, layer: LayerSpec, a: Tensor) -> None:
        super().activation(layer, a)
        self.activations.append(a)

    def delta(self, layer: LayerSpec, gradient: Tensor) -> None:
        super().delta(layer, gradient)
        self.deltas.append(gradient)


@dataclass(frozen=True)
class Observation:
    """What was measured.

    Attributes:
        columns: [L] of each measured column, NaN where it does not exist; empty if the loss or a
            gradient is not finite.
        preactivations, activations: of each layer, of the last batch.
        deltas: δ of each layer [B, ...], of the last batch's summed loss.
    """

    columns: dict[str, NDArray[np.float64]]
    preactivations: list[Tensor]
    activations: list[Tensor]
    deltas: list[Tensor]


def observe(
    network: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor] = cross_entropy,
) -> Observation:
    """Measure a network as it is, in training mode, over all batches together. It is converted to
    float64, where gradients of 1e-300 are still numbers; its weights are those from which training
    would begin.

    Args:
        network: with weights drawn, and its layer map (`layers.discover.remember`).
        batches: inputs (a tensor, or a tuple of arguments) and labels; at least one.
        loss: of what the network returns and labels, the mean over the batch.
    """
    network.double().train().zero_grad()
    kept = Kept()
    recorder = Recorder(network, layers_of(network), flush_every=1)
    recorder.sums = kept
    for inputs, labels in batches:
        arguments = typed(inputs, torch.float64)
        examples = len(tensors_in(arguments)[0])
        recorder.begin(True, examples)
        value = loss(network(*arguments), labels)
        recorder.after_forward(value)
        value.backward()
        recorder.after_backward(1 / examples)
    recorder.before_update(True)
    recorder.after_update(True)
    flush = recorder.flush()
    values = np.where(flush.measured, flush.values, np.nan)
    columns = {name: values[0, index] for index, name in enumerate(MEASURED)} if len(values) else {}
    deltas = [delta * kept.examples[-1] for delta in reversed(kept.deltas)]
    return Observation(columns, kept.preactivations, kept.activations, deltas)


def typed(inputs: Any, dtype: torch.dtype) -> list[Any]:
    """Arguments of a forward pass (a tensor, or a tuple of them): floating-point numbers in
    another precision, everything else as it is.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    return [_as(dtype, value) for value in arguments]


def _as(dtype: torch.dtype, value: Any) -> Any:
    real = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if real else value


class _Preactivations(Sink):
    wants_deltas = False

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def preactivation(self, layer: LayerSpec, x: Tensor, h: Tensor) -> None:
        self.found.append(h)


@contextmanager
def preactivations(network: nn.Module) -> Iterator[list[Tensor]]:
    """h of each layer, with its graph, as the network computes inside of the block."""
    observer = Observer(network, layers_of(network))
    sink = _Preactivations()
    observer.open(sink)
    try:
        yield sink.found
    finally:
        observer.close()


@contextmanager
def kept(network: nn.Module, examples: int) -> Iterator[Kept]:
    """The tensors of each layer, as the network computes inside of the block, forward and
    backward.
    """
    observer = Observer(network, layers_of(network))
    sink = Kept()
    sink.begin(examples)
    observer.open(sink)
    try:
        yield sink
    finally:
        observer.close()

"""A network at initialization: every column of every layer, in float64, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from isometry.columns import MEASURED
from isometry.networks.blocks import Network
from isometry.signals.probe import SignalProbe
from isometry.signals.recorder import Recorder
from isometry.signals.workspace import WHOLE


@dataclass(frozen=True)
class Observation:
    """What was measured.

    Attributes:
        columns: [L] of each measured column, NaN where it does not exist; empty if the loss or a
            gradient is not finite.
        probe: the tensors of the last batch.
        examples: its size.
    """

    columns: dict[str, NDArray[np.float64]]
    probe: SignalProbe
    examples: int

    def deltas(self) -> list[Tensor]:
        """δ of each layer [B, ...], of the summed loss, of the last batch.

        Raises:
            ValueError: for layers so large that the probe does not keep δ.
        """
        found = dict(zip(*self.probe.kept(), strict=True))
        if len(found) < self.probe.layers:
            raise ValueError(
                f"δ is kept only of layers of up to {WHOLE} entries; observe fewer examples"
            )
        return [found[layer] * self.examples for layer in range(self.probe.layers)]


def observe(
    network: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Observation:
    """Measure a network as it is, in training mode, over all batches together. It is converted to
    float64, where gradients of 1e-300 are still numbers; its weights are those from which training
    would begin.

    Args:
        network: with weights drawn.
        batches: images and labels; at least one.
        loss: of logits [B, classes] and labels [B], the mean over the batch.
    """
    network.double().train().zero_grad()
    recorder = Recorder(network.layer_map(), flush_every=1, keeps_tensors=True)
    for images, labels in batches:
        probe = recorder.begin(True, len(images))
        value = loss(network(images.double(), probe), labels)
        recorder.after_forward(value)
        value.backward()
        recorder.after_backward(1 / len(images))
    recorder.before_update(True)
    recorder.after_update(True)
    flush = recorder.flush()
    values = np.where(flush.measured, flush.values, np.nan)
    columns = {name: values[0, index] for index, name in enumerate(MEASURED)} if len(values) else {}
    assert isinstance(probe, SignalProbe)
    return Observation(columns, probe, len(images))

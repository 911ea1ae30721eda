"""Weights that follow the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from isometry.initializers.base import InitializerError, suited
from isometry.initializers.orthogonal import Orthogonal
from isometry.layers.discover import untouched
from isometry.layers.spec import LayerSpec


@runtime_checkable
class DataDependent(Protocol):
    """An initializer that looks at examples when it has drawn."""

    def adapt(
        self,
        network: nn.Module,
        layers: list[LayerSpec],
        examples: Callable[[int], Tensor] | None,
    ) -> None: ...


class LSUV:
    """Orthogonal weights, then each layer's weight in forward order divided by the standard
    deviation of its h over a batch (Mishkin & Matas 2016, algorithm 1). There are no biases and
    the batch stays the same: h then has variance 1, and nothing has to be repeated.

    Of the readout, too. Layers that are used more than once keep their orthogonal weights: their h
    is not one.

    Args:
        batch: examples that are looked at.
        tolerance: |Var h - 1| at which a layer is left as it is.
    """

    def __init__(self, batch: int, tolerance: float):
        self.batch = batch
        self.tolerance = tolerance

    def __call__(self, layers: list[LayerSpec], generator: Generator) -> None:
        Orthogonal(1.0, 0.0)(layers, generator)

    @torch.no_grad()
    def adapt(
        self,
        network: nn.Module,
        layers: list[LayerSpec],
        examples: Callable[[int], Tensor] | None,
    ) -> None:
        """Scale every layer.

        Raises:
            InitializerError: where there are no examples, or a layer's h does not vary.
        """
        if examples is None:
            raise InitializerError("initializer=lsuv needs a data set to look at")
        images = examples(self.batch)
        with untouched(network), without_dropout(network):
            for spec in suited(layers):
                if spec.uses == 1 and spec.site == "module":
                    self._scale(network, images, spec)

    def _scale(self, network: nn.Module, images: Tensor, spec: LayerSpec) -> None:
        variance = float(_output(network, images, spec).double().var(correction=0))
        if not variance > 0:
            raise InitializerError(f"initializer=lsuv: h of {spec.name} does not vary")
        if abs(variance - 1) < self.tolerance:
            return
        spec.weight.div_(variance**0.5)
        spec.declare((spec.sigma_w or 1.0) / variance**0.5, 0.0, spec.distribution or "lsuv")


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """No unit is dropped inside of the block."""
    parts = [part for part in network.modules() if isinstance(part, nn.Dropout)]
    for part in parts:
        part.eval()
    yield
    for part in parts:
        part.train()


class _Found(Exception):
    """Ends a forward pass where what was wanted is known."""


def _output(network: nn.Module, images: Tensor, spec: LayerSpec) -> Tensor:
    """h of a layer; what comes behind it is not computed."""
    assert spec.module is not None
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, out: Tensor) -> None:
        kept.append(out)
        raise _Found

    handle = spec.module.register_forward_hook(keep)
    try:
        network(images)
    except _Found:
        pass
    finally:
        handle.remove()
    return kept[0]

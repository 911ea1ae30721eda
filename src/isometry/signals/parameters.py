"""The parameters of the layers in one list, and their norms by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from isometry.signals.statistics import Constants

try:
    from torch.distributed.tensor import DTensor, Shard
except ImportError:  # a torch built without distributed: nothing can be sharded
    DTensor = Shard = ()  # type: ignore[assignment, misc]


class LayerParameters:
    """Weights (or biases) of the layers: usually one tensor a layer, several behind a
    parametrization, none without a bias.

    A sharded tensor (`DTensor`) is represented by its local shard; norms are completed by one
    all-reduce of the squares.

    Args:
        by_layer: the parameters of each layer, in forward order.
        constants: of the device they are on.
    """

    def __init__(self, by_layer: Sequence[Sequence[nn.Parameter]], constants: Constants):
        self.count = len(by_layer)
        self.constants = constants
        self.parameters = [parameter for group in by_layer for parameter in group]
        self.owners = [layer for layer, group in enumerate(by_layer) for _ in group]
        self.sharded = [_is_sharded(parameter) for parameter in self.parameters]
        self._one_each = self.owners == list(range(self.count)) and not any(self.sharded)

    def first_owners(self) -> NDArray[np.bool_]:
        """[L]: False for a layer whose parameters are all an earlier layer's too (tied weights):
        sums over the layers leave it out, or they would count a parameter twice."""
        first = {
            id(parameter): layer
            for parameter, layer in zip(self.parameters[::-1], self.owners[::-1], strict=True)
        }
        return np.isin(np.arange(self.count), list(first.values()))

    def values(self) -> list[Tensor]:
        """The parameters outside of autograd (shards of sharded ones), wherever they lie now."""
        return [_local(parameter.detach()) for parameter in self.parameters]

    def with_gradient(self) -> tuple[list[Tensor], list[int]]:
        """The gradients there are (shards of sharded ones), and the positions of their
        parameters.
        """
        present = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        return [_gradient(self.parameters[i]) for i in present], present

    def norm_by_layer(
        self, flat: Tensor, positions: Sequence[int] | None = None, without: float = math.nan
    ) -> Tensor:
        """Euclidean norm of each layer's tensors, float64 [L]; `without` for a layer that has none.

        Args:
            flat: the norm of each tensor (of each shard of a sharded one).
            positions: the parameters they belong to; None: all, in order.
        """
        chosen = range(len(self.parameters)) if positions is None else positions
        if self.one_each(chosen):
            return flat
        return self.sum_by_layer(flat.square(), chosen, without).sqrt()

    def sum_by_layer(
        self, flat: Tensor, positions: Sequence[int], without: float = math.nan
    ) -> Tensor:
        """The sum of one number a parameter (shard) over each layer's parameters, [L]; `without`
        for a layer that has none.
        """
        if self.one_each(positions):
            return flat
        owners = [self.owners[i] for i in positions]
        result = torch.zeros(self.count, dtype=torch.float64, device=flat.device)
        result.index_add_(0, self._index(owners), self._complete(flat, positions))
        empty = [layer for layer in range(self.count) if layer not in owners]
        return result.index_fill_(0, self._index(empty), without)

    def one_each(self, positions: Sequence[int]) -> bool:
        """Whether numbers of these parameters are those of the layers already."""
        return self._one_each and len(positions) == self.count

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return self.constants(numbers).long()

    def _complete(self, flat: Tensor, positions: Sequence[int]) -> Tensor:
        """Sums over whole tensors from sums over shards: one all-reduce for each way of
        sharding.
        """
        alike: dict[Any, list[int]] = {}
        for k, i in enumerate(positions):
            if self.sharded[i]:
                parameter: Any = self.parameters[i]
                alike.setdefault((parameter.device_mesh, tuple(parameter.placements)), []).append(k)
        for (mesh, placements), shards in alike.items():
            at = self._index(shards)
            sums = flat.index_select(0, at)
            for dimension, placement in enumerate(placements):
                if isinstance(placement, Shard):
                    dist.all_reduce(sums, group=mesh.get_group(dimension))
            flat = flat.index_copy(0, at, sums)
        return flat

    def has(self, positions: Sequence[int]) -> NDArray[np.bool_]:
        """[L]: whether a layer owns one of the parameters."""
        mask = np.zeros(self.count, dtype=bool)
        mask[[self.owners[i] for i in positions]] = True
        return mask


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _gradient(parameter: nn.Parameter) -> Tensor:
    """A gradient that is there; its local part laid out as its parameter is: it may still have to
    be summed.
    """
    gradient: Any = parameter.grad
    if isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    return _local(gradient)


def _is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and any(isinstance(p, Shard) for p in tensor.placements)

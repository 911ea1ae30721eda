"""One entry of the layer map.

Initializers, signals and theory read the list of them, in forward order, and nothing else about the
architecture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from isometry.activations import Activation

Site = Literal["module", "function", "fused"]


@dataclass(frozen=True)
class View:
    """A matrix or kernel inside of a parameter: all of it, some of its rows, or its transpose.

    Attributes:
        parameter: where it stands.
        size, stride: of the view [out, in, *kernel].
        offset: entries of the parameter before it.
    """

    parameter: nn.Parameter
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, weight: Tensor, behind: list[nn.Parameter], transposed: bool) -> View | None:
        """Where a weight that a function was given stands in a parameter; None where it has been
        computed.

        Args:
            weight: [out, in, ...], or [in, out, ...] where `transposed`.
            behind: the parameters it depends on.
        """
        if len(behind) > 1:
            return None
        (parameter,) = behind
        if weight is not parameter and not _share(weight, parameter):
            return None
        whole = weight.detach().transpose(0, 1) if transposed else weight.detach()
        offset = weight.storage_offset() - parameter.storage_offset()
        return cls(parameter, tuple(whole.shape), whole.stride(), int(offset))

    def rows(self, first: int, size: tuple[int, ...]) -> View:
        """The part [size[0], in, *kernel] from a row on."""
        return replace(self, size=size, offset=self.offset + first * self.stride[0])

    @property
    def tensor(self) -> Tensor:
        """[out, in, *kernel], outside of autograd; what is written to it is the parameter's."""
        start = self.parameter.storage_offset() + self.offset
        return torch.as_strided(self.parameter.detach(), self.size, self.stride, start)


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@dataclass(eq=False)
class LayerSpec:
    """One weighted map with its normalization and activation.

    Attributes:
        index: 1..L in forward order.
        name: the path of the weight's module, e.g. `layer1.0.conv1`.
        kind: `hidden`, or `readout` where no other layer comes behind.
        map: `linear`, `conv`, `conv_transpose`, `embedding`, `bilinear` or `recurrent`.
        weights, biases: the parameters behind weight and bias; of a parametrized weight (weight
            norm, say) several.
        size: of the weight, [out, in, *kernel].
        view: the weight inside of its parameter; None where it is computed.
        module: the innermost module whose forward pass applies the map.
        site: who sees h: a forward hook on `module`; only a function mode (`function`); nobody, as
            one kernel does more than the map (`fused`).
        groups: of a convolution.
        packed: matrices that are stacked in the weight: q, k and v of attention.
        activation: φ; None where none follows, as behind the readout.
        act_module: the innermost module that applies φ.
        normalization: of h: `none`, `batch`, `layer`, `group`, `instance` or `rms`.
        norm_module: the innermost module that applies it.
        branch: the residual branch this layer stands in, None on the trunk.
        uses: how often the layer is applied in one forward pass.
        by_position: whether it is applied to several positions of an example, or their rows.
        others: operations of the network that change the signal and are no layer, no bias, no
            normalization and no φ: `dropout`, `max_pool2d`.
        why: of a statistic that is null whatever the step, by column, the reason.
        sigma_w, sigma_b: what an initializer *declared*: Var W = σ_w²/fan_in, Var b = σ_b²; None
            before initialization.
        distribution: the declared shape of the weights (`gaussian`, `uniform`, `orthogonal`, ...).
    """

    index: int
    name: str
    map: str
    weights: list[nn.Parameter] = field(repr=False)
    biases: list[nn.Parameter] = field(repr=False)
    size: tuple[int, ...] = ()
    view: View | None = field(default=None, repr=False)
    module: nn.Module | None = field(default=None, repr=False)
    site: Site = "function"
    groups: int = 1
    packed: int = 1
    kind: Literal["hidden", "readout"] = "hidden"
    activation: Activation | None = None
    act_module: nn.Module | None = field(default=None, repr=False)
    normalization: str = "none"
    norm_module: nn.Module | None = field(default=None, repr=False)
    branch: int | None = None
    uses: int = 0
    by_position: bool = False
    others: frozenset[str] = frozenset()
    why: dict[str, str] = field(default_factory=dict, repr=False)
    sigma_w: float | None = None
    sigma_b: float | None = None
    distribution: str | None = None

    @property
    def weight(self) -> Tensor:
        """The weight as [out, in, *kernel], outside of autograd; what is written to it is the
        parameter's.

        Raises:
            ValueError: where it is computed from parameters, or no such matrix.
        """
        if self.view is None:
            raise ValueError(f"{self.name}: its weight is computed from its parameters")
        return self.view.tensor

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, where there is one."""
        return self.biases[0] if len(self.biases) == 1 else None

    @property
    def pieces(self) -> list[LayerSpec]:
        """The layer itself, or one for each of its stacked matrices: what an initializer draws."""
        if self.packed == 1 or self.view is None:
            return [self]
        size = (self.size[0] // self.packed, *self.size[1:])
        return [
            replace(self, size=size, view=self.view.rows(k * size[0], size), packed=1)
            for k in range(self.packed)
        ]

    @property
    def fan_in(self) -> int:
        """Connections into an output unit (He et al. 2015, eq. 7)."""
        shared = self.groups if self.map == "conv_transpose" else 1
        return math.prod(self._size[1:]) // shared

    @property
    def fan_out(self) -> int:
        """Connections out of an input unit (He et al. 2015, eq. 11)."""
        shared = self.groups if self.map == "conv" else 1
        return self._size[0] * math.prod(self._size[2:]) // shared // self.packed

    @property
    def _size(self) -> tuple[int, ...]:
        return self.size or tuple(self.weights[0].shape)

    @property
    def frozen(self) -> bool:
        """Whether no parameter of the weight is trained."""
        return not any(weight.requires_grad for weight in self.weights)

    @property
    def shows_phi(self) -> bool:
        """Whether a hook on a module sees z and a: the module does nothing else."""
        return self.activation is not None and self._is_leaf(self.act_module)

    @property
    def shows_norm(self) -> bool:
        """Whether a hook on a module sees z as its output."""
        return self.normalization != "none" and self._is_leaf(self.norm_module)

    def _is_leaf(self, module: nn.Module | None) -> bool:
        if module is None or module is self.module:
            return False
        return next(module.children(), None) is None

    @property
    def needs_mode(self) -> bool:
        """Whether something of the layer is seen by a function mode alone."""
        norm = self.normalization != "none" and not self.shows_norm
        phi = self.activation is not None and not self.shows_phi
        return self.site == "function" or norm or phi

    def declare(self, sigma_w: float, sigma_b: float, distribution: str) -> None:
        """Note what the initializer drew, in the units of mean-field theory."""
        self.sigma_w = float(sigma_w)
        self.sigma_b = float(sigma_b)
        self.distribution = distribution

"""Networks without shortcuts or normalization whose φ is shaped for the depth: TAT and DKS."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Generator, Tensor, nn

from isometry.activations import Activation, Pointwise
from isometry.layers.spec import LayerSpec
from isometry.networks.highway import Highway
from isometry.networks.residual import Residual
from isometry.remedies.base import Remedy
from isometry.theory.tailored import Shape, kernel_shape, leaky_slope

UNLIKE = (Residual, Highway, nn.MaxPool2d, nn.RNNBase)
"""Parts whose correlation map is another."""

TOLERANCE = 0.1
"""Of σ_w in the hidden layers, which must be 1."""


class Tailored(Remedy, ABC):
    """Exchanges the φ of each layer; a subclass shapes it."""

    def alter(self, network: nn.Module) -> None:
        if any(isinstance(part, UNLIKE) for part in network.modules()):
            raise self.refuse("is solved for networks without shortcuts, gates and pooling")
        self.refuse_norms(network)
        places = [
            (parent, name, child.declared_activation)
            for parent in network.modules()
            for name, child in parent.named_children()
            if isinstance(getattr(child, "declared_activation", None), Activation)
        ]
        if not places:
            raise self.refuse("is for networks with an activation of ours in each layer")
        shaped = self.shaped(places[0][2], len(places))  # type: ignore[arg-type]
        for parent, name, _ in places:
            setattr(parent, name, shaped.fresh())

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        scales = [s.sigma_w for s in layers if s.kind == "hidden" and s.sigma_w is not None]
        if any(abs(sigma_w - 1) > TOLERANCE for sigma_w in scales[1:]):
            raise self.refuse(
                "needs weights of variance 1/fan_in; use initializer=orthogonal or lecun_normal"
            )

    @abstractmethod
    def shaped(self, phi: Activation, depth: int) -> Activation:
        """φ for a network of so many nonlinear layers."""


class TAT(Tailored):
    """Leaky relu of unit length, whose slope lets two orthogonal inputs come out with correlation η
    (Zhang, Botev & Martens 2022, sec. 4.1). Goes with Gaussian or orthogonal weights of variance
    1/fan_in.

    Args:
        eta: 0.9 in the paper.
    """

    def __init__(self, eta: float):
        self.eta = eta

    def shaped(self, phi: Activation, depth: int) -> Activation:
        if phi.name not in ("relu", "leaky_relu"):
            raise self.refuse(f"takes relu and leaky_relu, not {phi.name}; remedy=dks smooth ones")
        try:
            slope = leaky_slope(depth, self.eta)
        except ValueError as error:
            raise self.refuse(str(error)) from error
        scale = math.sqrt(2 / (1 + slope**2))
        leaky = nn.LeakyReLU(slope)

        def tailored(z: Tensor) -> Tensor:
            return scale * leaky(z)

        return Activation(f"tailored_relu({slope:.5f})", lambda: Pointwise(tailored), (0.0,))


class DKS(Tailored):
    """γ (φ(α z + β) + δ) whose network is nearly linear: its correlation map has slope ζ at 1
    (Martens et al. 2021, sec. 5).

    Args:
        zeta: 1.5 in the paper.
    """

    def __init__(self, zeta: float):
        self.zeta = zeta

    def shaped(self, phi: Activation, depth: int) -> Activation:
        try:
            shape = kernel_shape(phi, depth, self.zeta)
        except ValueError as error:
            raise self.refuse(str(error)) from error
        return shaped_by(phi, shape)


def shaped_by(phi: Activation, shape: Shape) -> Activation:
    """γ (φ(α z + β) + δ)."""

    def tailored() -> nn.Module:
        inner = phi.module()
        return Pointwise(
            lambda z: shape.gamma * (inner(shape.alpha * z + shape.beta) + shape.delta)
        )

    kinks = tuple((kink - shape.beta) / shape.alpha for kink in phi.kinks)
    return Activation(f"shaped_{phi.name}", tailored, kinks)

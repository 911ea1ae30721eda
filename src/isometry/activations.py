"""Each nonlinearity once: a torch module, its float64 numpy view for the theory, and its kinks.

An :class:`Activation` is what a config of `conf/activation/` builds. The network asks it for a fresh module per layer;
the theory asks it for φ and φ' as numpy callables; the probes ask it where φ is saturated. The numpy view evaluates the
very same torch function in float64, so a nonlinearity is written down exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SATURATION_SHARE = 0.05
"""A unit is saturated where |φ'| is under this share of max |φ'| (DESIGN.md, `saturation`)."""

_GRID = np.unique(np.concatenate([np.linspace(-40, 40, 160_001), np.geomspace(40, 1e6, 400), -np.geomspace(40, 1e6, 400)]))


class Pointwise(nn.Module):
    """A module around a plain elementwise function of a tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class Activation:
    """One elementwise nonlinearity φ.

    Attributes:
        name: the word used in tables and figures.
        module: makes a fresh module for one layer (fresh, because PReLU owns a weight).
        kinks: points where φ or φ' is not smooth; quadrature splits there.
        bounded_slope: False where |φ'| has no maximum (then `saturation` does not exist).
        periodic: True where φ' keeps oscillating, so that no finite set of intervals describes saturation.
    """

    name: str
    module: Callable[[], nn.Module]
    kinks: tuple[float, ...] = ()
    bounded_slope: bool = True
    periodic: bool = False

    def phi(self, z: np.ndarray | float) -> np.ndarray:
        """φ(z) in float64, elementwise; any shape."""
        with torch.no_grad():
            return self._evaluate(_as_tensor(z)).numpy()

    def phi_prime(self, z: np.ndarray | float) -> np.ndarray:
        """φ'(z) in float64, elementwise; at a kink, the value torch's autograd uses."""
        x = _as_tensor(z).requires_grad_(True)
        with torch.enable_grad():
            y = self._evaluate(x)
        if not y.requires_grad:
            return np.zeros_like(x.detach().numpy())
        return torch.autograd.grad(y.sum(), x)[0].numpy()

    def _evaluate(self, x: Tensor) -> Tensor:
        # one unit a row, so that a module which counts channels in dimension 1 (PReLU) sees a single one
        return self.module().double()(x.reshape(-1, 1)).reshape(x.shape)

    @cached_property
    def slope_max(self) -> float:
        """max |φ'|, on a dense grid; inf where φ' is unbounded."""
        return float(np.abs(self.phi_prime(_GRID)).max()) if self.bounded_slope else math.inf

    @cached_property
    def saturated_intervals(self) -> tuple[tuple[float, float], ...] | None:
        """The closed intervals of z on which |φ'(z)| < 5 % of its maximum; None where that set does not exist."""
        if not self.bounded_slope or self.periodic:
            return None
        low = np.abs(self.phi_prime(_GRID)) < SATURATION_SHARE * self.slope_max
        return tuple(self._interval(start, stop) for start, stop in _stretches(low))

    def _interval(self, start: int, stop: int) -> tuple[float, float]:
        left = -math.inf if start == 0 else self._edge(float(_GRID[start]), float(_GRID[start - 1]))
        right = math.inf if stop == len(_GRID) - 1 else self._edge(float(_GRID[stop]), float(_GRID[stop + 1]))
        return left, right

    def _edge(self, inside: float, outside: float) -> float:
        """Bisect to the point between the two at which saturation begins (float32 resolution is what is needed)."""
        for _ in range(60):
            middle = 0.5 * (inside + outside)
            saturated = abs(float(self.phi_prime(middle))) < SATURATION_SHARE * self.slope_max
            inside, outside = (middle, outside) if saturated else (inside, middle)
        # a kink at the edge (relu at 0) belongs to the side on which torch's autograd puts it
        kink = min(self.kinks, key=lambda k: abs(k - inside), default=math.nan)
        return kink if abs(kink - inside) < 1e-9 else inside


def _as_tensor(z: np.ndarray | float) -> Tensor:
    return torch.from_numpy(np.array(z, dtype=np.float64))


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _pointwise(name: str, function: Callable[[Tensor], Tensor], **properties) -> Activation:
    return Activation(name, lambda: Pointwise(function), **properties)


def linear() -> Activation:
    """φ(z) = z."""
    return Activation("linear", nn.Identity)


def sigmoid() -> Activation:
    """φ(z) = 1/(1+e^-z); φ' ≤ 1/4."""
    return _pointwise("sigmoid", torch.sigmoid)


def tanh() -> Activation:
    """φ(z) = tanh z."""
    return _pointwise("tanh", torch.tanh)


def softsign() -> Activation:
    """φ(z) = z/(1+|z|) (Bergstra et al. 2009)."""
    return _pointwise("softsign", F.softsign, kinks=(0.0,))


def erf() -> Activation:
    """φ(z) = erf z."""
    return _pointwise("erf", torch.erf)


def relu() -> Activation:
    """φ(z) = max(z, 0)."""
    return _pointwise("relu", torch.relu, kinks=(0.0,))


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """φ(z) = z for z > 0, else `negative_slope`·z (Maas et al. 2013)."""
    return Activation("leaky_relu", lambda: nn.LeakyReLU(negative_slope), kinks=(0.0,))


def elu(alpha: float = 1.0) -> Activation:
    """φ(z) = z for z > 0, else α(e^z - 1) (Clevert et al. 2016)."""
    return Activation("elu", lambda: nn.ELU(alpha), kinks=(0.0,))


def selu() -> Activation:
    """Scaled ELU with the two constants of Klambauer et al. 2017."""
    return Activation("selu", nn.SELU, kinks=(0.0,))


def gelu() -> Activation:
    """φ(z) = z Φ(z), the exact form (Hendrycks & Gimpel 2016)."""
    return _pointwise("gelu", F.gelu)


def silu() -> Activation:
    """φ(z) = z sigmoid(z)."""
    return _pointwise("silu", F.silu)


def softplus() -> Activation:
    """φ(z) = ln(1 + e^z)."""
    # torch switches to the identity above z = 20, where the two differ by 2e-9
    return Activation("softplus", nn.Softplus, kinks=(20.0,))

"""Each nonlinearity once: a torch module, its float64 numpy view for the theory, and its kinks.

An :class:`Activation` is what a config of `conf/activation/` builds. The network asks it for a
fresh module per layer; the theory asks it for φ and φ' as numpy callables; the recorder asks it
where φ is saturated. The numpy view evaluates the very same torch function in float64, so a
nonlinearity is written down exactly once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isometry.errors import bad_value

SATURATION_SHARE = 0.05
"""A unit is saturated where |φ'| is under this share of max |φ'| (DESIGN.md, `saturation`)."""

_GRID = np.unique(
    np.concatenate(
        [np.linspace(-40, 40, 160_001), np.geomspace(40, 1e6, 400), -np.geomspace(40, 1e6, 400)]
    )
)


class Pointwise(nn.Module):
    """A module around a plain elementwise function of a tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True, eq=False)  # two are never equal: they hold functions
class Activation:
    """One elementwise nonlinearity φ.

    Attributes:
        name: the word used in tables and figures.
        module: makes a fresh module for one layer (fresh, because PReLU owns a weight).
        kinks: points where φ or φ' is not smooth; quadrature splits there.
        slope: φ' of a tensor, given where saturation is no finite set of intervals (sine).
        learned: True where φ' depends on a trained parameter (then `saturation` does not exist).
        resolved: the largest variance of z up to which the kinks resolve φ; an oscillating φ has
            the same averages beyond.
    """

    name: str
    module: Callable[[], nn.Module]
    kinks: tuple[float, ...] = ()
    slope: Callable[[Tensor], Tensor] | None = None
    learned: bool = False
    resolved: float = 1e24

    def fresh(self) -> nn.Module:
        """A module for one layer, by which a network declares its φ: kinks, name, and whether it
        is learned are then known wherever the module is found.
        """
        made = self.module()
        made.declared_activation = self  # type: ignore[assignment]
        return made

    def phi(self, z: np.ndarray | float) -> np.ndarray:
        """φ(z) in float64, elementwise; any shape."""
        with torch.no_grad():
            return self._evaluate(_as_tensor(z)).numpy()

    def phi_prime(self, z: np.ndarray | float) -> np.ndarray:
        """φ'(z) in float64, elementwise; at a kink, the value torch's autograd uses."""
        x = _as_tensor(z).requires_grad_(True)
        # asked within a checkpointed layer, too, whose tensors are counted: these are none of them
        own = torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)
        with torch.enable_grad(), own:
            y = self._evaluate(x)
            if not y.requires_grad:
                return np.zeros_like(x.detach().numpy())
            return torch.autograd.grad(y.sum(), x)[0].numpy()

    def _evaluate(self, x: Tensor) -> Tensor:
        # one unit a row, so that a module which counts channels in dimension 1 (PReLU) sees a
        # single one
        return self.module().double()(x.reshape(-1, 1)).reshape(x.shape)

    @cached_property
    def slope_max(self) -> float:
        """max |φ'|, on a dense grid; inf where φ' keeps growing far out."""
        slopes = np.abs(self.phi_prime(_GRID))
        largest = float(slopes.max())
        inner = float(slopes[np.abs(_GRID) <= 40].max())
        return largest if largest <= 2 * inner else math.inf

    @property
    def saturates(self) -> bool:
        """Whether the share of saturated units is defined (be it 0)."""
        return self.slope is not None or self.saturated_intervals is not None

    @cached_property
    def saturated_intervals(self) -> tuple[tuple[float, float], ...] | None:
        """The closed intervals of z on which |φ'(z)| < 5 % of its maximum; None where that set does
        not exist.
        """
        if math.isinf(self.slope_max) or self.learned or self.slope is not None:
            return None
        low = np.abs(self.phi_prime(_GRID)) < SATURATION_SHARE * self.slope_max
        return tuple(self._interval(start, stop) for start, stop in _stretches(low))

    def _interval(self, start: int, stop: int) -> tuple[float, float]:
        left = -math.inf if start == 0 else self._edge(float(_GRID[start]), float(_GRID[start - 1]))
        right = (
            math.inf
            if stop == len(_GRID) - 1
            else self._edge(float(_GRID[stop]), float(_GRID[stop + 1]))
        )
        return left, right

    def _edge(self, inside: float, outside: float) -> float:
        """Bisect to the point between the two at which saturation begins (float32 resolution is
        what is needed).
        """
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


def leaky_relu(negative_slope: float) -> Activation:
    """φ(z) = z for z > 0, else `negative_slope`·z (Maas et al. 2013)."""
    return Activation("leaky_relu", lambda: nn.LeakyReLU(negative_slope), kinks=(0.0,))


def elu(alpha: float) -> Activation:
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


def hard_tanh() -> Activation:
    """φ(z) = z clipped to [-1, 1]."""
    return _pointwise("hard_tanh", F.hardtanh, kinks=(-1.0, 1.0))


def arctan() -> Activation:
    """φ(z) = arctan z."""
    return _pointwise("arctan", torch.atan)


def prelu(initial_slope: float) -> Activation:
    """φ(z) = z for z > 0, else a learned slope times z, one a layer (He et al. 2015)."""
    return Activation("prelu", lambda: nn.PReLU(init=initial_slope), kinks=(0.0,), learned=True)


def celu(alpha: float) -> Activation:
    """φ(z) = z for z > 0, else α(e^(z/α) - 1) (Barron 2017)."""
    return Activation("celu", lambda: nn.CELU(alpha), kinks=(0.0,))


def mish() -> Activation:
    """φ(z) = z tanh(softplus z) (Misra 2019)."""
    return _pointwise("mish", F.mish)


def sine() -> Activation:
    """φ(z) = sin z (Sitzmann et al. 2020)."""
    # not kinks: points between which quadrature resolves a wave
    marks = tuple(float(x) for x in range(-420, 421, 4))
    return _pointwise("sine", torch.sin, slope=torch.cos, kinks=marks, resolved=1e3)


def squared_relu() -> Activation:
    """φ(z) = max(z, 0)² (So et al. 2021); its slope has no maximum, so nothing saturates."""
    return _pointwise("squared_relu", lambda z: torch.relu(z).square(), kinks=(0.0,))


def swish(beta: float) -> Activation:
    """φ(z) = z sigmoid(βz) (Ramachandran et al. 2017); β = 1 is SiLU."""
    return _pointwise("swish", lambda z: z * torch.sigmoid(beta * z))


def from_torch(module: str, kinks: Sequence[float] = (0.0,), **arguments: Any) -> Activation:
    """Any elementwise module of `torch.nn` by its name, e.g. `Hardswish`.

    Args:
        module: class name in `torch.nn`.
        kinks: points at which quadrature splits; too many do no harm.
        arguments: of the class.

    Raises:
        UserError: where `torch.nn` has no such module, it is not elementwise, or it would overwrite
            its argument.
    """
    if arguments.get("inplace"):
        raise bad_value(
            "activation.inplace",
            True,
            "allowed is false; the preactivation is measured and must survive",
        )
    kind = getattr(nn, module, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise bad_value(
            "activation.module",
            module,
            "no module of torch.nn; Hardswish, Softshrink or Tanhshrink are some",
        )
    return wrap(module, lambda: kind(**arguments), kinks)


def wrap(name: str, make: Callable[[], Any], kinks: Sequence[float] = (0.0,)) -> Activation:
    """An Activation from whatever a user's config builds: an Activation, a module, or a plain
    function of a tensor.

    Raises:
        UserError: where it is not elementwise.
    """
    try:
        made = make()
    except TypeError as error:
        raise bad_value("activation", name, f"cannot be built ({error})") from error
    if isinstance(made, Activation):
        return made
    if not callable(made):
        raise bad_value(
            "activation", name, "must build an Activation, a torch module or a function of a tensor"
        )
    fresh = make if isinstance(made, nn.Module) else lambda: Pointwise(make())
    learned = isinstance(made, nn.Module) and any(True for _ in made.parameters())
    activation = Activation(name, fresh, tuple(kinks), learned=learned)
    _require_elementwise(activation)
    return activation


def _require_elementwise(activation: Activation) -> None:
    """φ of two numbers is φ of each: a softmax or a GLU is not an activation of this kind."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # a Softmax warns of its default dimension before it is refused
            pair = activation.phi(np.array([0.3, -1.7]))
            alone = np.concatenate(
                [activation.phi(np.array([0.3])), activation.phi(np.array([-1.7]))]
            )
            module = activation.module().double()
            row = module(torch.tensor([[0.3, -1.7]], dtype=torch.float64)).detach().numpy()[0]
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise bad_value(
            "activation", activation.name, f"cannot be applied to a tensor ({error})"
        ) from error
    if not (np.array_equal(pair, alone) and np.array_equal(row, pair)):
        raise bad_value("activation", activation.name, "is not elementwise")

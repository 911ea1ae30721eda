"""Which φ a module or a call of torch's is, as an `Activation`: what a network declares wins over
what is recognised.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from isometry import activations
from isometry.activations import Activation, Pointwise
from isometry.errors import UserError

OURS: dict[str, Callable[[], Activation]] = {
    "relu": activations.relu,
    "tanh": activations.tanh,
    "sigmoid": activations.sigmoid,
    "gelu": activations.gelu,
    "silu": activations.silu,
    "selu": activations.selu,
    "mish": activations.mish,
    "erf": activations.erf,
    "softsign": activations.softsign,
    "hardtanh": activations.hard_tanh,
    "sin": activations.sine,
    "atan": activations.arctan,
    "arctan": activations.arctan,
    "softplus": activations.softplus,
    "elu": functools.partial(activations.elu, 1.0),
    "celu": functools.partial(activations.celu, 1.0),
    "leaky_relu": functools.partial(activations.leaky_relu, 0.01),
}
"""By the name of torch's function, as it is called without further arguments."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "gelu": {"approximate": "none"},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "leaky_relu": {"negative_slope": 0.01},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softplus": {"beta": 1.0, "threshold": 20.0},
}
"""Arguments with which a function is the one of `OURS`, in their order."""

LEARNED = frozenset({"prelu"})


@functools.cache
def _ours(name: str) -> Activation:
    return OURS[name]()


_OTHERS: dict[tuple[str, str], Activation] = {}


def of_call(
    name: str, function: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Activation:
    """φ of a call `function(z, *args, **kwargs)`; the same object for the same arguments.

    Args:
        name: of the function, without the underscore of its form in place.
        function: what was called.
        args, kwargs: behind the argument of φ, `inplace` left out.
    """
    if name in OURS and _is_default(name, args, kwargs):
        return _ours(name)
    learned = name in LEARNED
    key = (name, "" if learned else repr((args, sorted(kwargs.items()))))
    if key not in _OTHERS:
        # a copy goes in: the form in place would overwrite what it is given
        evaluate = Pointwise(lambda z: function(z.clone(), *args, **kwargs))
        _OTHERS[key] = Activation(name, lambda: evaluate, kinks=(0.0,), learned=learned)
    return _OTHERS[key]


def _is_default(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    defaults = DEFAULTS.get(name, {})
    given = {**dict(zip(defaults, args, strict=False)), **kwargs}
    return len(args) <= len(defaults) and all(defaults.get(k) == v for k, v in given.items())


def declared(module: nn.Module) -> Activation | None:
    """φ that a module of `Activation.fresh` says it is."""
    found = getattr(module, "declared_activation", None)
    return found if isinstance(found, Activation) else None


def of_module(module: nn.Module) -> Activation | None:
    """φ of an elementwise module of whatever kind; None for one that is not elementwise."""
    try:
        return activations.wrap(type(module).__name__, lambda: module)
    except UserError:
        return None

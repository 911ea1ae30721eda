"""Function modes: what a network computes by torch's functions, where no module shows it."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from isometry.layers.operations import (
    MAPS,
    NONLINEARITIES,
    NORMALIZATIONS,
    Map,
    argument,
    name_of,
    tensors_in,
)
from isometry.layers.spec import LayerSpec


def looked_into(function: Callable[..., Any]) -> Callable[..., Any]:
    """A composite function of `torch.nn.functional` whose own operations a mode sees.

    Such a function begins by handing itself to an active mode, which would call it again and again;
    in the copy that question is answered with no.
    """
    answers = {"has_torch_function": lambda tensors: False}
    names = {**function.__globals__, **answers}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


COMPOSITE = {F.multi_head_attention_forward: looked_into(F.multi_head_attention_forward)}


class Inside(TorchFunctionMode):
    """A function mode that can see what a composite function is made of."""

    def inside(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function under the mode itself, which is off while it handles a call."""
        TorchFunctionMode.__enter__(self)
        try:
            return function(*args, **kwargs)
        finally:
            TorchFunctionMode.__exit__(self, None, None, None)


class Listener(Protocol):
    """Who is told what functions compute.

    Attributes:
        layers: the layer map.
    """

    layers: list[LayerSpec]

    def see(self, spec: LayerSpec, x: Tensor, h: Tensor) -> None:
        """A layer has computed h from x."""

    def normalized(self, h: Any, z: Tensor) -> None:
        """Something has been normalized: a layer's h, maybe."""

    def activated(self, z: Any, a: Tensor) -> None:
        """A φ has been applied: to a layer's z, maybe."""


class Listening(Inside):
    """Sees maps, normalizations and nonlinearities that are called as functions.

    Args:
        listener: who is told.
    """

    def __init__(self, listener: Listener):
        super().__init__()
        self.listener = listener
        self._places: dict[Any, LayerSpec] = {}

    def __enter__(self) -> Listening:
        layers = [spec for spec in self.listener.layers if spec.site == "function"]
        # parameters may have got other memory since
        self._places = {_place(spec.weight, spec.map): spec for spec in layers if spec.view}
        super().__enter__()
        return self

    def __torch_function__(
        self, func: Any, kinds: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITE:
            return self.inside(COMPOSITE[func], args, kwargs)
        out = func(*args, **kwargs)
        name = name_of(func)
        if name in MAPS:
            self._see_map(MAPS[name], args, kwargs, out)
        elif name in NORMALIZATIONS and args:
            self.listener.normalized(args[0], out)
        elif name in NONLINEARITIES and args:
            self.listener.activated(args[0], out)
        return out

    def _see_map(self, how: Map, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        weight = argument(args, kwargs, how.weight, "weight")
        spec = None
        if isinstance(weight, Tensor) and weight.dim() > 1:
            whole = weight.transpose(0, 1) if how.transposed else weight
            spec = self._places.get(_place(whole, how.kind))
        if spec is not None:
            (x,) = tensors_in(argument(args, kwargs, how.data, "input"))
            self.listener.see(spec, x, out)


def _place(weight: Tensor, kind: str) -> tuple[int, int, tuple[int, ...], str]:
    storage = weight.untyped_storage().data_ptr()
    return storage, int(weight.storage_offset()), tuple(weight.shape), kind

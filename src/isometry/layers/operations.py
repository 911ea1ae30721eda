"""Which of torch's functions are weighted maps, normalizations, nonlinearities, or leave a signal
what it is; by the name under which a `TorchFunctionMode` sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Map:
    """A function that contracts data with a weight.

    Attributes:
        kind: the `map` of a layer.
        data, weight: positions of the two among the arguments.
        transposed: whether the weight is [in, out] instead of [out, in].
    """

    kind: str
    data: int = 0
    weight: int = 1
    transposed: bool = False


_PRODUCT = Map("linear", 0, 1, transposed=True)
_CONVOLUTION = Map("conv")
_TRANSPOSED = Map("conv_transpose", transposed=True)
_RECURRENT = Map("recurrent", 0, 2)

MAPS: dict[str, Map] = {
    "linear": Map("linear"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _CONVOLUTION),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _TRANSPOSED),
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), _PRODUCT),
    "addmm": Map("linear", 1, 2, transposed=True),
    "embedding": Map("embedding"),
    "embedding_bag": Map("embedding"),
    "bilinear": Map("bilinear", 0, 2),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _RECURRENT),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _RECURRENT),
}

FUSED = frozenset(name for name, how in MAPS.items() if how is _RECURRENT)
"""Maps whose kernels show neither h nor δ."""

NORMALIZATIONS = {
    "batch_norm": "batch",
    "layer_norm": "layer",
    "group_norm": "group",
    "instance_norm": "instance",
    "rms_norm": "rms",
}

NONLINEARITIES = frozenset(
    (
        *("relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "celu", "leaky_relu", "mish"),
        *("softplus", "softsign", "hardtanh", "relu6", "hardswish", "hardsigmoid", "erf", "atan"),
        *("sin", "prelu", "rrelu", "threshold", "logsigmoid", "tanhshrink", "softshrink"),
        *("hardshrink", "arctan"),
    )
)
"""Elementwise φ; a trailing underscore (in place) is taken off before a name is looked up."""

SAME_SIGNAL = frozenset(
    (
        *("view", "reshape", "flatten", "unflatten", "transpose", "permute", "contiguous", "t"),
        *("squeeze", "unsqueeze", "swapaxes", "movedim", "expand", "expand_as", "view_as", "roll"),
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"),
        *("to", "float", "half", "double", "bfloat16", "type", "type_as", "clone", "identity"),
        *("chunk", "split", "unbind", "select", "narrow", "__getitem__"),
    )
)
"""What only lays out, casts, thins or cuts a signal: what comes behind is still the layer's."""

DROPOUTS = frozenset(name for name in SAME_SIGNAL if "dropout" in name)
"""Of these, what thins, unless its probability is 0."""

SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__", "sub", "__sub__"})
"""Where a bias may be added by hand, or a residual branch ends."""

NOT_COMPUTED = frozenset(
    (
        *("size", "dim", "__len__", "numel", "stride", "data_ptr", "is_contiguous"),
        *("is_floating_point", "requires_grad_", "register_hook", "__setitem__"),
    )
)
"""Questions to a tensor: no node of the graph."""


def name_of(function: Callable[..., Any]) -> str:
    """The name of a torch function, without the underscore of its form in place; `identity` for a
    property (`tensor.T`, say).
    """
    name = getattr(function, "__name__", str(function))
    if name == "__get__":
        return "identity"
    return name if name.startswith("__") else name.rstrip("_")


def argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str
) -> Any | None:
    """An argument by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name)


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of nested lists, tuples and mappings, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for branch in tree for tensor in tensors_in(branch)]

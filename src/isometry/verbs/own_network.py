"""`isometry diagnose my.module:factory input=8,3,224,224`: a network that has no config."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from isometry.errors import UserError, bad_value
from isometry.initialization.observe import observe
from isometry.layers.discover import layers_of, refuse_scripts, remember
from isometry.layers.operations import tensors_in
from isometry.layers.spec import LayerSpec
from isometry.theory.propagation import Prediction

NO_PREDICTION = "a network's own weights: no initializer of isometry's says how they were drawn"


@dataclass
class OwnNetwork:
    """A network as its author's function makes it.

    Attributes:
        network: with its layer map.
        inputs: what its forward pass takes, a batch.
        loss: of what it returns.
        loss_name: in words.
    """

    network: nn.Module
    inputs: tuple[Any, ...]
    loss: Callable[[Any, Any], Tensor]
    loss_name: str

    @property
    def layers(self) -> list[LayerSpec]:
        return layers_of(self.network)

    def measure(self) -> dict[str, NDArray[np.float64]]:
        """Every column of the network as it is, [L] each."""
        with told("network", f"{type(self.network).__name__} in float64"):
            return observe(self.network, [(self.inputs, None)], self.loss).columns

    def prediction(self) -> Prediction:
        """Nothing, and why."""
        nothing = np.full(len(self.layers), np.nan)
        return Prediction(nothing, nothing, nothing, None, NO_PREDICTION)


def build_own(name: str, shape: list[int] | None, vocabulary: int | None, seed: int) -> OwnNetwork:
    """Call somebody's function.

    Args:
        name: `module:function`; the function returns a module, or a module and its inputs.
        shape: of the inputs, where it returns none; the first number counts the examples.
        vocabulary: inputs are whole numbers below it; None: N(0, 1).
        seed: of the weights and the inputs.

    Raises:
        UserError: where there is no such function, it raises, or its network does not run.
    """
    function = _find(name)
    torch.manual_seed(seed)
    made = _call(name, function)
    network, *inputs = made if isinstance(made, tuple) else (made,)
    if not isinstance(network, nn.Module):
        raise bad_value("network", name, f"must return a torch module, not {type(made).__name__}")
    refuse_scripts(network)
    arguments = tuple(inputs) or (_drawn(shape, vocabulary),)
    seen: list[Any] = []
    handle = network.register_forward_hook(lambda module, args, out: seen.append(out))
    with told("input", " and ".join(str(list(x.shape)) for x in tensors_in(arguments))):
        remember(network, *arguments)
    handle.remove()
    return OwnNetwork(network, arguments, *_loss_of(seen[-1]))


def _find(name: str) -> Any:
    module, _, function = name.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module) or not function or module.endswith(".py"):
        raise bad_value("network", name, "must be module:function, e.g. my.module:factory")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise bad_value("network", name, f"{error}; looked in this folder, too") from error
    finally:
        sys.path.pop(0)
    if not hasattr(found, function):
        raise bad_value("network", name, f"{module} has no {function}")
    return getattr(found, function)


def _call(name: str, function: Any) -> Any:
    if isinstance(function, nn.Module):
        return function
    with told("network", name):
        return function()


class told:
    """What somebody's code raises inside of the block is told in one message.

    Args:
        key: of the command line.
        value: what was asked for.
    """

    def __init__(self, key: str, value: str):
        self.key = key
        self.value = value

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            words = str(error).splitlines()[0] if str(error) else ""
            text = f"{type(error).__name__}: {words}{_place(trace)}"
            raise bad_value(self.key, self.value, text) from error


def _place(trace: Any) -> str:
    """The last line of the author's own code, if there is one."""
    theirs = [
        frame
        for frame in traceback.extract_tb(trace)
        if not re.search(r"site-packages|isometry|importlib", frame.filename)
    ]
    return f" ({os.path.basename(theirs[-1].filename)}:{theirs[-1].lineno})" if theirs else ""


def _drawn(shape: list[int] | None, vocabulary: int | None) -> Tensor:
    if shape is None:
        words = "say what goes in, examples first: input=8,3,224,224"
        raise bad_value("input", "null", words)
    if vocabulary is not None:
        return torch.randint(vocabulary, tuple(shape))
    return torch.randn(*shape)


def _loss_of(out: Any) -> tuple[Callable[[Any, Any], Tensor], str]:
    """Cross-entropy with random labels for logits [B, C], a random direction for everything else:
    the gradient of white noise, with which every output counts alike.
    """
    first = _first(out)
    if first.dim() == 2 and first.shape[1] > 1:
        labels = torch.randint(first.shape[1], (len(first),))
        return lambda out, _: F.cross_entropy(_first(out), labels), "cross-entropy, random labels"
    noise = torch.randn(first.shape, dtype=torch.float64)
    shown = f"a random direction of the output {list(first.shape)}"
    return lambda out, _: (_first(out) * noise).sum() / len(first), shown


def _first(out: Any) -> Tensor:
    found = [tensor for tensor in tensors_in(out) if tensor.is_floating_point()]
    if not found:
        raise UserError("network: its forward pass returns no tensor of floating-point numbers")
    return found[0]

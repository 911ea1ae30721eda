"""The layer map of any module, from one ordinary forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from isometry.errors import UserError
from isometry.layers.graph import describe
from isometry.layers.spec import LayerSpec
from isometry.layers.tracker import Tracker
from isometry.layers.why import explain


def layer_map(module: nn.Module, *inputs: Any, **named: Any) -> list[LayerSpec]:
    """The weighted maps of a module in forward order, with what stands around them.

    The module is run once, in the mode it is in and without gradients; its buffers (running
    statistics) and the random state stay what they are.

    Args:
        module: any network.
        inputs, named: what its forward pass takes.

    Raises:
        UserError: where there is no weighted map.
    """
    with torch.no_grad(), untouched(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training's own pass gives them; some are of no_grad
        layers, _ = discover(module, lambda: module(*inputs, **named))
    return layers


def discover(module: nn.Module, run: Callable[[], Any]) -> tuple[list[LayerSpec], Any]:
    """The layer map from a forward pass that is made anyway, and what `run` returns.

    Raises:
        UserError: where there is no weighted map.
    """
    with eagerly(module), Tracker(module) as tracker:
        out = run()
    describe(tracker.nodes, tracker.nodes_of(out))
    if not tracker.layers:
        raise UserError(f"{type(module).__name__}: its forward pass applies no weight: no layer")
    explain(tracker.layers)
    return tracker.layers, out


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """A forward pass inside of the block leaves buffers and random numbers as they were."""
    before = [buffer.clone() for buffer in module.buffers()]
    devices = {p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)):
        yield
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)


@contextmanager
def eagerly(module: nn.Module) -> Iterator[None]:
    """Compiled parts of a module run as they are written: a compiled graph shows nothing."""
    if not is_compiled(module):  # asking torch for it costs a second, once
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def refuse_scripts(model: nn.Module) -> None:
    """
    Raises:
        UserError: for a part that no hook sees into.
    """
    for path, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            name = f"{type(model).__name__}.{path}" if path else type(model).__name__
            raise UserError(
                f"isometry: {name} is a ScriptModule, which no hook sees into; train the module "
                "that it was made of"
            )


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` has been asked for the module or a part of it."""
    return any(_is_compiled(part) for part in module.modules())


def _is_compiled(part: nn.Module) -> bool:
    """By `torch.compile(part)`, by `part.compile()`, or, as Lightning takes a compiled module to
    pieces, by the context it keeps. None of the three has a public sign.
    """
    wrapped = type(part).__name__ == "OptimizedModule"
    kept = (getattr(part, name, None) for name in ("_compiled_call_impl", "_compiler_ctx"))
    return wrapped or any(each is not None for each in kept)


def remember(module: nn.Module, *inputs: Any) -> list[LayerSpec]:
    """`layer_map`, kept with the module: what an initializer declares of a layer stays known."""
    module.layer_specs = layer_map(module, *inputs)  # type: ignore[assignment]
    return layers_of(module)


def layers_of(module: nn.Module) -> list[LayerSpec]:
    """The layer map that `remember` has kept."""
    found: Any = module.layer_specs
    return list(found)

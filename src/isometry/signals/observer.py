"""Shows what every layer of a network computes, through hooks that live for one forward pass.

Where a module shows it, a hook on the module does: h as the output of the map's module, z and a as
what goes into and comes out of φ's. What only a function shows (attention's projections, an
`F.relu`) a function mode sees, which is on while the network runs. δ comes by a hook on h itself:
right also where φ overwrites h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isometry.layers.discover import eagerly, is_compiled, layer_map
from isometry.layers.function_modes import Listening
from isometry.layers.operations import argument, tensors_in
from isometry.layers.recurrent import Gate, Recurrence, why_hidden
from isometry.layers.spec import LayerSpec

Gates = Sequence[tuple[Gate, Tensor, Tensor | None]]
"""Gates, h of each, and δ (None without a gradient), [T, B, H]."""


class Sink:
    """What is done with the tensors: nothing, unless a subclass does something. Each is to be
    looked at now, it may be overwritten next.

    Attributes:
        wants_deltas: whether it is to be shown δ.
    """

    wants_deltas = True

    def preactivation(self, layer: LayerSpec, x: Tensor, h: Tensor) -> None:
        """The input and the preactivation of a layer, at each of its uses."""

    def argument(self, layer: LayerSpec, z: Tensor) -> None:
        """What φ will be applied to: h, or h normalized; what becomes of it follows in
        `activation`, or nothing does.
        """

    def activation(self, layer: LayerSpec, a: Tensor) -> None:
        """φ(z); z itself of a layer without φ."""

    def delta(self, layer: LayerSpec, gradient: Tensor) -> None:
        """The gradient with respect to h, in the scale of the loss that was differentiated."""

    def recurrent(self, layer: LayerSpec, gates: Gates) -> None:
        """The gates of a recurrent layer, when the backward pass is over; at each of its uses."""


class Observer:
    """Shows the layers of a network to a sink.

    Args:
        root: the network, or what calls several of them (a LightningModule).
        layers: where they are known.

    Attributes:
        layers: found at the first call of each network; numbered in the order of these calls.
        compiled: whether a part of it is; it then runs eagerly where somebody looks.
    """

    def __init__(self, root: nn.Module, layers: Sequence[LayerSpec] | None = None):
        self.root = root
        self.layers = list(layers or ())
        self._known = layers is not None
        self._parts = [
            root,
            *(m for m in root.children() if next(m.parameters(), None) is not None),
        ]
        self._found: set[nn.Module] = set()
        self._handles: list[RemovableHandle] = []
        self._sink: Sink | None = None
        self._running: list[nn.Module] = []  # parts, each inside of the one before
        self._backward = False  # calls from now on are repetitions of checkpointed ones
        self._without_gradient: set[LayerSpec] = set()
        self._pending: dict[int, tuple[Tensor, LayerSpec]] = {}  # by the id of h, then of z
        self._recurrences: list[tuple[LayerSpec, Recurrence]] = []
        self._mode: Listening | None = None
        self._eager: ExitStack | None = None
        self.compiled = is_compiled(root)

    # ---- life of the hooks -----------------------------------------------------------------------

    def open(self, sink: Sink, called_with: tuple[Any, Any] | None = None) -> None:
        """Show what the next forward pass computes.

        Args:
            sink: to whom.
            called_with: positional and named arguments, where the root's call has begun already: in
                a pre-hook that opens, torch does not call the ones added there.
        """
        self.close()
        self._sink = sink
        self._eager = ExitStack()
        if self.compiled:
            self._eager.enter_context(eagerly(self.root))
        for part in self._parts:
            self._handles.append(part.register_forward_pre_hook(self._enter, with_kwargs=True))
            leave = part.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            self._handles.append(leave)
        self._attach(self.layers)
        if called_with is not None:
            self._enter(self.root, *called_with)

    def forward_continues(self) -> None:
        """The network is called once more for the same loss."""
        self._backward = False

    def backward_begins(self) -> None:
        """The forward pass is over: what is called from now on is called again."""
        self._backward = True
        self._pending = {}
        self._run_as_before()

    def backward_ended(self) -> None:
        """What the recurrent layers have computed is computed again, where it shows."""
        for spec, call in self._recurrences:
            if self._sink is not None:
                self._sink.recurrent(spec, call.gates())
        self._recurrences = []

    def _run_as_before(self) -> None:
        if self._eager is not None:
            self._eager.close()
            self._eager = None

    def close(self) -> None:
        """Take the hooks off; the network is as nobody had looked at it."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._backward = False
        self._without_gradient = set()
        self._pending = {}
        self._recurrences = []
        self._running = []
        self._sink = None
        self._run_as_before()

    def _enter(self, part: nn.Module, args: Any, kwargs: Any = None) -> None:
        begun = self._running[-1:] == [part]  # torch goes on with a call's hooks as they were
        if self._sink is None or begun or self._is_redirected(part):
            return
        self._running.append(part)
        if len(self._running) > 1:
            return
        if not self._known and part not in self._found and not self._backward:
            self._find(part, args, kwargs)
        if self._mode is not None:
            self._mode.__enter__()

    def _leave(self, part: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if self._sink is None or self._running[-1:] != [part]:
            return
        self._running.pop()
        if not self._running and self._mode is not None:
            self._mode.__exit__(None, None, None)

    def _is_redirected(self, part: nn.Module) -> bool:
        """Whether the call is not of the root's own forward pass: under DDP Lightning sends the
        training step through it.
        """
        own = getattr(part.forward, "__func__", None) is type(part).forward
        return part is self.root and not own and not self.compiled

    def _find(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        """The layers of a network that is called for the first time, by a dry run."""
        self._found.add(part)
        with self._paused():
            found = layer_map(part, *args, **kwargs)
        known = {frozenset(map(id, spec.weights)) for spec in self.layers}
        new = [spec for spec in found if frozenset(map(id, spec.weights)) not in known]
        path = next(path for path, module in self.root.named_modules() if module is part)
        for spec in self.layers:
            spec.kind = "hidden"
        for index, spec in enumerate(new, start=len(self.layers) + 1):
            spec.index = index
            spec.name = f"{path}.{spec.name}" if path else spec.name
        self.layers.extend(new)
        self._attach(new)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Calls inside of the block are nobody's."""
        sink = self._sink
        self._sink = None
        try:
            yield
        finally:
            self._sink = sink

    # ---- hooks -----------------------------------------------------------------------------------

    def _attach(self, layers: Sequence[LayerSpec]) -> None:
        for spec in layers:
            if spec.site == "module" and spec.module is not None:
                hook = functools.partial(self._mapped, spec)
                self._handles.append(spec.module.register_forward_hook(hook, with_kwargs=True))
            if spec.site == "fused" and spec.module is not None:
                recurred = functools.partial(self._recurred, spec)
                self._handles.append(spec.module.register_forward_hook(recurred, with_kwargs=True))
        norms = _distinct(spec.norm_module for spec in layers if spec.shows_norm)
        phis = _distinct(spec.act_module for spec in layers if spec.shows_phi)
        for see, modules in ((self.normalized, norms), (self.activated, phis)):
            for module in modules:
                self._handles.append(module.register_forward_hook(_of_first(see)))
        if any(spec.needs_mode for spec in self.layers):
            self._mode = Listening(self)

    def _mapped(self, spec: LayerSpec, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        x = args[0] if args and isinstance(args[0], Tensor) else tensors_in((args, kwargs))[0]
        self.see(spec, x, out if isinstance(out, Tensor) else tensors_in(out)[0])

    def _recurred(self, spec: LayerSpec, module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        if self._sink is None or self._backward:
            return None
        x = argument(args, kwargs, 0, "input")
        if isinstance(module, nn.LSTMCell):
            # inside of the cell c goes into h, too: from outside comes what the views get
            out = tuple(result.view_as(result) for result in out)
        results = tensors_in(out)
        if not self._sink.wants_deltas:
            self._sink.preactivation(spec, results[0], results[0])
        elif why_hidden(module, x) is None:
            self._unroll_later(
                spec, module, x, tensors_in(argument(args, kwargs, 1, "hx")), results
            )
        return out

    def _unroll_later(
        self, spec: LayerSpec, module: Any, x: Any, state: list[Tensor], results: list[Tensor]
    ) -> None:
        assert self._sink is not None
        self._sink.activation(spec, results[0])
        call = Recurrence(module, x, tuple(state) or None)
        self._recurrences.append((spec, call))
        for k, result in enumerate(results):
            if result.requires_grad:
                self._handles.append(result.register_hook(functools.partial(call.receive, k)))

    def see(self, spec: LayerSpec, x: Tensor, h: Tensor) -> None:
        """A layer has computed."""
        if self._sink is None:
            return
        if not self._backward:
            self._sink.preactivation(spec, x, h)
            if spec.normalization == "none":
                self._expect_phi(spec, h)
            else:
                self._expect(spec, h, more=True)
            if not h.requires_grad:
                self._without_gradient.add(spec)
        # a reentrant checkpoint computes without gradients first
        again = self._backward and spec not in self._without_gradient
        if self._sink.wants_deltas and h.requires_grad and not again:
            # taken off in the end: h holds its hook, and a sink may keep h
            handle = h.register_hook(functools.partial(self._sink.delta, spec))
            self._handles.append(handle)

    def _expect(self, spec: LayerSpec, tensor: Tensor, more: bool) -> None:
        """Wait for what is applied to a tensor next; without more to come it is a."""
        assert self._sink is not None
        if more:
            self._pending[id(tensor)] = (tensor, spec)
        else:
            self._sink.activation(spec, tensor)

    def _expect_phi(self, spec: LayerSpec, z: Tensor) -> None:
        """z is there: looked at now, φ may overwrite it."""
        assert self._sink is not None
        if spec.activation is not None:
            self._sink.argument(spec, z)
        self._expect(spec, z, spec.activation is not None)

    def awaited(self, tensor: Any) -> LayerSpec | None:
        """The layer whose h or z a tensor is, once."""
        if self._sink is None or self._backward:
            return None
        return self._pending.pop(id(tensor), (None, None))[1]

    def normalized(self, h: Any, z: Tensor) -> None:
        """Something has been normalized: a layer's h, maybe."""
        spec = self.awaited(h)
        if spec is not None:
            self._expect_phi(spec, z)

    def activated(self, z: Any, a: Tensor) -> None:
        """A φ has been applied: to a layer's z, maybe."""
        spec = self.awaited(z)
        if spec is not None and self._sink is not None:
            self._sink.activation(spec, a)


def _of_first(see: Callable[[Any, Tensor], None]) -> Callable[[nn.Module, Any, Tensor], None]:
    """A forward hook that shows a module's first argument and what it makes of it."""
    return lambda module, args, out: see(args[0] if args else None, out)


def _distinct(modules: Iterator[nn.Module | None]) -> list[nn.Module]:
    return [module for module in dict.fromkeys(modules) if module is not None]

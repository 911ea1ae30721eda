"""Watches one forward pass, however it calls torch: as modules, functions or operators.

A layer is an operation that contracts data with something made of parameters alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from isometry.layers import phi
from isometry.layers.function_modes import COMPOSITE, Inside
from isometry.layers.graph import INPUT, Node
from isometry.layers.operations import (
    DROPOUTS,
    FUSED,
    MAPS,
    NONLINEARITIES,
    NORMALIZATIONS,
    NOT_COMPUTED,
    SAME_SIGNAL,
    SUMS,
    Map,
    argument,
    name_of,
    tensors_in,
)
from isometry.layers.spec import LayerSpec, View


class Call:
    """A module whose forward pass runs.

    Attributes:
        module: it.
        inputs: nodes of what it was given.
        begins: index of the first node of its own.
    """

    def __init__(self, module: nn.Module, inputs: list[Node], begins: int):
        self.module = module
        self.inputs = inputs
        self.begins = begins


class Tracker(Inside):
    """`with Tracker(module) as tracker: module(*inputs)`; what was found is then in `nodes` and
    `layers`.

    Args:
        root: the network; its parameters are the parameters.

    Attributes:
        nodes: every operation on the signal, in order.
        layers: in the order of their first use.
    """

    def __init__(self, root: nn.Module):
        super().__init__()
        self.root = root
        self.nodes: list[Node] = []
        self._found: dict[Any, LayerSpec] = {}
        self._paths = {module: path for path, module in root.named_modules()}
        self._names = {id(p): name for name, p in root.named_parameters()}
        self._parameters = {id(p): p for p in root.parameters()}
        self._node: Any = WeakTensorKeyDictionary()  # of a tensor of the signal
        self._behind: Any = WeakTensorKeyDictionary()  # of a computed weight: ids of parameters
        self._calls: list[Call] = []
        self._sizes: set[int] = set()  # of the root's inputs: one of them counts examples
        self._handles: list[RemovableHandle] = []
        self._paused = False

    @property
    def layers(self) -> list[LayerSpec]:
        return list(self._found.values())

    def nodes_of(self, tree: Any) -> list[Node]:
        """The nodes of all tensors of a nested structure that belong to the signal."""
        found = [self._node.get(tensor) for tensor in tensors_in(tree)]
        return [node for node in found if node is not None]

    # ---- modules ---------------------------------------------------------------------------------

    def __enter__(self) -> Tracker:
        for module in self.root.modules():
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            leave = module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            self._handles.append(leave)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        super().__exit__(*error)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._paused:
            return
        if module is self.root and not self._calls:
            self._begin(tensors_in((args, kwargs)))
        self._calls.append(Call(module, self.nodes_of((args, kwargs)), len(self.nodes)))

    def _begin(self, inputs: list[Tensor]) -> None:
        for tensor in inputs:
            self._sizes.update(tensor.shape)
            if tensor not in self._node:
                self._add(Node(INPUT, []), [tensor])

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if self._paused or not self._calls or self._calls[-1].module is not module:
            return
        call = self._calls.pop()
        results = tensors_in(out)
        if results and call.inputs:
            self._is_opaque(call, results)
            self._is_phi(call, tensors_in((args, kwargs)), results)
            self._is_norm(call, results)
        self._shows_its_map(call, results)

    def _is_opaque(self, call: Call, results: list[Tensor]) -> None:
        """A custom autograd Function, say: what comes out was computed from what went in."""
        if results[0] not in self._node:
            self._add(Node("opaque", call.inputs, module=call.module), results)

    def _is_phi(self, call: Call, inputs: list[Tensor], results: list[Tensor]) -> None:
        found = phi.declared(call.module)
        if found is None and self._may_be_phi(call, inputs, results):
            with self._pause():
                found = phi.of_module(call.module)
        if found is not None:
            self._stands_for(call, results, Node("phi", [], activation=found, module=call.module))

    def _may_be_phi(self, call: Call, inputs: list[Tensor], results: list[Tensor]) -> bool:
        """An elementwise module that is made of other operations than one φ of torch's own."""
        own = self.nodes[call.begins :]
        if not own or own[-1].activation is not None:
            return False
        leaf = next(call.module.children(), None) is None
        plain = next(call.module.parameters(), None) is None
        alike = len(inputs) == len(results) == 1 and inputs[0].shape == results[0].shape
        computes = any(node.operation not in SAME_SIGNAL for node in own)
        other = any(node.normalization or node.layer for node in own)
        return leaf and plain and alike and computes and not other

    def _is_norm(self, call: Call, results: list[Tensor]) -> None:
        """A normalization that is written out, by what its class says of itself or is called."""
        own = self.nodes[call.begins :]
        kind = getattr(call.module, "normalizes", None) or _norm_of(type(call.module).__name__)
        if kind is not None and not any(node.normalization or node.layer for node in own):
            self._stands_for(
                call, results, Node("norm", [], normalization=kind, module=call.module)
            )

    def _stands_for(self, call: Call, results: list[Tensor], node: Node) -> None:
        """A module wins over what it calls."""
        for own in self.nodes[call.begins :]:
            for parent in own.parents:
                parent.children.remove(own)
        del self.nodes[call.begins :]
        node.read(call.inputs[:1])
        self._add(node, results)

    def _shows_its_map(self, call: Call, results: list[Tensor]) -> None:
        """Whether a forward hook on the module sees h: its one map's result is what it returns."""
        own = [node for node in self.nodes[call.begins :] if node.layer is not None]
        if len(own) != 1 or own[0].module is not call.module or not results:
            return
        node = self._node.get(results[0])
        layer = own[0].layer
        seen = node is not None and node.origin is own[0]
        if seen and layer is not None and layer.site == "function":
            layer.site = "module"

    # ---- operations ------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Any,
        kinds: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITE:
            return self.inside(COMPOSITE[func], args, kwargs)
        given = self._given(args, kwargs)
        out = func(*args, **kwargs)
        if not self._paused:
            self._note(func, args, kwargs, given, out)
        return out

    def _given(self, args: Any, kwargs: Any) -> tuple[list[Node], set[int]]:
        """Of the tensors of a call, the nodes of those that belong to the signal and the parameters
        behind the others; before it runs: in place, its argument gets another node.
        """
        inputs = tensors_in((args, kwargs))
        return self.nodes_of(inputs), set().union(*map(self._parameters_of, inputs))

    def _parameters_of(self, tensor: Any) -> set[int]:
        """Of a parameter itself, and of what was computed from parameters alone."""
        if not isinstance(tensor, Tensor):
            return set().union(*map(self._parameters_of, tensors_in(tensor)))
        if id(tensor) in self._parameters:
            return {id(tensor)}
        found: set[int] = self._behind.get(tensor) or set()
        return found

    def _note(self, func: Any, args: Any, kwargs: Any, given: Any, out: Any) -> None:
        nodes, parameters = given
        name = name_of(func)
        results = [tensor for tensor in tensors_in(out) if tensor.is_floating_point()]
        if not results or name in NOT_COMPUTED:
            return
        if name in MAPS and parameters and self._map(name, args, kwargs, nodes, results):
            return
        if nodes:
            self._add(self._node_of(func, name, args, kwargs, given), results)
        else:
            self._computed(results, parameters)

    def _computed(self, results: list[Tensor], parameters: set[int]) -> None:
        for tensor in results:
            if parameters and id(tensor) not in self._parameters:
                self._behind[tensor] = parameters

    def _node_of(self, func: Any, name: str, args: Any, kwargs: Any, given: Any) -> Node:
        nodes, parameters = given
        node = Node(name, nodes, normalization=NORMALIZATIONS.get(name), module=self._module)
        node.drops = name in DROPOUTS and bool(argument(args, kwargs, 1, "p"))
        if name in SUMS:
            node.biases = [added for added in self._named(parameters) if added.dim() == 1]
        if name in NONLINEARITIES:
            more = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
            flags = [value for value in args[1:] if not isinstance(value, bool)]
            node.activation = phi.of_call(name, func, flags, more)
        return node

    @property
    def _module(self) -> nn.Module | None:
        return self._calls[-1].module if self._calls else None

    def _add(self, node: Node, results: list[Tensor]) -> None:
        self.nodes.append(node)
        for tensor in results:
            self._node[tensor] = node

    def _map(
        self, name: str, args: Any, kwargs: Any, nodes: list[Node], results: list[Tensor]
    ) -> bool:
        """Note a weighted map; False where the parameters are not its weight."""
        how = MAPS[name]
        weight = argument(args, kwargs, how.weight, "weight")
        if name.endswith("_cell"):
            weight = args[2:4]
        elif name in FUSED:  # one place further on for packed sequences
            weight = next((given for given in args if isinstance(given, list)), None)
        behind = self._parameters_of(weight)
        if not behind:
            return False
        layer = self._layer(how, name, weight, behind, self._biases(args, kwargs, behind))
        layer.uses += 1
        data = tensors_in(argument(args, kwargs, how.data, "input"))[0]
        layer.by_position |= data.dim() != 2 or data.shape[0] not in self._sizes
        self._add(Node(name, nodes, layer=layer, module=self._module), results)
        return True

    def _biases(self, args: Any, kwargs: Any, behind: set[int]) -> set[int]:
        return self._parameters_of([tensors_in((args, kwargs))]) - behind

    def _layer(
        self, how: Map, name: str, weight: Any, behind: set[int], biases: set[int]
    ) -> LayerSpec:
        place = weight.storage_offset() if isinstance(weight, Tensor) else None
        key = (frozenset(behind), place, how.kind, self._module)
        if key not in self._found:
            every = self._named(behind)
            # a fused kernel is handed weights and biases in one list
            weights = [parameter for parameter in every if parameter.dim() > 1] or every
            rest = self._named(biases | {id(p) for p in every} - {id(w) for w in weights})
            layer = LayerSpec(len(self._found) + 1, self._path(weights), how.kind, weights, rest)
            layer.module = self._module
            layer.site = "fused" if name in FUSED else "function"
            layer.groups = getattr(self._module, "groups", 1) if "conv" in how.kind else 1
            if isinstance(weight, Tensor) and weight.dim() > 1:
                shape = weight.transpose(0, 1).shape if how.transposed else weight.shape
                layer.size = tuple(shape)
                layer.view = View.of(weight, weights, how.transposed)
                layer.packed = _packed(self._module, weights, layer.size)
            self._found[key] = layer
        return self._found[key]

    def _named(self, ids: set[int]) -> list[nn.Parameter]:
        return [parameter for i, parameter in self._parameters.items() if i in ids]

    def _path(self, weights: list[nn.Parameter]) -> str:
        """The path of the module whose weight it is; `weighted` is what `blocks.Layer` calls it."""
        names = [self._names[id(weight)].split(".") for weight in weights]
        own = None if self._module is None else self._paths.get(self._module)
        *path, last = names[0]
        if len(names) == 1 and last != "weight":
            path = [*path, last.removesuffix("_weight")]
        full = own if len(names) > 1 and own is not None else ".".join(path)
        return full.replace("_orig_mod.", "").removesuffix(".weighted") or type(self.root).__name__

    @contextlib.contextmanager
    def _pause(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


def _packed(module: nn.Module | None, weights: list[nn.Parameter], size: tuple[int, ...]) -> int:
    """How many of attention's projections stand in a weight."""
    attention = isinstance(module, nn.MultiheadAttention)
    if not attention or weights[0] is not module.in_proj_weight:  # type: ignore[union-attr]
        return 1
    return size[0] // int(module.embed_dim)  # type: ignore[union-attr, arg-type]


def _norm_of(name: str) -> str | None:
    """The kind of normalization that a class's name says."""
    lower = name.lower()
    if "rmsnorm" in lower:
        return "rms"
    return "layer" if "layernorm" in lower else None

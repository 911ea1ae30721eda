"""What a forward pass computed, as a graph of operations, and what that says of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from isometry.activations import Activation
from isometry.layers.operations import SAME_SIGNAL, SUMS
from isometry.layers.spec import LayerSpec

PRIME = (1 << 61) - 1
"""Numbers of paths are kept modulo a prime: a deep residual network has 2^depth of them."""


INPUT = "input"
"""The operation of what the network was given."""


@dataclass(eq=False)
class Node:
    """One operation on the signal.

    Attributes:
        operation: its name.
        parents: what it was computed from, parameters left out.
        layer: of a weighted map.
        activation: of a nonlinearity.
        normalization: its kind, of a normalization.
        module: the innermost module whose forward pass ran.
        biases: parameters that a sum adds, a number a unit.
        children: what was computed from it.
        signal: whether it depends on the network's input or on a layer.
        drops: whether it drops units.
        described: whether a layer says it: as its bias, normalization or φ.
    """

    operation: str
    parents: list[Node]
    layer: LayerSpec | None = None
    activation: Activation | None = None
    normalization: str | None = None
    module: nn.Module | None = None
    biases: list[nn.Parameter] = field(default_factory=list)
    children: list[Node] = field(default_factory=list, repr=False)
    signal: bool = False
    drops: bool = False
    described: bool = False

    def __post_init__(self) -> None:
        self.signal = self.layer is not None or self.operation == INPUT
        parents, self.parents = self.parents, []
        self.read(parents)

    def read(self, nodes: Sequence[Node]) -> None:
        """Note what it is computed from."""
        for node in nodes:
            self.parents.append(node)
            node.children.append(self)
            self.signal |= node.signal

    @property
    def origin(self) -> Node:
        """The operation whose result this is, but for its layout."""
        node = self
        while node.operation in SAME_SIGNAL and len(node.parents) == 1:
            (node,) = node.parents
        return node

    @property
    def argument(self) -> Node | None:
        """`origin` of the one signal that goes in; None where there is none, or several."""
        signals = [parent for parent in self.parents if parent.signal]
        return signals[0].origin if len(signals) == 1 else None


def layer_of(node: Node | None) -> LayerSpec | None:
    """The layer whose h a node is, a bias that was added by hand included; None where h goes
    elsewhere, too: what follows is then not φ of the layer, but a part of something larger.
    """
    while node is not None and node.layer is None and node.operation in SUMS:
        node = node.argument if _readers(node) == 1 else None
    return None if node is None or _readers(node) > 1 else node.layer


def _readers(node: Node) -> int:
    """How many operations compute with the result of one, whatever its layout."""
    return sum(_readers(child) if child.operation in SAME_SIGNAL else 1 for child in node.children)


def describe(nodes: Sequence[Node], outputs: Iterable[Node]) -> None:
    """Complete the layers of a graph: normalization, φ, readout, residual branch."""
    for node in nodes:
        if node.biases:
            _adds_a_bias(node)
        elif node.normalization is not None:
            _normalizes(node)
        elif node.activation is not None:
            _activates(node)
    others = frozenset(_name_of(node) for node in nodes if _is_other(node))
    for node in nodes:
        if node.layer is not None:
            node.layer.others = others
    _find_readouts(nodes)
    _find_branches([node for node in nodes if node.signal], set(outputs))


def _is_other(node: Node) -> bool:
    """Whether an operation changes the signal and is described by no layer."""
    own = node.operation == "pad" and isinstance(node.module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    plain = node.operation in SAME_SIGNAL or node.operation == INPUT or own
    described = node.layer is not None or node.described or plain
    return node.signal and (node.drops or not described)


def _name_of(node: Node) -> str:
    return node.operation if node.activation is None else node.activation.name


def _adds_a_bias(node: Node) -> None:
    layer = layer_of(node.argument)
    if layer is not None and not layer.biases:
        layer.biases = node.biases
        node.described = True


def _normalizes(node: Node) -> None:
    layer = layer_of(node.argument)
    if layer is not None and layer.normalization == "none":
        layer.normalization = str(node.normalization)
        layer.norm_module = node.module
        node.described = True


def _activates(node: Node) -> None:
    argument = node.argument
    if argument is not None and argument.normalization is not None and _readers(argument) == 1:
        argument = argument.argument
    layer = layer_of(argument)
    if layer is not None and layer.activation is None:
        layer.activation = node.activation
        layer.act_module = node.module
        node.described = True


def _find_readouts(nodes: Sequence[Node]) -> None:
    """Layers below which no other one comes."""
    above: set[int] = set()
    for node in reversed(nodes):
        if node.layer is not None:
            node.layer.kind = "hidden" if id(node) in above else "readout"
        if node.layer is not None or id(node) in above:
            above |= {id(parent) for parent in node.parents}


def _find_branches(signal: Sequence[Node], outputs: set[Node]) -> None:
    """A layer stands on the trunk if all paths from the input to the output lead through it; the
    others between two nodes of the trunk are one residual branch.
    """
    ends = outputs & set(signal) or {node for node in signal if not node.children}
    down, up = _paths(signal, ends)
    total = sum(up[node] for node in ends) % PRIME
    branch = 0
    on_trunk = True
    for node in signal:
        if not down[node]:
            continue
        before = on_trunk
        on_trunk = up[node] * down[node] % PRIME == total
        branch += before and not on_trunk
        if node.layer is not None:
            node.layer.branch = None if on_trunk else branch


def _paths(signal: Sequence[Node], ends: set[Node]) -> tuple[dict[Node, Any], dict[Node, Any]]:
    """Number of paths from each node to the ends, and from the input to each node."""
    up: dict[Node, int] = {}
    for node in signal:
        parents = [parent for parent in node.parents if parent.signal]
        up[node] = sum(up[parent] for parent in parents) % PRIME if parents else 1
    down: dict[Node, int] = {}
    for node in reversed(signal):
        below = sum(down[child] for child in node.children if child.signal)
        down[node] = (below + (node in ends)) % PRIME
    return down, up

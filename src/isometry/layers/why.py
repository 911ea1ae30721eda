"""Why a statistic of a layer is null, whatever the step.

Where φ saturates is computed here, before any layer runs inside of a checkpoint: by autograd.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from isometry.layers.recurrent import why_hidden
from isometry.layers.spec import LayerSpec

INSIDE = ("preactivation_mean", "preactivation_var", "forward_second_moment", "backprop_norm")
"""Columns that h and δ are needed for."""


def explain(layers: Sequence[LayerSpec]) -> None:
    """Fill in `why` of each layer: by column, the reason."""
    mixed = any(spec.normalization == "batch" for spec in layers)
    owners = Counter(id(weight) for spec in layers for weight in spec.weights)
    for spec in layers:
        tied = any(owners[id(weight)] > 1 for weight in spec.weights)
        spec.why = dict(_reasons(spec, mixed, tied))


def _reasons(spec: LayerSpec, mixed: bool, tied: bool) -> Iterator[tuple[str, str]]:
    hidden = why_hidden(spec.module) if spec.map == "recurrent" else None
    if hidden is not None:
        yield from dict.fromkeys(INSIDE, hidden).items()
    sample = _no_sample(spec, mixed, tied)
    if sample is not None:
        yield "sample_weight_grad_rms", sample
    saturation = hidden or _no_saturation(spec)
    if saturation is not None:
        yield "saturation", saturation
    if not spec.biases:
        yield "bias_grad_norm", "no bias"
    if spec.kind == "readout":
        yield "dead", "a readout has no dead units"


def _no_sample(spec: LayerSpec, mixed: bool, tied: bool) -> str | None:
    """Where ‖δ_i‖‖x_i‖ is not the gradient of one example: of one outer product."""
    if spec.map != "linear":
        return f"{spec.map}: an example's gradient is a sum of outer products"
    if spec.by_position:
        return "applied by position: an example's gradient is a sum of outer products"
    if mixed:
        return "batch norm: examples interact"
    if spec.frozen:
        return "the weight is frozen"
    return "the weight is used more than once" if tied or spec.uses > 1 else None


def _no_saturation(spec: LayerSpec) -> str | None:
    phi = spec.activation
    if spec.map == "recurrent":
        return None
    if phi is None:
        return "no φ acts on this layer alone"
    if phi.learned:
        return f"{phi.name}: φ' is learned"
    return None if phi.saturates else f"{phi.name}: φ' is unbounded"

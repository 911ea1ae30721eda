"""A plain float64 account of every column, written out from the definitions and from nothing of
`isometry.signals`.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from builders import map_of


def forward(network, x):
    """Preactivations, arguments of φ and activations of every layer, and the logits, keeping the
    graph.
    """
    h_all = []
    z_all = []
    a_all = []
    inputs = []
    x = x.flatten(1) if isinstance(network.layers[0].weighted, nn.Linear) else x
    for layer in network.layers:
        if isinstance(layer.weighted, nn.Linear) and x.dim() == 4:
            x = x.mean((2, 3))
        inputs.append(x)
        h = layer.weighted(x)
        h.retain_grad()
        z = h if layer.normalization is None else layer.normalization(h)
        x = z if layer.activation is None else layer.activation(z)
        h_all.append(h)
        z_all.append(z)
        a_all.append(x)
    return inputs, h_all, z_all, a_all, x


def columns(network, x, labels):
    """Per layer a dict of the columns that need no optimizer step; `network` and `x` in float64."""
    network.zero_grad()
    inputs, h_all, z_all, a_all, logits = forward(network, x)
    F.cross_entropy(logits, labels).backward()
    batch = len(labels)
    rows = []
    for spec, v, h, z, a in zip(map_of(network), inputs, h_all, z_all, a_all, strict=True):
        delta = (h.grad * batch).flatten(1)  # of the summed loss
        (weight,) = spec.weights
        bias = spec.bias
        row = {
            "weight_norm": weight.norm(),
            "weight_grad_norm": weight.grad.norm(),
            "bias_grad_norm": None if bias is None else bias.grad.norm(),
            "backprop_norm": delta.square().sum(1).mean().sqrt(),
            "preactivation_mean": h.mean(),
            "preactivation_var": h.var(correction=0),
            "forward_second_moment": h.square().mean(),
            "activation_mean": a.mean(),
            "activation_var": a.var(correction=0),
            "nonfinite": torch.zeros(()),
        }
        if spec.map == "linear" and not any(s.normalization == "batch" for s in map_of(network)):
            row["sample_weight_grad_rms"] = (
                torch.stack([torch.outer(d, i).norm() ** 2 for d, i in zip(delta, v, strict=True)])
                .mean()
                .sqrt()
            )
        if spec.activation is not None:
            slope = torch.from_numpy(spec.activation.phi_prime(z.detach().numpy())).abs()
            row["saturation"] = (slope < 0.05 * spec.activation.slope_max).double().mean()
            units = a.transpose(0, 1).flatten(1)
            row["dead"] = (units == 0).all(1).double().mean()
        rows.append(
            {key: None if value is None else float(value.detach()) for key, value in row.items()}
        )
    return rows


def close(value: float, expected: float, rel: float) -> bool:
    """Equal to a relative tolerance, inf and nan included."""
    if math.isnan(expected) or math.isinf(expected):
        return repr(value) == repr(expected)
    return math.isclose(value, expected, rel_tol=rel, abs_tol=1e-300)

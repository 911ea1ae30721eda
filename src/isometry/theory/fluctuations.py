"""How far one finite network lies from the expectation over networks, layer by layer.

With fan-in weights, given the layer below, the units h_{l,j} are independent N(0, q_l). Three
averages over n of them fluctuate (g: the Gaussian gradient from above):

    ε_l   of φ(h)²       with n times the variance    E φ⁴/(E φ²)² - 1
    η_l   of φ'(h)² g²                                3 E φ'⁴/(E φ'²)² - 1
    ζ_l   of h²                                       2

and everything is linear in them to first order:

    d log q_{l+1} = a_l (k_l d log q_l + ε_l)
    log ‖δ_l‖² = log ‖δ_{l+1}‖² + log χ(q_l) + s_l d log q_l + η_l

with a = 1 - σ_b²/q_{l+1}, k = d log E φ²/d log q and s = d log E φ'²/d log q. The mean of a
logarithm lies under the logarithm of the mean by half of each variance: for relu -2.5/n a layer,
with variance 5/n (Hanin & Rolnick 2018, theorem 5).

Orthogonal weights keep ‖W x‖ and ‖Wᵀ δ‖: the parts of ε, η along h² and g² vanish (all of them for
a linear network).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isometry.theory.moments import Moments, MomentTable

Array = NDArray[np.float64]


class Layer(Protocol):
    """What of a `LayerRecord` is read here."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def normalization(self) -> str: ...
    @property
    def sigma_w(self) -> float: ...
    @property
    def sigma_b(self) -> float: ...
    @property
    def distribution(self) -> str: ...


@dataclass(frozen=True)
class Fluctuations:
    """Of the natural logarithms of q_l, ‖δ_l‖² (relative to the last hidden layer) and per-example
    ‖∂ℓ/∂W_l‖²; [L] each.

    Attributes:
        q_shift, delta_shift, sample_shift: mean over networks minus the logarithm of the
            expectation.
        q_std, delta_std, sample_std: standard deviation over networks.
        rate_std: standard deviation of the mean increment of log ‖δ‖ (not squared) over the hidden
            layers.
    """

    q_shift: Array
    q_std: Array
    delta_shift: Array
    delta_std: Array
    sample_shift: Array
    sample_std: Array
    rate_std: float


def fluctuations(
    layers: Sequence[Layer], tables: Sequence[MomentTable | None], log_q: Sequence[float]
) -> Fluctuations:
    """First order in 1/width, for one example; averaging over a batch only narrows it.

    Args:
        layers: a fully connected network without batch norm, the readout last.
        tables: moments of each layer's φ.
        log_q: log of the expected q_l.
    """
    count = len(layers)
    # noises, three of each layer: ε, η, ζ; a logarithm is a row of coefficients
    length = np.zeros((count, 3 * count))  # of log q_l, as the next layer feels it
    shift = np.zeros(count)  # its mean
    outputs = np.zeros((count, 3 * count))  # of log E φ(h_l)², the average over the layer's units
    output_shift = np.zeros(count)
    # of log ‖δ_l‖²/‖δ_{i+1}‖²
    step = np.zeros((count, 3 * count))
    step_shift = np.zeros(count)
    covariance = np.zeros((count, 3, 3))
    for i, (layer, table) in enumerate(zip(layers, tables, strict=True)):
        if i > 0:
            share = _share_of_weights(layer, log_q[i])
            length[i] = share * outputs[i - 1]
            spread = outputs[i - 1] @ _apply(covariance, outputs[i - 1])
            shift[i] = share * output_shift[i - 1] + 0.5 * share * (1 - share) * spread
        if table is None:
            continue
        normalized = layer.normalization != "none"
        above = layers[i + 1] if i + 1 < count else layer
        moments = table.at(0.0 if normalized else log_q[i])
        covariance[i] = _covariance(moments, layer, above, log_q[i], normalized)
        k = 0.0 if normalized else 0.5 * (float(moments.tilt) - 1)
        s = 0.0 if normalized else 0.5 * (float(moments.slope_tilt) - 1)
        outputs[i] = k * length[i]
        step[i] = s * length[i]
        outputs[i, 3 * i] += 1
        step[i, 3 * i + 1] += 1
        output_shift[i] = k * shift[i] - 0.5 * covariance[i, 0, 0]
        step_shift[i] = s * shift[i] - 0.5 * covariance[i, 1, 1]
        if normalized:  # δ is divided by the realized mean of h²
            step[i] -= length[i]
            step[i, 3 * i + 2] -= 1
            step_shift[i] -= shift[i] - 0.5 * covariance[i, 2, 2]
    last = max(0, count - 2)
    delta = np.zeros((count, 3 * count))
    delta_shift = np.zeros(count)
    for i in range(last - 1, -1, -1):
        delta[i] = delta[i + 1] + step[i]
        delta_shift[i] = delta_shift[i + 1] + step_shift[i]
    for i in range(last + 1, count):
        delta[i] = delta[i - 1] - step[i - 1]
        delta_shift[i] = delta_shift[i - 1] - step_shift[i - 1]
    inputs = np.vstack([np.zeros((1, 3 * count)), outputs[:-1]])
    own = length.copy()
    # the mean of h² over the layer's own units
    own[np.arange(count), 3 * np.arange(count) + 2] += 1
    readout = np.array(
        [
            _own_units(layer) if table is None else 0.0
            for layer, table in zip(layers, tables, strict=True)
        ]
    )
    return Fluctuations(
        shift - 0.5 * covariance[:, 2, 2] - 0.5 * readout,
        np.sqrt(_variances(own, covariance) + readout),
        delta_shift,
        np.sqrt(_variances(delta, covariance)),
        delta_shift + np.append(0.0, output_shift[:-1]),
        np.sqrt(_variances(delta + inputs, covariance)),
        0.5 * float(np.sqrt(_variances(delta[:1], covariance))[0]) / last if last else math.nan,
    )


def _own_units(layer: Layer) -> float:
    return 2.0 / layer.outputs


def _share_of_weights(layer: Layer, log_q: float) -> float:
    """1 - σ_b²/q: how much of q comes through the weights."""
    return (
        1.0 if layer.sigma_b == 0 else max(0.0, 1 - math.exp(2 * math.log(layer.sigma_b) - log_q))
    )


def _covariance(m: Moments, layer: Layer, above: Layer, log_q: float, normalized: bool) -> Array:
    """Covariances of ε, η, ζ of one layer.

    Args:
        m: moments of φ at this layer.
        layer, above: this layer and the next one, whose Wᵀ carries the gradient.
        log_q: log of the expected q of this layer.
        normalized: whether z is held at length √n by a normalization.
    """
    kept = _isometric(layer.inputs, layer.outputs) if layer.distribution == "orthogonal" else 0.0
    forward = kept * _share_of_weights(layer, log_q) ** 2
    held = 1.0 if normalized else forward
    along = 1.0 * (
        _isometric(above.outputs, above.inputs) if above.distribution == "orthogonal" else 0.0
    )
    output = float(m.tilt) - 1
    slope = float(m.slope_tilt) - 1
    epsilon = float(m.kurtosis) - 1 - 0.5 * held * output**2
    eta = 3 * float(m.slope_kurtosis) - 1 - 2 * along - 0.5 * held * slope**2
    cross = float(m.cross) - 1 - 0.5 * held * output * slope
    if layer.normalization == "layer":  # which holds the mean of z, too
        lean = float(m.lean)
        slope_lean = float(m.slope_lean)
        epsilon = epsilon - lean**2
        eta = eta - slope_lean**2
        cross = cross - lean * slope_lean
    zeta = 2 * (1 - forward)
    with_epsilon, with_eta = (
        (1 - held) * value if not normalized else 0.0 for value in (output, slope)
    )
    return (
        np.array(
            [[epsilon, cross, with_epsilon], [cross, eta, with_eta], [with_epsilon, with_eta, zeta]]
        )
        / layer.outputs
    )


def _isometric(inputs: int, outputs: int) -> float:
    """How much of the fluctuation of ‖W x‖² an orthogonal map removes: all where it embeds, a share
    where it projects.
    """
    return min(1.0, outputs / inputs)


def _apply(covariance: Array, row: Array) -> Array:
    """The block-diagonal covariance times a row of coefficients."""
    result: Array = np.einsum("lij,lj->li", covariance, row.reshape(-1, 3)).ravel()
    return result


def _variances(rows: Array, covariance: Array) -> Array:
    """Variance of each row of coefficients."""
    blocks = rows.reshape(len(rows), -1, 3)
    result: Array = np.einsum("rli,lij,rlj->r", blocks, covariance, blocks)
    return np.maximum(result, 0.0)

"""Networks drawn by the declared scales, where no expansion in 1/width holds: what q and ‖δ‖² of
fully connected networks are, and how far one of them lies from the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import t as student

from isometry.theory.fluctuations import Fluctuations
from isometry.theory.propagation import LayerRecord as Layer
from isometry.theory.propagation import Prediction

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Natural logarithms in each network, [networks, L].

    Attributes:
        log_q: of the mean of h² over examples and units.
        log_delta: of the mean over examples of ‖δ‖², relative to the last hidden layer's.
        log_sample: of the mean over examples of ‖∂ℓ/∂W‖², relative to ‖δ‖² of the last hidden
            layer; nan under batch norm, where it does not exist.
    """

    log_q: Array
    log_delta: Array
    log_sample: Array


def draw(layers: Sequence[Layer], inputs: Array, networks: int, seed: int = 0) -> Ensemble:
    """Draw networks and pass a batch forward, and the gradient of cross-entropy with labels at
    random back.

    Args:
        layers: fully connected, the readout last.
        inputs: [batches, examples, units]; batch norm's statistics are those of one batch.
    """
    rng = np.random.default_rng(seed)
    found = [_one(layers, inputs, rng) for _ in range(networks)]
    return Ensemble(*(np.stack([each[k] for each in found]) for k in range(3)))


@dataclass
class _Passed:
    """What the backward pass needs of one layer."""

    weight: Array
    log_size: Array  # of the inputs' ‖x‖² by example
    z: Array
    scale: Array | float  # that z was divided by


def can_be_drawn(layers: Sequence[Layer], batch: int) -> bool:
    """Whether all is fully connected, and batch norm has enough examples."""
    known = ("none", *AXES)
    plain = all(
        layer.convolution is None and layer.normalization in known and layer.inputs
        for layer in layers
    )
    enough = batch >= 5 or not any(layer.normalization == "batch" for layer in layers)
    return plain and enough and len(layers) > 1


def operations(layers: Sequence[Layer], inputs: Array) -> float:
    """Of one network, forward and backward."""
    examples = inputs.shape[0] * inputs.shape[1]
    return float(sum(4 * examples * layer.inputs * layer.outputs for layer in layers))


def by_drawing(layers: Sequence[Layer], inputs: Array, networks: int) -> Prediction | None:
    """Means and standard deviations of the logarithms over drawn networks; None where one of them
    overflows. The deviations are those with which mean ± 1.96 of them is Student's interval for
    another network.
    """
    drawn = draw(layers, inputs, networks)
    if not (np.isfinite(drawn.log_q).all() and np.isfinite(drawn.log_delta).all()):
        return None
    q = drawn.log_q
    delta = drawn.log_delta
    sample = drawn.log_sample
    std_q, std_delta, std_sample = (_spread(x) for x in (q, delta, sample))
    hidden = len(layers) - 1
    rate_std = 0.5 * float(std_delta[0]) / (hidden - 1) if hidden > 1 else math.nan
    none = np.zeros(len(layers))
    spread = Fluctuations(none, std_q, none, std_delta, none, std_sample, rate_std)
    reason = NO_SAMPLES if np.isnan(sample).any() else None
    return Prediction(q.mean(0), delta.mean(0), sample.mean(0), spread, reason, networks)


def _spread(values: Array) -> Array:
    """Standard deviation, widened by what so few networks leave open of it and of the mean."""
    count = len(values)
    quantile = student.ppf(0.975, count - 1) / 1.96 * math.sqrt(1 + 1 / count)
    result: Array = quantile * values.std(0, ddof=1)
    return result


NO_SAMPLES = "batch norm: per-example weight gradients do not exist"


def _one(
    layers: Sequence[Layer], inputs: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """log q, log ‖δ‖² and log ‖∂ℓ/∂W‖² of one network."""
    x = inputs
    log_q = []
    passed = []
    with np.errstate(all="ignore"):  # what overflows is nan in the end, and nothing is predicted
        for layer in layers:
            weight = _weight(layer, rng)
            h = x @ weight.T + layer.sigma_b * rng.standard_normal(layer.outputs)
            log_q.append(float(np.log(np.mean(h**2))))
            z, scale = _normalized(h, layer)
            passed.append(_Passed(weight, np.log(np.sum(x**2, -1)), z, scale))
            x = z if layer.activation is None else layer.activation.phi(z)
        error = _error(x, rng)
        log_delta, log_sample = _backward(layers, passed, error)
    last = max(len(layers) - 2, 0)
    return np.array(log_q), log_delta - log_delta[last], log_sample - log_delta[last]


def _weight(layer: Layer, rng: np.random.Generator) -> Array:
    """[outputs, inputs], of variance σ_w²/fan-in."""
    shape = (layer.outputs, layer.inputs)
    if layer.distribution != "orthogonal":
        return layer.sigma_w / math.sqrt(layer.inputs) * rng.standard_normal(shape)
    long, short = max(shape), min(shape)
    q, r = np.linalg.qr(rng.standard_normal((long, short)))
    q = q * np.sign(np.diag(r))  # uniform over the orthogonal matrices (Mezzadri 2007)
    gain = layer.sigma_w * math.sqrt(long / layer.inputs)
    result: Array = gain * (q if layer.outputs == long else q.T)
    return result


AXES = {"batch": -2, "layer": -1, "rms": -1}
"""Over which a normalization averages."""


def _normalized(h: Array, layer: Layer) -> tuple[Array, Array | float]:
    """z, and what h was divided by."""
    if layer.normalization == "none":
        return h, 1.0
    axis = AXES[layer.normalization]
    if layer.normalization != "rms":
        h = h - h.mean(axis, keepdims=True)
    scale = np.sqrt(np.mean(h**2, axis, keepdims=True) + layer.epsilon)
    return h / scale, scale


def _error(logits: Array, rng: np.random.Generator) -> Array:
    """∂ℓ/∂logits of the summed cross-entropy, labels at random."""
    error = softmax(logits, axis=-1)
    labels = rng.integers(logits.shape[-1], size=logits.shape[:-1])
    return error - np.eye(logits.shape[-1])[labels]


def _backward(
    layers: Sequence[Layer], passed: Sequence[_Passed], error: Array
) -> tuple[Array, Array]:
    """Logarithms by layer; δ is kept near 1 on the way, so that none underflows."""
    log_delta = np.zeros(len(layers))
    log_sample = np.full(len(layers), np.nan)
    mixed = any(layer.normalization == "batch" for layer in layers)
    delta = error
    size = 0.0
    for i in range(len(layers) - 1, -1, -1):
        if i < len(layers) - 1:
            delta = _through(layers[i], passed[i], delta @ passed[i + 1].weight)
        by_example = np.sum(delta**2, -1)
        log_delta[i] = size + np.log(by_example.mean())
        if not mixed:
            log_sample[i] = size + _log_mean(np.log(by_example) + passed[i].log_size)
        root = math.sqrt(by_example.mean())
        size += 2 * math.log(root) if root > 0 else 0.0
        delta = delta / root
    return log_delta, log_sample


def _through(layer: Layer, passed: _Passed, arriving: Array) -> Array:
    """From the gradient at φ(z) to the one at h."""
    g = arriving if layer.activation is None else arriving * layer.activation.phi_prime(passed.z)
    if layer.normalization == "none":
        return g
    axis = AXES[layer.normalization]
    along = np.mean(g * passed.z, axis, keepdims=True)
    if layer.normalization != "rms":
        g = g - g.mean(axis, keepdims=True)
    result: Array = (g - passed.z * along) / passed.scale
    return result


def _log_mean(logs: Array) -> float:
    return float(np.logaddexp.reduce(logs.ravel()) - math.log(logs.size))

"""What every layer of a given network shows at initialization, at finite depth and width, before a
number is drawn.

Forward, per example and position (Poole et al. 2016, eq. 3): q_l = σ_w² ⟨E φ(h_{l-1})²⟩ + σ_b², the
bracket over the patch that a convolution reads. Backward (Schoenholz et al. 2017, eq. 5): E‖δ_l‖² =
σ_{w,l+1}² E φ'(h_l)² E‖δ_{l+1}‖², up to one common factor. Everything is a logarithm: depth 1000 at
rate 0.25 is 10^-602, and says so.

One network is not the expectation (Hanin & Rolnick 2018): log ‖δ‖² is a sum over layers of
independent fluctuations of order 1/width, so its mean lies under log E‖δ‖². `Fluctuations` carries
each logarithm as a linear function of the layers' noises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isometry.theory.batch_norm import batch_norm_limit
from isometry.theory.fluctuations import Fluctuations, fluctuations
from isometry.theory.meanfield import Nonlinearity
from isometry.theory.moments import MomentTable, moments_of
from isometry.theory.pairs import Batch

Array = NDArray[np.float64]

GAUSSIAN_LIKE = ("gaussian", "uniform", "truncated", "orthogonal", "delta_orthogonal")
"""Distributions for which h is Gaussian in a wide network; the others have no mean-field result."""


NORMALIZATIONS = ("none", "batch", "layer", "rms")


CONVOLUTIONS = (
    "convolutions: no result for fluctuations over networks, nor for a readout behind a pooling"
)
"""Why a network with convolutions has no band."""


@dataclass(frozen=True)
class LayerRecord:
    """One layer, as plain numbers.

    Attributes:
        index, name, kind: as in the layer map.
        inputs, outputs: units (channels of a convolution).
        activation: φ, None for the readout.
        normalization: `none`, `batch`, `layer` or `rms`.
        sigma_w, sigma_b: what the initializer declared.
        distribution: its shape.
        convolution: None for a linear map, else (kernel size, stride, padding mode).
        branch: residual branch, None outside of one.
        epsilon: what a normalization adds to the variance.
        others: what else the network does to the signal, by the names of the operations.
    """

    index: int
    name: str
    kind: str
    inputs: int
    outputs: int
    activation: Nonlinearity | None
    normalization: str
    sigma_w: float
    sigma_b: float
    distribution: str
    convolution: tuple[int, int, str] | None = None
    branch: int | None = None
    epsilon: float = 0.0
    others: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Prediction:
    """Natural logarithms by layer, [L] each; nan where the theory has no result.

    Attributes:
        log_q: of E q_l, averaged over examples (and positions).
        log_delta: of E‖δ_l‖², relative to the last hidden layer.
        log_sample: of E‖∂ℓ/∂W_l‖² per example, relative to ‖δ‖² of the last hidden layer.
        fluctuations: mean shifts and standard deviations of the logarithms over networks, None
            without a result.
        reason: why something is nan, None if nothing is.
        networks: how many were drawn (`theory.ensemble`), so that the logarithms are those of a
            typical network and the shifts 0; 0 for mean-field theory.
    """

    log_q: Array
    log_delta: Array
    log_sample: Array
    fluctuations: Fluctuations | None
    reason: str | None
    networks: int = 0


def predict(
    layers: Sequence[LayerRecord], inputs: Array, batch: int, measured: Batch | None = None
) -> Prediction:
    """Predict a network from its layers and its inputs.

    Args:
        layers: in forward order, the readout last.
        inputs: mean square of the input units of each example, [examples, height, width] (1 x 1 for
            linear networks).
        batch: examples that batch norm sees.
        measured: the examples over which q and ‖δ‖² are averaged; None: one example.
    """
    reason = obstacle(layers)
    nothing = np.full(len(layers), np.nan)
    if reason is not None:
        return Prediction(nothing, nothing, nothing, None, reason)
    tables = _tables(layers)
    if any(layer.normalization == "batch" for layer in layers):
        return _with_batch_norm(layers, tables, inputs, batch)
    with np.errstate(invalid="ignore"):  # what is not known is nan, and stays so
        return _example_by_example(layers, tables, inputs, measured or Batch.of_one())


def obstacle(layers: Sequence[LayerRecord]) -> str | None:
    """Why the theory has nothing to say, None if it has."""
    for layer in layers:
        if layer.distribution not in GAUSSIAN_LIKE:
            return f"{layer.name}: no mean-field result for {layer.distribution} weights"
        if layer.normalization not in NORMALIZATIONS:
            return f"{layer.name}: no mean-field result for {layer.normalization} norm"
        if layer.branch is not None:
            return f"{layer.name}: residual branches are not predicted yet"
        if layer.convolution is not None and layer.normalization == "batch":
            return f"{layer.name}: batch norm over correlated positions has no closed result"
        if (
            layer.convolution is not None
            and layer.convolution[2] != "circular"
            and layer.normalization != "none"
        ):
            return f"{layer.name}: zero padding makes positions unequal under normalization"
    others = frozenset().union(*(layer.others for layer in layers)) - AVERAGES
    return f"{', '.join(sorted(others))}: no mean-field result here" if others else None


AVERAGES = frozenset({"mean", "adaptive_avg_pool2d"})
"""What may stand between convolutions and readout."""


def _tables(layers: Sequence[LayerRecord]) -> list[MomentTable | None]:
    """The table of moments of each layer's φ."""
    return [None if layer.activation is None else moments_of(layer.activation) for layer in layers]


# ---- no normalization, layer norm, RMS norm: each example by itself ------------------------------


@dataclass
class _Forward:
    """Of one layer: log q [examples, H, W], the same of φ's argument z, and log E φ², log E φ'²."""

    log_q: Array
    log_z: Array
    log_p: Array
    log_slope: Array


def _example_by_example(
    layers: Sequence[LayerRecord],
    tables: Sequence[MomentTable | None],
    inputs: Array,
    measured: Batch,
) -> Prediction:
    with np.errstate(divide="ignore"):
        log_p = np.log(inputs)
    states: list[_Forward] = []
    log_sizes = []  # log of ‖x_{l-1}‖² [examples]
    for layer, table in zip(layers, tables, strict=True):
        if layer.convolution is None and log_p.shape[1:] != (1, 1):
            # a mean over positions depends on how they correlate
            log_p = np.full((len(log_p), 1, 1), np.nan)
        log_sizes.append(math.log(layer.inputs) + _log_sum(log_p))
        log_q = np.logaddexp(
            2 * _log(layer.sigma_w) + _patches(log_p, layer), 2 * _log(layer.sigma_b)
        )
        log_z = log_q - _log_divisor(layer, log_q) + math.log(_centred(layer, log_q))
        moments = None if table is None else table.at(log_z)
        log_p = log_z if moments is None else moments.log_p
        states.append(
            _Forward(
                log_q, log_z, log_p, np.zeros_like(log_z) if moments is None else moments.log_slope
            )
        )
    log_delta = _backward(layers, states)
    log_sample = log_delta + np.stack(log_sizes)
    last = len(layers) - 2 if len(layers) > 1 else 0
    anchor = _mean_of(log_delta[last])
    nothing = np.full(len(layers), np.nan)
    log_q = np.array([_mean_of(_log_mean(state.log_q)) for state in states])
    deltas = np.array([_mean_of(row) for row in log_delta]) - anchor
    samples = np.array([_mean_of(row) for row in log_sample]) - anchor
    if any(layer.convolution is not None for layer in layers):
        return Prediction(log_q, deltas, nothing, None, CONVOLUTIONS)
    middle = [float(np.median(state.log_q)) for state in states]
    share = outlier(layers, tables, middle, deltas)
    deltas = deltas + np.log1p(share)
    samples = samples + np.log1p(share)
    if share.max() > SMALL:
        return Prediction(log_q, deltas, samples, None, OUTLIER)
    if any(
        _epsilon_share(layer, q) > SMALL_EPSILON for layer, q in zip(layers, middle, strict=True)
    ):
        return Prediction(log_q, deltas, samples, None, EPSILON)
    found = fluctuations(layers, tables, middle, measured)
    if abs(second_order(layers, tables, middle, found.q_std)) > SMALL * found.delta_std[0]:
        return Prediction(log_q, deltas, samples, None, SENSITIVE)
    return Prediction(log_q, deltas, samples, found, None)


SMALL = 0.1
OUTLIER = (
    "much of the gradient points along the activations themselves, which change their length from "
    "layer to layer: no result for its fluctuations over networks"
)


SENSITIVE = (
    "the length of the activations differs so much between networks that their gradients differ in "
    "kind: no result for the fluctuations over networks"
)
EPSILON = (
    "a normalization's ε is not small against the variance that it is added to: no result for the "
    "fluctuations over networks"
)
SMALL_EPSILON = 1e-3
STEP = 0.05


def second_order(
    layers: Sequence[LayerRecord],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    q_std: Array,
) -> float:
    """What the first order of log ‖δ_1‖² leaves out: half of the curvature of log χ(q) times the
    variance of log q, summed over the hidden layers. (A kink in χ(q), or an unstable q*, makes it
    large.)
    """
    total = 0.0
    for layer, table, q, std in list(zip(layers, tables, log_q, q_std, strict=True))[:-2]:
        if table is not None and layer.normalization == "none":
            up, down = (float(table.at(q + step).slope_tilt) for step in (STEP, -STEP))
            total += 0.5 * float(std) ** 2 * 0.5 * (up - down) / (2 * STEP)
    return total


def outlier(
    layers: Sequence[LayerRecord],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    log_delta: Array,
) -> Array:
    """What the one direction along the activations adds to ‖δ_l‖², as a share of it, [L].

    A direction at random gains Π χ. That of h_l itself changes the length of all layers behind it:
    (q_l/q_L) Π (dq'/dq)², which may be far more, and is Π χ for relu and linear networks, where all
    directions are alike. One of n is that one.
    """
    share = np.zeros(len(layers))
    growth = 0.0
    for i in range(len(layers) - 3, -1, -1):
        table = tables[i]
        if table is None or layers[i].normalization != "none":
            return share
        above = layers[i + 1]
        through = 1 - above.sigma_b**2 * math.exp(min(-log_q[i + 1], 700.0))
        slope = 0.5 * (float(table.at(log_q[i]).tilt) - 1) * through
        growth += 2 * math.log(max(abs(slope), 1e-300)) + log_q[i + 1] - log_q[i]
        share[i] = math.expm1(min(growth - log_delta[i], 700.0)) / layers[i].outputs
    return share


def _backward(layers: Sequence[LayerRecord], states: Sequence[_Forward]) -> Array:
    """log E‖δ_l‖² [L, examples], the readout's (or, behind a pooling, the last hidden layer's
    uniform) gradient at 1.
    """
    result = np.zeros((len(layers), len(states[0].log_q)))
    top = len(layers) - 1
    log_map = np.zeros((len(states[0].log_q), 1, 1))  # of δ at each position, summed over channels
    if any(layer.convolution is not None for layer in layers):
        result[top] = np.nan
        top = top - 1
        log_map = np.broadcast_to(-math.log(states[top].log_q[0].size), states[top].log_q.shape)
        log_map = log_map + _through(layers[top], states[top])
        result[top] = _log_sum(log_map)
    for i in range(top - 1, -1, -1):
        above = layers[i + 1]
        here = states[i]
        arriving = 2 * _log(above.sigma_w) + _spread(log_map, above, here.log_q.shape)
        log_map = arriving + _through(layers[i], here)
        result[i] = _log_sum(log_map)
    return result


def _through(layer: LayerRecord, state: _Forward) -> Array:
    """log of the factor from the gradient at a = φ(z) to the one at h, by position: E φ'², and what
    the normalization does.

    A layer's norm divides by s, s² the variance of h (for RMS its mean square) plus ε, and takes
    away what points along the ones, and r(2 - r) of what points along z, r = 1 - ε/s².
    """
    if layer.normalization == "none":
        return state.log_slope
    log_divisor = _log_divisor(layer, state.log_q)
    centred = _centred(layer, state.log_q)
    r = centred * np.exp(_log_mean(state.log_q)[:, None, None] - log_divisor)
    along_ones = 1.0 if layer.normalization == "layer" else 0.0
    lost = (along_ones + r * (2 - r)) / _units(layer, state.log_q)
    result: Array = state.log_slope - log_divisor + np.log(np.maximum(1 - lost, 1e-300))
    return result


def _units(layer: LayerRecord, log_q: Array) -> int:
    return layer.outputs * int(log_q[0].size)


def _centred(layer: LayerRecord, log_q: Array) -> float:
    """What a mean over units leaves of the mean square."""
    if layer.normalization != "layer":
        return 1.0
    return max(1 - 1 / _units(layer, log_q), 1e-300)


def _log_divisor(layer: LayerRecord, log_q: Array) -> Array | float:
    """log of s², by which a layer's norm divides h²; [examples, 1, 1]."""
    if layer.normalization == "none":
        return 0.0
    variance = _log_mean(log_q)[:, None, None] + math.log(_centred(layer, log_q))
    result: Array = np.logaddexp(variance, _log(layer.epsilon))
    return result


def _epsilon_share(layer: LayerRecord, log_q: float) -> float:
    """ε as a share of what a layer's norm divides by."""
    if layer.normalization == "none" or layer.epsilon == 0:
        return 0.0
    return layer.epsilon / (layer.epsilon + math.exp(min(log_q, 700.0)))


def _patches(log_p: Array, layer: LayerRecord) -> Array:
    """log of the mean of exp(log_p) over what each output position reads."""
    if layer.convolution is None:
        return log_p
    kernel, stride, padding = layer.convolution
    if layer.distribution == "delta_orthogonal":
        return log_p[:, ::stride, ::stride]
    shifted = [_shift(log_p, dy, dx, padding) for dy in _taps(kernel) for dx in _taps(kernel)]
    mean: Array = np.logaddexp.reduce(shifted, axis=0) - 2 * math.log(kernel)
    return mean[:, ::stride, ::stride]


def _spread(log_map: Array, layer: LayerRecord, shape: tuple[int, ...]) -> Array:
    """The transpose of `_patches`: log of what arrives at each input position."""
    if layer.convolution is None:
        return np.broadcast_to(log_map, shape)
    kernel, stride, padding = layer.convolution
    full = np.full(shape, -np.inf)
    full[:, ::stride, ::stride] = log_map
    if layer.distribution == "delta_orthogonal":
        return full
    shifted = [_shift(full, dy, dx, padding) for dy in _taps(kernel) for dx in _taps(kernel)]
    arriving: Array = np.logaddexp.reduce(shifted, axis=0) - 2 * math.log(kernel)
    return arriving


def _taps(kernel: int) -> range:
    return range(-(kernel // 2), kernel // 2 + 1)


def _shift(values: Array, dy: int, dx: int, padding: str) -> Array:
    """values[y + dy, x + dx]; beyond the border the other side (circular) or nothing."""
    rolled = np.roll(values, (-dy, -dx), axis=(1, 2))
    if padding == "circular":
        return rolled
    height, width = values.shape[1:]
    rows = np.arange(height) + dy
    columns = np.arange(width) + dx
    outside = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))[None]
    return np.where(outside, -np.inf, rolled)


# ---- batch norm ----------------------------------------------------------------------------------


def _with_batch_norm(
    layers: Sequence[LayerRecord], tables: Sequence[MomentTable | None], inputs: Array, batch: int
) -> Prediction:
    """Batch norm makes E φ(z)² the same behind every layer, and the gradient grow by one factor
    between hidden layers.
    """
    nothing = np.full(len(layers), np.nan)
    activation = layers[0].activation
    if activation is None or len(layers) < 2:
        return Prediction(nothing, nothing, nothing, None, "batch norm needs a hidden layer")
    if batch < 5:
        return Prediction(
            nothing,
            nothing,
            nothing,
            None,
            f"batch norm over {batch} examples: no finite expectation",
        )
    if any(layer.normalization != "batch" for layer in layers[:-1]):
        words = "batch norm in some layers only, of a network too large to draw others like it"
        return Prediction(nothing, nothing, nothing, None, words)
    limit = batch_norm_limit(activation, batch)
    smallest = min(layer.sigma_w for layer in layers) ** 2 * limit.spread
    if max(layer.epsilon for layer in layers) > SMALL_EPSILON * smallest:
        return Prediction(nothing, nothing, nothing, None, EPSILON)
    log_q = np.array([_log_length(layer, limit.second_moment) for layer in layers])
    log_q[0] = float(
        np.logaddexp(
            2 * _log(layers[0].sigma_w) + math.log(inputs.mean()), 2 * _log(layers[0].sigma_b)
        )
    )
    hidden = len(layers) - 1
    log_delta = math.log(limit.growth) * np.arange(hidden - 1, -1, -1, dtype=np.float64)
    reason = (
        "batch norm: per-example weight gradients do not exist; no result for the fluctuations "
        "over networks"
    )
    return Prediction(log_q, np.append(log_delta, np.nan), nothing, None, reason)


def _log_length(layer: LayerRecord, second_moment: float) -> float:
    return math.log(max(layer.sigma_w**2 * second_moment + layer.sigma_b**2, 1e-300))


# ---- logarithms of sums and means ----------------------------------------------------------------


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _log_sum(maps: Array) -> Array:
    """log Σ exp over positions, [examples, H, W] -> [examples]."""
    result: Array = np.logaddexp.reduce(maps.reshape(len(maps), -1), axis=1)
    return result


def _log_mean(maps: Array) -> Array:
    return _log_sum(maps) - math.log(maps[0].size)


def _mean_of(logs: Array) -> float:
    """log of the mean of exp over examples."""
    return float(np.logaddexp.reduce(logs) - math.log(len(logs)))

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

Of two examples the covariances of their noises stand in the place of the variances: of E φ_a² φ_b²,
of E φ'_a² φ'_b² (1 + 2 ρ²) with ρ the correlation of their gradients, of 2 c² (`theory.pairs`); an
average over a batch follows from both.

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

from isometry.theory.hermite import PairMoments, at, pair_moments
from isometry.theory.log_mean import log_mean
from isometry.theory.moments import Moments, MomentTable
from isometry.theory.pairs import Batch, Correlations, correlations

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
    layers: Sequence[Layer],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    batch: Batch,
) -> Fluctuations:
    """Of q and ‖δ‖² averaged over a batch, with the logarithms' variances of first order in
    1/width.

    log ‖δ_a‖² of an example has variance V₁ over networks, that of two examples covariance V₂: a
    common part, and one of its own that the average over B examples narrows (`log_mean`), the less
    the deeper the network: in the end few examples carry the gradient. The expectation of an
    average is that of one example.

    Args:
        layers: a fully connected network without batch norm, the readout last.
        tables: moments of each layer's φ.
        log_q: log of the expected q_l.
        batch: over which is averaged.
    """
    one = _of_pairs(layers, tables, log_q, _of_one(layers, tables, log_q))
    if batch.size == 1 or not len(batch.inputs):
        return one
    two = _of_pairs(layers, tables, log_q, overlaps_of(layers, tables, log_q, batch))
    q = _averaged(one.q_shift, one.q_std, two.q_std, batch.size)
    delta = _averaged(one.delta_shift, one.delta_std, two.delta_std, batch.size)
    sample = _averaged(one.sample_shift, one.sample_std, two.sample_std, batch.size)
    last = len(layers) - 2
    rate = 0.5 * float(delta[1][0]) / last if last > 0 else math.nan
    return Fluctuations(*q, *delta, *sample, rate)


def _averaged(shift: Array, std_one: Array, std_two: Array, size: int) -> tuple[Array, Array]:
    """Shift and standard deviation of the logarithm of an average over examples."""
    common = np.minimum(std_two, std_one) ** 2
    own = [log_mean(float(v), size) for v in std_one**2 - common]
    means = np.array([mean for mean, _ in own])
    variances = np.array([variance for _, variance in own])
    expectation = shift + 0.5 * std_one**2
    return expectation - 0.5 * common + means, np.sqrt(common + variances)


@dataclass
class _Logs:
    """Logarithms by layer, to first order.

    Attributes:
        shift: their means [L].
        rows: coefficients of the noises ε, η, ζ of every layer [L, 3 L].
    """

    shift: Array
    rows: Array

    @classmethod
    def zero(cls, count: int) -> _Logs:
        return cls(np.zeros(count), np.zeros((count, 3 * count)))


def _of_pairs(
    layers: Sequence[Layer],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    overlaps: Sequence[Overlap],
) -> Fluctuations:
    """Shifts, and roots of the covariances of two examples' logarithms, of one example with itself
    the standard deviations.
    """
    count = len(layers)
    last = max(0, count - 2)
    noise = _noises(layers, tables, log_q, overlaps)
    length, output, step = _forward(layers, tables, log_q, noise)
    delta = _relative_to(last, step)
    q_shift, q_rows = _own_units(length, noise)
    readout = _readout(layers, tables, overlaps)
    delta_std = np.sqrt(_variances(delta.rows, noise))
    inputs = np.vstack([np.zeros((1, 3 * count)), output.rows[:-1]])
    return Fluctuations(
        q_shift - 0.5 * readout,
        np.sqrt(_variances(q_rows, noise) + readout),
        delta.shift,
        delta_std,
        delta.shift + np.append(0.0, output.shift[:-1]),
        np.sqrt(_variances(delta.rows + inputs, noise)),
        0.5 * float(delta_std[0]) / last if last else math.nan,
    )


def _noises(
    layers: Sequence[Layer],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    overlaps: Sequence[Overlap],
) -> Array:
    """Covariances of ε, η, ζ of each layer [L, 3, 3]; 0 where there is no φ."""
    result = np.zeros((len(layers), 3, 3))
    above = [*layers[1:], layers[-1]]
    for i, table in enumerate(tables):
        if table is not None:
            normalized = _normalizes(layers[i])
            moments = table.at(0.0 if normalized else log_q[i])
            result[i] = _covariance(moments, layers[i], above[i], log_q[i], normalized, overlaps[i])
    return result


def _normalizes(layer: Layer) -> bool:
    return layer.normalization != "none"


def _forward(
    layers: Sequence[Layer],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    noise: Array,
) -> tuple[_Logs, _Logs, _Logs]:
    """Of q as the next layer feels it, of φ(h)² averaged over a layer's units, and of
    ‖δ_l‖²/‖δ_{l+1}‖².
    """
    length, output, step = (_Logs.zero(len(layers)) for _ in range(3))
    for i, (layer, table) in enumerate(zip(layers, tables, strict=True)):
        if i > 0:
            _carry(output, length, i, _share_of_weights(layer, log_q[i]), noise)
        if table is None:
            continue
        if _normalizes(layer):
            _through_norm(length, output, step, i, noise)
        else:
            _through_phi(length, output, step, i, table.at(log_q[i]), noise)
    return length, output, step


def _carry(output: _Logs, length: _Logs, i: int, share: float, noise: Array) -> None:
    """q_i from the outputs below: only the share that comes through the weights fluctuates."""
    below = output.rows[i - 1]
    spread = below @ _apply(noise, below)
    length.rows[i] = share * below
    length.shift[i] = share * output.shift[i - 1] + 0.5 * share * (1 - share) * spread


def _through_phi(
    length: _Logs, output: _Logs, step: _Logs, i: int, moments: Moments, noise: Array
) -> None:
    k = 0.5 * (float(moments.tilt) - 1)
    s = 0.5 * (float(moments.slope_tilt) - 1)
    for logs, factor, own in ((output, k, 0), (step, s, 1)):
        logs.rows[i] = factor * length.rows[i]
        logs.rows[i, 3 * i + own] += 1
        logs.shift[i] = factor * length.shift[i] - 0.5 * noise[i, own, own]


def _through_norm(length: _Logs, output: _Logs, step: _Logs, i: int, noise: Array) -> None:
    """φ sees none of q's fluctuation; δ is divided by the realized mean of h²."""
    for logs, own in ((output, 0), (step, 1)):
        logs.rows[i, 3 * i + own] += 1
        logs.shift[i] = -0.5 * noise[i, own, own]
    step.rows[i] -= length.rows[i]
    step.rows[i, 3 * i + 2] -= 1
    step.shift[i] -= length.shift[i] - 0.5 * noise[i, 2, 2]


def _relative_to(last: int, step: _Logs) -> _Logs:
    """log ‖δ_l‖² relative to layer `last`'s, from its steps."""
    delta = _Logs.zero(len(step.shift))
    for i in range(last - 1, -1, -1):
        delta.rows[i] = delta.rows[i + 1] + step.rows[i]
        delta.shift[i] = delta.shift[i + 1] + step.shift[i]
    for i in range(last + 1, len(step.shift)):
        delta.rows[i] = delta.rows[i - 1] - step.rows[i - 1]
        delta.shift[i] = delta.shift[i - 1] - step.shift[i - 1]
    return delta


def _own_units(length: _Logs, noise: Array) -> tuple[Array, Array]:
    """Shift and rows of the mean of h² over a layer's own units, which adds ζ."""
    rows = length.rows.copy()
    count = np.arange(len(rows))
    rows[count, 3 * count + 2] += 1
    return length.shift - 0.5 * noise[:, 2, 2], rows


def _readout(
    layers: Sequence[Layer], tables: Sequence[MomentTable | None], overlaps: Sequence[Overlap]
) -> Array:
    """Variance of the mean of h² over the units of a layer without φ."""
    pairs = zip(layers, tables, overlaps, strict=True)
    return np.array(
        [
            2.0 * overlap.square / layer.outputs if table is None else 0.0
            for layer, table, overlap in pairs
        ]
    )


@dataclass(frozen=True)
class Overlap:
    """Of one layer, means over pairs of examples; of an example with itself 1 and its own moments.

    Attributes:
        linear, square: of c and c².
        error: of ρ², the squared correlation of the gradients that arrive from above.
        kurtosis, slope_kurtosis, cross: E φ_a² φ_b²/(E φ²)², the same of φ' times (1 + 2 ρ²), and
            E φ_a² φ'_b²/(E φ² E φ'²).
    """

    linear: float = 1.0
    square: float = 1.0
    error: float = 1.0
    kurtosis: float = 1.0
    slope_kurtosis: float = 1.0
    cross: float = 1.0


def _of_one(
    layers: Sequence[Layer], tables: Sequence[MomentTable | None], log_q: Sequence[float]
) -> list[Overlap]:
    """An example with itself."""
    found = []
    for layer, table, q in zip(layers, tables, log_q, strict=True):
        if table is None:
            found.append(Overlap())
            continue
        own = table.at(0.0 if _normalizes(layer) else q)
        slope_kurtosis = 3 * float(own.slope_kurtosis)
        found.append(
            Overlap(
                kurtosis=float(own.kurtosis), slope_kurtosis=slope_kurtosis, cross=float(own.cross)
            )
        )
    return found


def overlaps_of(
    layers: Sequence[Layer],
    tables: Sequence[MomentTable | None],
    log_q: Sequence[float],
    batch: Batch,
) -> list[Overlap]:
    """Two different examples of a batch."""
    pairs: list[PairMoments | None] = [
        None if table is None else pair_moments(table.phi, 0.0 if _normalizes(layer) else q)
        for layer, table, q in zip(layers, tables, log_q, strict=True)
    ]
    shares = [_share_of_weights(layer, q) for layer, q in zip(layers, log_q, strict=True)]
    logits = math.exp(min(log_q[-1], 700.0))
    widths = [layer.outputs for layer in layers]
    found = correlations(batch, pairs, shares, widths, logits)
    arriving = [each.error for each in (*found[1:], found[-1])]
    return [_overlap(*each) for each in zip(pairs, found, arriving, strict=True)]


def _overlap(pair: PairMoments | None, found: Correlations, error: Array) -> Overlap:
    c = found.mean
    spread = found.variance
    linear = float(c.mean())
    square = float((c**2 + spread).mean())
    if pair is None:
        return Overlap(linear, square, float(error.mean()))
    slopes = at(pair.slope_squares, c, spread) * (1 + 2 * error)
    return Overlap(
        linear,
        square,
        float(error.mean()),
        float(at(pair.squares, c, spread).mean()),
        float(slopes.mean()),
        float(at(pair.cross, c, spread).mean()),
    )


def _share_of_weights(layer: Layer, log_q: float) -> float:
    """1 - σ_b²/q: how much of q comes through the weights."""
    return (
        1.0 if layer.sigma_b == 0 else max(0.0, 1 - math.exp(2 * math.log(layer.sigma_b) - log_q))
    )


def _covariance(
    m: Moments, layer: Layer, above: Layer, log_q: float, normalized: bool, overlap: Overlap
) -> Array:
    """Covariances of ε, η, ζ of one layer, averaged over a batch: means over pairs of examples.

    Args:
        m: moments of φ at this layer.
        layer, above: this layer and the next one, whose Wᵀ carries the gradient.
        log_q: log of the expected q of this layer.
        normalized: whether z is held at length √n by a normalization.
        overlap: of the examples.
    """
    kept = _isometric(layer.inputs, layer.outputs) if layer.distribution == "orthogonal" else 0.0
    fixed = kept * _share_of_weights(layer, log_q) ** 2
    held = overlap.square if normalized else fixed * overlap.square
    along = overlap.error * (
        _isometric(above.outputs, above.inputs) if above.distribution == "orthogonal" else 0.0
    )
    output = float(m.tilt) - 1
    slope = float(m.slope_tilt) - 1
    epsilon = overlap.kurtosis - 1 - 0.5 * held * output**2
    eta = overlap.slope_kurtosis - 1 - 2 * along - 0.5 * held * slope**2
    cross = overlap.cross - 1 - 0.5 * held * output * slope
    if layer.normalization == "layer":  # which holds the mean of z, too
        lean = float(m.lean)
        slope_lean = float(m.slope_lean)
        epsilon = epsilon - overlap.linear * lean**2
        eta = eta - overlap.linear * slope_lean**2
        cross = cross - overlap.linear * lean * slope_lean
    free = overlap.square * (1 - fixed)
    zeta = 2 * free
    with_epsilon, with_eta = (free * value if not normalized else 0.0 for value in (output, slope))
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

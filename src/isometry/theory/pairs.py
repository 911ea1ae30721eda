"""How the examples of a batch correlate, layer by layer, forward (Poole et al. 2016, eq. 5) and
backward (Schoenholz et al. 2017, eq. 12): what decides how much of a network's fluctuations a batch
averages away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from isometry.theory.hermite import PairMoments, at, slope_at

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """The examples over which q and ‖δ‖² are averaged.

    Attributes:
        size: how many.
        inputs: correlation of the inputs of pairs of different examples [P], a sample of them all:
            x_a·x_b/(|x_a| |x_b|). Empty for one example.
        classes: answers, equally frequent; the loss is taken to be cross-entropy.
    """

    size: int
    inputs: Array
    classes: int

    @classmethod
    def of_one(cls) -> Batch:
        """A single example: nothing is averaged."""
        return cls(1, np.zeros(0), 2)

    @classmethod
    def of(cls, size: int, examples: Array, classes: int) -> Batch:
        """A batch like these examples [N, units]."""
        lengths = np.linalg.norm(examples, axis=1)
        unit = examples / np.where(lengths > 0, lengths, 1.0)[:, None]
        correlations = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        return cls(size, correlations if size > 1 else np.zeros(0), classes)


@dataclass(frozen=True)
class Correlations:
    """Of pairs of examples in one layer, [P] each.

    Attributes:
        mean, variance: over networks, of the correlation c of their h.
        error: mean over networks of ρ², ρ the correlation of their δ.
    """

    mean: Array
    variance: Array
    error: Array


def correlations(
    batch: Batch,
    moments: Sequence[PairMoments | None],
    shares: Sequence[float],
    widths: Sequence[int],
    logits: float,
) -> list[Correlations]:
    """How examples correlate in each layer of a network of finite width, where no two are quite
    uncorrelated.

    Args:
        batch: of the inputs.
        moments: of each layer's φ; None where there is none.
        shares: 1 - σ_b²/q of each layer: what of q comes through the weights.
        widths: units of each layer.
        logits: their mean square.
    """
    lengths = _forward(batch, moments, shares, widths)
    top = squared_errors(logits, float(np.mean(lengths[-1][0])), batch.classes)
    errors = _backward(top, moments, lengths, widths)
    return [Correlations(*each, error) for each, error in zip(lengths, errors, strict=True)]


def _forward(
    batch: Batch,
    moments: Sequence[PairMoments | None],
    shares: Sequence[float],
    widths: Sequence[int],
) -> list[tuple[Array, Array]]:
    """Mean and variance of c by layer."""
    found: list[tuple[Array, Array]] = []
    outputs = batch.inputs
    variance = np.zeros(len(outputs))
    for moment, share, width in zip(moments, shares, widths, strict=True):
        c = np.clip(share * outputs + (1 - share), -1.0, 1.0)
        variance = share**2 * variance
        found.append((c, variance))
        outputs = c
        if moment is not None:
            outputs = np.minimum(at(moment.outputs, c, variance), 1.0)
            own = _of_a_ratio(outputs, moment.squares, moment.thirds, c, 1.0, 1.0)
            variance = slope_at(moment.outputs, c) ** 2 * variance + own / width
            variance = np.minimum(variance, 1 - outputs**2)
    return found


def squared_errors(logits: float, c: float, classes: int) -> float:
    """Mean square of the correlation of two examples' p - y, the gradients of cross-entropy with
    respect to the logits: over Gaussian logits, and labels drawn at random.

    With small logits it is 1 for equal labels and 1/(classes - 1)² for others; large ones that all
    examples share make every p - y alike.
    """
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((3, PAIRS, classes)) * math.sqrt(min(logits, 1e6))
    shared = math.sqrt(max(c, 0.0))
    z = shared * draws[0] + math.sqrt(1 - shared**2) * draws[1:]
    p = softmax(z, axis=-1)
    error = p - np.eye(classes)[rng.integers(classes, size=(2, PAIRS))]
    lengths = np.square(error).sum(-1)
    inner = (error[0] * error[1]).sum(-1)
    return float(np.mean(inner**2 / np.maximum(lengths[0] * lengths[1], 1e-300)))


PAIRS = 4000
"""Draws of `squared_errors`: its error is a few percent of it."""


def _backward(
    top: float,
    moments: Sequence[PairMoments | None],
    lengths: Sequence[tuple[Array, Array]],
    widths: Sequence[int],
) -> list[Array]:
    """Mean of ρ² by layer, from the logits' down."""
    squared = np.full(len(lengths[0][0]), top)
    found = [squared]
    for moment, (c, spread), width in list(zip(moments, lengths, widths, strict=True))[-2::-1]:
        if moment is not None:
            kept = np.minimum(at(moment.slopes, c, spread), 1.0)
            mean = kept * np.sqrt(squared)
            pair = 1 + 2 * squared
            own = _of_a_ratio(
                mean, moment.slope_squares, moment.slope_thirds, c, pair, np.sqrt(squared)
            )
            squared = np.clip(mean**2 + own / width, 0.0, 1.0)
        found.append(squared)
    return found[::-1]


def _of_a_ratio(
    mean: Array,
    squares: Array,
    thirds: Array,
    c: Array,
    pair: Array | float,
    factor: Array | float,
) -> Array:
    """n times the variance of the correlation of two vectors of n units, Σ x_a x_b over the root of
    Σ x_a² Σ x_b², to first order in 1/n.

    Args:
        mean: of the correlation.
        squares, thirds: series of E x_a² x_b² and E x_a³ x_b, without the Gaussian gradient.
        c: correlation of the preactivations.
        pair, factor: what the gradient multiplies them by: 1 + 2 ρ² and ρ; 1 without a gradient.
    """
    gaussian = 1.0 if np.isscalar(pair) else 3.0
    both = at(squares, c) * pair
    own = gaussian * float(squares.sum())
    third = gaussian * at(thirds, c) * factor
    result = (both - mean**2) + mean**2 / 2 * (own + both - 2) - 2 * mean * (third - mean)
    return np.maximum(result, 0.0)

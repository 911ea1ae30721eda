"""What was measured at initialization beside what is predicted, layer by layer, and in sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from isometry import gradient_rate as rates
from isometry.columns import MEASURED
from isometry.initialization.predict import predicted_rate, records
from isometry.layers.spec import LayerSpec
from isometry.theory.fixed_points import limit_of
from isometry.theory.propagation import NORMALIZATIONS, Prediction
from isometry.verbs.alternatives import bounds
from isometry.verbs.layer_table import PAIRS

LN10 = math.log(10)


def compare(
    layers: Sequence[LayerSpec], measured: dict[str, NDArray[np.float64]], prediction: Prediction
) -> dict[str, Any]:
    """`layers`, the rates, and why something is not predicted. Of a network whose loss is not
    finite, in float64, nothing is measured.
    """
    if not measured:
        measured = dict.fromkeys(MEASURED, np.full(len(layers), np.nan))
    predicted = predicted_logs(layers, measured["backprop_norm"], prediction)
    rows = []
    for index, spec in enumerate(layers):
        row: dict[str, Any] = {"layer": spec.index, "name": spec.name, "kind": spec.kind}
        for name in PAIRS:
            log = predicted[name][0][index]
            std = predicted[name][1][index]
            row |= {
                name: number(measured[name][index]),
                f"{name}_predicted": number(math.exp(min(log, 709.0)))
                if np.isfinite(log)
                else None,
                f"{name}_predicted_log10": number(log / LN10),
                f"{name}_std": number(std),
            }
        row["saturation"] = number(measured["saturation"][index])
        row["why"] = {name: spec.why[name] for name in (*PAIRS, "saturation") if name in spec.why}
        rows.append(row)
    hidden = [i for i, spec in enumerate(layers) if spec.kind == "hidden"]
    found = rates.gradient_rate(measured["backprop_norm"][hidden])
    expected, spread = predicted_rate(prediction, layers)
    return {
        "layers": rows,
        "gradient_rate": number(found.rate),
        "gradient_rate_interval": [number(found.low), number(found.high)],
        "gradient_rate_predicted": expected,
        "gradient_rate_predicted_band": None
        if expected is None or spread is None
        else _band(expected, spread),
        "networks_drawn": prediction.networks,
        "reason": prediction.reason,
    }


def predicted_logs(
    layers: Sequence[LayerSpec], backprop_norm: NDArray[np.float64], prediction: Prediction
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean of the natural logarithm of each quantity in one network, and its standard deviation
    over seeds; [L] each.

    The level of δ is anchored at the measured last hidden layer.
    """
    hidden = [i for i, spec in enumerate(layers) if spec.kind == "hidden"]
    anchor = (
        math.log(backprop_norm[hidden[-1]])
        if hidden and backprop_norm[hidden[-1]] > 0
        else math.nan
    )
    f = prediction.fluctuations
    nothing = np.full(len(layers), np.nan)
    shifts = (
        [np.zeros(len(layers))] * 3 if f is None else [f.q_shift, f.delta_shift, f.sample_shift]
    )
    stds = [nothing] * 3 if f is None else [f.q_std, f.delta_std, f.sample_std]
    return {
        "forward_second_moment": (prediction.log_q + shifts[0], stds[0]),
        "backprop_norm": (anchor + 0.5 * (prediction.log_delta + shifts[1]), 0.5 * stds[1]),
        "sample_weight_grad_rms": (
            anchor + 0.5 * (prediction.log_sample + shifts[2]),
            0.5 * stds[2],
        ),
    }


def _band(rate: float, spread: float) -> list[float]:
    """95 % of networks."""
    return [rate * math.exp(-1.96 * spread), rate * math.exp(1.96 * spread)]


def number(value: float) -> float | None:
    """A number of a JSON file, which has none that is not finite."""
    return float(value) if math.isfinite(value) else None


def verdict_of(
    layers: Sequence[LayerSpec],
    measured: dict[str, NDArray[np.float64]],
    prediction: Prediction,
    config: DictConfig,
) -> dict[str, Any]:
    """Ratio and verdict of the measured profile; where nothing finite was measured those of the
    predicted one, which is a logarithm and never overflows.
    """
    hidden = [i for i, spec in enumerate(layers) if spec.kind == "hidden"]
    ratio = rates.gradient_ratio(measured["backprop_norm"][hidden]) if measured else math.nan
    source = "measured"
    if math.isnan(ratio) and hidden:
        source = "predicted"
        ratio = _exp(0.5 * (prediction.log_delta[hidden[0]] - prediction.log_delta[hidden[-1]]))
    verdict = rates.verdict(ratio, **bounds(config))
    source_of = {"verdict_source": None if verdict is None else source}
    return {"gradient_ratio": number(ratio), "verdict_init": verdict, **source_of}


def _exp(log: float) -> float:
    return math.inf if log > 709 else math.exp(log)


def summarise_limit(
    layers: Sequence[LayerSpec], batch: int, prediction: Prediction
) -> dict[str, Any]:
    """χ₁, q* and phase of the network's hidden layers, were there infinitely many behind the first
    layer's length.
    """
    hidden = [record for record in records(layers) if record.kind == "hidden"]
    nothing = {"chi_1": None, "q_star": None, "phase": None}
    kinds = {(record.activation, record.normalization) for record in hidden}
    if len(kinds) != 1 or hidden[-1].activation is None:
        return nothing
    layer = hidden[-1]
    assert layer.activation is not None
    if layer.normalization not in NORMALIZATIONS:
        return nothing
    first = float(prediction.log_q[0])
    start = math.exp(first) if abs(first) < 700 else 1.0  # nan where nothing is predicted
    found = limit_of(
        layer.activation,
        layer.normalization,
        layer.sigma_w,
        layer.sigma_b,
        batch,
        start,
        layer.epsilon,
    )
    if found is None:
        return nothing
    chi_1, q_star, phase = found
    return {"chi_1": chi_1, "q_star": number(q_star), "phase": phase}

"""`isometry diagnose`: the network at initialization, measured against predicted, layer by layer.
No training.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from isometry import gradient_rate as rates
from isometry.columns import MEASURED
from isometry.config.checks import validate
from isometry.config.compose import resolved
from isometry.console import console, quiet
from isometry.data.module import DataModule
from isometry.initialization.advise import Choice, Situation, Trial, advise
from isometry.initialization.cost import PRODUCTS, STEPS, forward_operations
from isometry.initialization.curvature import Curvature, curvature, stable_rate
from isometry.initialization.jacobian import jacobian_singular_values
from isometry.initialization.observe import observe
from isometry.initialization.predict import predict_network, predicted_rate, records
from isometry.layers.discover import layers_of
from isometry.layers.spec import LayerSpec
from isometry.runs.files import write_json, write_text, written_below
from isometry.runs.identity import config_hash, run_id
from isometry.theory.fixed_points import limit_of
from isometry.theory.propagation import NORMALIZATIONS, Prediction
from isometry.training.build import build_data, build_network, scaled_rate, seed_everything
from isometry.training.classifier import LOSSES
from isometry.training.trial import try_out
from isometry.verbs.alternatives import bounds, choices
from isometry.verbs.layer_table import PAIRS, show
from isometry.verbs.own_network import build_own

OWN_KEYS = ("batches", "plot", "tries", "trial", "curvature", "network", "input", "vocabulary")
"""Keys of diagnosis that training does not have: the run id is that of the training."""

LN10 = math.log(10)


def diagnose(config: DictConfig) -> dict[str, Any]:
    """Measure, predict, compare, advise; writes `diagnosis.json` (DESIGN.md) and returns its
    content.

    Raises:
        UserError: for a config that could not be trained.
    """
    quiet()
    plain = resolved(config)
    validate(plain)
    seed_everything(config.seed)
    name, diagnosis = _of_function(config) if config.network else _of_config(config, plain)
    diagnosis = {"run_id": name, **diagnosis}
    folder = Path(config.paths.runs) / "diagnose" / name
    store(folder, diagnosis, config)
    show(diagnosis)
    console.print(f"-> {folder}/diagnosis.json", soft_wrap=True)
    return diagnosis


def _of_config(config: DictConfig, plain: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and diagnosis of the network that the config builds."""
    data = build_data(config)
    network = build_network(config, data.input_shape, data.num_classes)
    batches, measured = measure(network, data, config)
    batch = batches[0]
    images = torch.cat([images for images, _ in batches])
    size = config.data.batch_size
    prediction = predict_network(layers_of(network), images, size, len(images))
    diagnosis = compare(layers_of(network), measured, prediction)
    diagnosis |= verdict_of(layers_of(network), measured, prediction, config)
    diagnosis |= summarise_limit(layers_of(network), size, prediction)
    diagnosis |= jacobian_of(network, images)
    diagnosis |= curvature_of(network, batch, LOSSES[config.loss], config)
    diagnosis |= {"lr": scaled_rate(config), "loss": str(config.loss)}
    now = situation(diagnosis, prediction, trial_of(network, batch[0], config), config)
    others = [] if now.well else choices(now, config, data, images, diagnosis["stable_lr"])
    diagnosis |= {"trial": _trial(now.now), "tries": [_choice(choice) for choice in others]}
    diagnosis["advice"] = advise(now, others)
    return run_id({k: v for k, v in plain.items() if k not in OWN_KEYS}), diagnosis


def _of_function(config: DictConfig) -> tuple[str, dict[str, Any]]:
    """Name and diagnosis of the network that somebody's function makes."""
    shape = None if config.input is None else list(config.input)
    own = build_own(config.network, shape, config.vocabulary, config.seed)
    measured = own.measure()
    diagnosis = compare(own.layers, measured, own.prediction())
    diagnosis |= verdict_of(own.layers, measured, own.prediction(), config)
    unknown = ("chi_1", "q_star", "phase", "jacobian_singular_values")
    diagnosis |= dict.fromkeys(unknown)
    diagnosis |= curvature_of(own.network, (own.inputs, None), own.loss, config)
    diagnosis |= {"lr": None, "stable_lr": None, "trial": None, "tries": []}
    now = situation(diagnosis, own.prediction(), None, config, "the depth")
    diagnosis |= {"advice": advise(now, []), "loss": own.loss_name}
    given = {key: resolved(config)[key] for key in ("network", "input", "vocabulary", "seed")}
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", config.network)[:80]
    return f"{safe}-s{config.seed}-{config_hash(given)}", diagnosis


# ---- measured ------------------------------------------------------------------------------------


def measure(
    network: nn.Module, data: DataModule, config: DictConfig
) -> tuple[list[tuple[Tensor, Tensor]], dict[str, NDArray[np.float64]]]:
    """The batches, and the columns of the network at initialization over `batches`
    batches, [L] each.
    """
    data.prepare_data()
    data.setup("fit")
    batches = list(itertools.islice(data.train_dataloader(), config.batches))
    columns = observe(network, batches, LOSSES[config.loss]).columns
    return [(images.double(), labels) for images, labels in batches], columns


# ---- measured against predicted ------------------------------------------------------------------


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
                name: _number(measured[name][index]),
                f"{name}_predicted": _number(math.exp(min(log, 709.0)))
                if np.isfinite(log)
                else None,
                f"{name}_predicted_log10": _number(log / LN10),
                f"{name}_std": _number(std),
            }
        row["saturation"] = _number(measured["saturation"][index])
        row["why"] = {name: spec.why[name] for name in (*PAIRS, "saturation") if name in spec.why}
        rows.append(row)
    hidden = [i for i, spec in enumerate(layers) if spec.kind == "hidden"]
    found = rates.gradient_rate(measured["backprop_norm"][hidden])
    expected, spread = predicted_rate(prediction, layers)
    return {
        "layers": rows,
        "gradient_rate": _number(found.rate),
        "gradient_rate_interval": [_number(found.low), _number(found.high)],
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


def _number(value: float) -> float | None:
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
    return {"gradient_ratio": _number(ratio), "verdict_init": verdict, **source_of}


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
    return {"chi_1": chi_1, "q_star": _number(q_star), "phase": phase}


def jacobian_of(network: nn.Module, images: Tensor) -> dict[str, Any]:
    """Largest, median and smallest singular value through the hidden layers at the first example;
    null under batch norm.
    """
    mixed = any(spec.normalization == "batch" for spec in layers_of(network))
    values = None if mixed else jacobian_singular_values(network, images[:1])
    return {"jacobian_singular_values": None if values is None else [float(v) for v in values]}


# ---- training ------------------------------------------------------------------------------------


def curvature_of(
    network: nn.Module,
    batch: tuple[Any, Any],
    loss: Callable[[Any, Any], Tensor],
    config: DictConfig,
) -> dict[str, Any]:
    """Largest eigenvalues, and the largest rate that the optimizer at hand is stable with."""
    wanted = _wanted(config.curvature, network, batch[0], PRODUCTS)
    reason = f"not computed: {TOO_LARGE}curvature=true" if wanted is None else "curvature=false"
    found = curvature(network, batch, loss) if wanted else Curvature(None, None, reason)
    stable = stable_rate(found.hessian, resolved(config)["optimizer"])
    return {"curvature": dataclasses.asdict(found), "stable_lr": stable}


TOO_LARGE = "for a network of this size it takes minutes; "


def _wanted(value: bool | str, network: nn.Module, inputs: Any, most: float) -> bool | None:
    """Whether something is done; None where it would take too long."""
    if value != "auto":
        return bool(value)
    return True if forward_operations(network, inputs) <= most else None


def trial_of(network: nn.Module, images: Tensor, config: DictConfig) -> Trial | None:
    """What the first steps of the training come to; None where they are not taken."""
    wanted = _wanted(config.trial, network, images, STEPS)
    if not wanted:
        return None
    console.print("trying the network as it is ...", highlight=False)
    return try_out(config)


def _trial(choice: Choice) -> dict[str, Any] | None:
    """As in `diagnosis.json`."""
    if choice.trial is None:
        return None
    numbers = {"loss": _number(choice.trial.loss), "accuracy": _number(choice.trial.accuracy)}
    return {**dataclasses.asdict(choice.trial), **numbers}


def _choice(choice: Choice) -> dict[str, Any]:
    """As in `diagnosis.json`."""
    return {**dataclasses.asdict(choice), "trial": _trial(choice)}


def situation(
    diagnosis: dict[str, Any],
    prediction: Prediction,
    trial: Trial | None,
    config: DictConfig,
    depth_key: str = "model.depth",
) -> Situation:
    """What advice depends on."""
    rate = diagnosis["gradient_rate_predicted"] or diagnosis["gradient_rate"]
    now = Choice("", rate, diagnosis["verdict_init"], trial)
    hidden = sum(row["kind"] == "hidden" for row in diagnosis["layers"])
    f = prediction.fluctuations
    spread = None if f is None else float(f.delta_std[0]) / 2 / LN10
    low, high = bounds(config).values()
    return Situation(now, hidden, spread, (low, high), depth_key)


# ---- stored -------------------------------------------------------------------------------------


def store(folder: Path, diagnosis: dict[str, Any], config: DictConfig) -> None:
    """`diagnosis.json`, the config, and the picture if wanted."""
    with written_below("paths.runs", config.paths.runs):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_json(folder / "diagnosis.json", diagnosis)
    if config.plot:
        from isometry.plots.bands import draw_diagnosis
        from isometry.plots.style import save

        (path,) = save(draw_diagnosis(diagnosis), folder / "diagnosis")
        console.print(str(path), soft_wrap=True)

"""What `isometry diagnose` tries where something is wrong: the same config with a few words
changed.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from isometry import gradient_rate as rates
from isometry.config.checks import validate
from isometry.config.compose import compose_option, resolved
from isometry.config.messages import options
from isometry.console import console
from isometry.data.module import DataModule
from isometry.errors import UserError, bad_value
from isometry.initialization.advise import Choice, Situation, Trial, healthy_depth
from isometry.initialization.predict import FEW, predict_network, predicted_rate
from isometry.layers.discover import layers_of
from isometry.theory.propagation import Prediction
from isometry.training.build import build_for
from isometry.training.trial import try_out
from isometry.verbs.layer_table import largest_saturation

STEP = 10.0
"""Factor of a learning rate that is tried beside the present one."""


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
    spread = None if f is None else float(f.delta_std[0]) / 2 / math.log(10)
    low, high = bounds(config).values()
    ratios = ratios_of(diagnosis)
    saturated = largest_saturation(diagnosis)
    stable = diagnosis["stable_lr"]
    times = None if stable is None or diagnosis["lr"] is None else diagnosis["lr"] / stable
    return Situation(now, hidden, spread, (low, high), ratios, depth_key, saturated, times)


def ratios_of(diagnosis: dict[str, Any]) -> list[float]:
    """Natural logarithm of `backprop_norm` of layer 1 over each hidden layer's: predicted, or else
    measured; none where a layer has neither.
    """
    hidden = [row for row in diagnosis["layers"] if row["kind"] == "hidden"]
    logs = [row["backprop_norm_predicted_log10"] for row in hidden]
    if None in logs:
        values = [row["backprop_norm"] for row in hidden]
        logs = [math.log10(value) for value in values] if all(values) else []
    return [(logs[0] - log) * math.log(10) for log in logs]


def choices(
    situation: Situation, config: DictConfig, data: DataModule, images: Tensor, stable: float | None
) -> list[Choice]:
    """`tries`, a learning rate and a depth, predicted, and tried out where the present network was.

    Args:
        situation: as it is.
        stable: the largest stable rate, None if unknown.

    Raises:
        UserError: for a try that is no override.
    """
    words = [*config.tries, *_learning_rate(situation, config, stable), *_depth(situation)]
    changed = {word: altered(config, word) for word in words}
    new = _different(changed, config)
    found = [_predicted(word, other, data, images) for word, other in new.items()]
    possible = [choice for choice in found if choice is not None]
    if situation.now.trial is None:
        return possible
    return [_tried(choice, new[choice.override]) for choice in possible]


def _different(changed: dict[str, DictConfig], config: DictConfig) -> dict[str, DictConfig]:
    """Those that are neither the config itself nor one another."""
    seen = [resolved(config)]
    new = {}
    for word, other in changed.items():
        if resolved(other) not in seen:
            seen.append(resolved(other))
            new[word] = other
    return new


def _learning_rate(situation: Situation, config: DictConfig, stable: float | None) -> list[str]:
    """A lower rate where training diverges or the present one is not stable, a higher one where
    nothing moves.
    """
    if situation.now.trial is None:
        return []
    lr = float(config.optimizer.lr)
    if situation.now.trial.outcome != "diverged" and (stable is None or lr <= stable):
        return [f"optimizer.lr={lr * STEP:.6g}"]
    lower = lr / STEP if stable is None or lr <= stable else _round(stable / 2)
    return [f"optimizer.lr={lower:.6g}"]


def _depth(situation: Situation) -> list[str]:
    """The depth at which the gradient would be healthy."""
    depth = healthy_depth(situation)
    wrong = situation.now.verdict != "healthy" and situation.now.trial is not None
    return [f"{situation.depth_key}={depth}"] if wrong and 2 < depth <= situation.hidden else []


def _round(value: float) -> float:
    """To one digit, downwards."""
    unit = 10.0 ** math.floor(math.log10(value))
    return math.floor(value / unit) * unit


def altered(config: DictConfig, override: str) -> DictConfig:
    """The config with words of a command line changed: `group=option` or `key=value`.

    Raises:
        UserError: for what is neither.
    """
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    for word in override.split():
        key, equals, value = word.partition("=")
        if not equals or OmegaConf.select(changed, key) is None:
            raise bad_value("tries", word, "must be words of a command line, e.g. model.depth=10")
        if OmegaConf.is_dict(OmegaConf.select(changed, key)):
            changed[key] = _option(key, value)
        else:
            OmegaConf.update(changed, key, OmegaConf.create(f"x: {value}").x)
    return changed


def _option(group: str, name: str) -> DictConfig:
    if name not in options(group):
        raise bad_value("tries", f"{group}={name}", f"allowed are {', '.join(options(group))}")
    try:
        return compose_option(group, name)
    except UserError as error:
        raise UserError(f"tries: {error}") from error


def _predicted(
    override: str, config: DictConfig, data: DataModule, images: Tensor
) -> Choice | None:
    """Rate and verdict that the changed network would have; None if it does not suit."""
    try:
        validate(resolved(config))
        layers = layers_of(build_for(config, data))
    except UserError:
        return None
    prediction = predict_network(layers, images, config.data.batch_size, len(images), FEW)
    rate = predicted_rate(prediction, layers)[0]
    hidden = sum(spec.kind == "hidden" for spec in layers)
    return Choice(override, rate, None if rate is None else _verdict(rate, hidden, config))


def _verdict(rate: float, hidden: int, config: DictConfig) -> rates.Verdict | None:
    log_ratio = (hidden - 1) * math.log(rate) if rate > 0 else -math.inf
    ratio = math.exp(min(log_ratio, 700.0))
    return rates.verdict(ratio, **bounds(config))


def bounds(config: DictConfig) -> dict[str, Any]:
    """The ratios at which the verdict changes."""
    return {key: config.verdict[key] for key in ("vanishing_below", "exploding_above")}


def _tried(choice: Choice, config: DictConfig) -> Choice:
    """With what a short training comes to."""
    console.print(f"trying {choice.override} ...", highlight=False)
    try:
        return dataclasses.replace(choice, trial=try_out(config))
    except UserError:
        return choice


def as_trial(choice: Choice) -> dict[str, Any] | None:
    """As in `diagnosis.json`."""
    if choice.trial is None:
        return None
    numbers = {"loss": _finite(choice.trial.loss), "accuracy": _finite(choice.trial.accuracy)}
    return {**dataclasses.asdict(choice.trial), **numbers}


def as_choice(choice: Choice) -> dict[str, Any]:
    """As in `diagnosis.json`."""
    return {**dataclasses.asdict(choice), "trial": as_trial(choice)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

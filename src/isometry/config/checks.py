"""Values that cannot be trained with, refused before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isometry.columns import MEASURED
from isometry.config.targets import check_all_are_built, check_targets
from isometry.errors import bad_value
from isometry.runs.decision import RERUN
from isometry.runs.table import lookup

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

Check = tuple[Callable[[Any], bool], str]


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int) -> Check:
    """A whole number of at least `low`."""
    return (lambda value: _is_integer(value, low)), f"must be a whole number of at least {low}"


def or_null(check: Check) -> Check:
    """The same, or null."""
    accepts, allowed = check
    return (lambda value: value is None or accepts(value)), f"{allowed}, or null"


def positive() -> Check:
    """A finite number above 0."""
    return (lambda value: _is_number(value) and value > 0), "must be a finite number above 0"


def non_negative() -> Check:
    """A finite number of at least 0."""
    return (lambda value: _is_number(value) and value >= 0), "must be a finite number of at least 0"


def share() -> Check:
    """A share (float up to 1) or a count (int) of batches."""
    good = lambda value: _is_integer(value, 1) or (isinstance(value, float) and 0 < value <= 1)  # noqa: E731
    return good, "must be a share between 0.0 and 1.0, or a number of batches"


def one_of(*allowed: Any) -> Check:
    """One of a few values."""
    words = ", ".join("null" if value is None else str(value) for value in allowed)
    return (lambda value: value in allowed and not isinstance(value, bool)), f"allowed are {words}"


def named_or_built(*allowed: str) -> Check:
    """One of a few words, or a node from which an object is built."""
    good = lambda value: value in allowed or (isinstance(value, Mapping) and "_target_" in value)  # noqa: E731
    return good, f"allowed are {', '.join(allowed)}, or a node with a _target_"


def each_of(allowed: Sequence[str]) -> Check:
    """A list of some of a few words."""
    good = lambda value: isinstance(value, list) and set(value) <= set(allowed)  # noqa: E731
    return good, f"must be a list; allowed are {', '.join(allowed)}"


def flag() -> Check:
    """true or false."""
    return (lambda value: isinstance(value, bool)), "allowed are true, false"


def _is_devices(value: Any) -> bool:
    return (
        _is_integer(value, 1)
        or value == "auto"
        or (isinstance(value, list) and all(_is_integer(v, 0) for v in value))
    )


def _is_shape(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_is_integer(v, 1) for v in value))


def _is_statistic(value: Any) -> bool:
    return hasattr(value, "compute") or (isinstance(value, Mapping) and "_target_" in value)


def _are_statistics(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    known = all(map(_is_statistic, value.values()))
    new = set(value).isdisjoint((*MEASURED, "step", "layer", "name", "kind"))
    return known and new and all(map(_is_name, value))


def _is_gain(value: Any) -> bool:
    return value == "auto" or (_is_number(value) and value > 0)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


CHECKS: dict[str, Check] = {
    "model.depth": integer(1),
    "model.width": integer(1),
    "model.channels": integer(1),
    "model.stages": integer(1),
    "model.kernel_size": (
        (lambda value: _is_integer(value, 1) and value % 2 == 1),
        "must be an odd whole number",
    ),
    "model.padding": one_of("circular", "zeros"),
    "model.channel_multiplier": integer(1),
    "model.bias": flag(),
    "normalization.kind": one_of("none", "batch", "layer", "rms"),
    "lr_scaling.rule": one_of("none", "linear", "sqrt"),
    "lr_scaling.reference_batch": integer(1),
    "trainer.strategy": one_of("auto", "ddp"),
    "trainer.num_nodes": integer(1),
    "loss": one_of("cross_entropy", "mse"),
    "initializer.distribution": one_of("gaussian", "uniform", "truncated", "orthogonal"),
    "initializer.mode": one_of("fan_in", "fan_out", "fan_avg"),
    "initializer.connections": integer(1),
    "initializer.a": non_negative(),
    "scheduler.gamma": non_negative(),
    "scheduler.final": non_negative(),
    "scheduler.warmup": (
        (lambda value: _is_number(value) and 0 <= value <= 1),
        "must lie between 0 and 1",
    ),
    "data.augmentation": one_of("none", "crop_flip"),
    "data.train_size": or_null(integer(1)),
    "data.source": named_or_built(
        "mnist_5k",
        "unit_vectors",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "cifar100_coarse",
    ),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": (
        _is_devices,
        "must be a whole number of at least 1, a list of device indices, or auto",
    ),
    "trainer.precision": one_of(
        "64-true", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"
    ),
    "trainer.gradient_clip_val": or_null(positive()),
    "trainer.gradient_clip_algorithm": one_of("norm", "value"),
    "trainer.check_val_every_n_epoch": integer(1),
    "trainer.limit_train_batches": share(),
    "trainer.limit_val_batches": share(),
    "trainer.limit_test_batches": share(),
    "trainer.profiler": one_of(None, "simple", "advanced"),
    "trainer.detect_anomaly": flag(),
    "callbacks.early_stopping.patience": or_null(integer(1)),
    "callbacks.early_stopping.mode": one_of("min", "max"),
    "callbacks.early_stopping.monitor": one_of("val_loss", "val_accuracy"),
    "batches": integer(1),
    "input": (_is_shape, "must be whole numbers of at least 1, examples first, e.g. 8,3,224,224"),
    "vocabulary": or_null(integer(2)),
    "plot": flag(),
    "verdict.vanishing_below": positive(),
    "verdict.exploding_above": positive(),
    "study_name": (
        (lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None),
        "must be text: up to 40 letters, digits, . _ - (a number needs quotes: '\"2024\"')",
    ),
    "tags": ((lambda value: isinstance(value, list)), "must be a list, e.g. [baseline,deep]"),
    "compile": flag(),
    "activation_checkpointing": flag(),
    "print_config": flag(),
    "pictures": flag(),
    "initializer.sigma_w": non_negative(),
    "initializer.sigma_b": non_negative(),
    "initializer.std": non_negative(),
    "initializer.gain": (
        (lambda value: value == "auto" or (_is_number(value) and value > 0)),
        "must be a positive number, or auto",
    ),
    "optimizer.lr": positive(),
    "optimizer.momentum": non_negative(),
    "optimizer.weight_decay": non_negative(),
    "data.batch_size": integer(1),
    "data.eval_batch_size": integer(1),
    "data.val_size": integer(1),
    "trainer.max_epochs": or_null(integer(1)),
    "trainer.max_steps": (
        (lambda value: value == -1 or _is_integer(value, 1)),
        "must be at least 1, or -1 for no limit",
    ),
    "trainer.accumulate_grad_batches": integer(1),
    "callbacks.signals.every_n_steps": or_null(integer(1)),
    "callbacks.signals.flush_every": integer(1),
    "callbacks.signals.alarm_factor": (
        (lambda value: _is_number(value) and value > 1),
        "must be a number above 1",
    ),
    "callbacks.signals.alarm_steps": or_null(integer(1)),
    "callbacks.signals.log_columns": each_of(MEASURED),
    "callbacks.signals.statistics": (
        _are_statistics,
        "must map names that are no column yet to nodes with a _target_ (or Statistics)",
    ),
    "logger.patience": positive(),
    "callbacks.checkpoints.every_n_steps": or_null(integer(1)),
    "callbacks.checkpoints.every_n_epochs": integer(1),
    "threads": or_null(integer(1)),
    "seed": (
        (lambda value: _is_integer(value, 0) and value < 2**32),
        "must be a whole number from 0 to 4294967295",
    ),
    "rerun": one_of(*RERUN),
}
"""Key to test and the words for what is allowed; a key that a config does not have is not
tested.
"""


def validate(config: Mapping[str, Any]) -> None:
    """Test the values of a resolved config.

    Raises:
        UserError: for the first value that cannot be trained with.
    """
    for key, (accepts, allowed) in CHECKS.items():
        if has(config, key) and not accepts(lookup(config, key)):
            raise bad_value(key, lookup(config, key), allowed)
    check_targets(config)
    check_all_are_built(config)
    if lookup(config, "trainer.max_epochs") is None and lookup(config, "trainer.max_steps") == -1:
        raise bad_value(
            "trainer.max_epochs", "null", "needs trainer.max_steps, or training would not end"
        )
    if lookup(config, "model.name") == "convnet" and config["model"]["depth"] < 2:
        raise bad_value(
            "model.depth", config["model"]["depth"], "must be at least 2 for model=convnet"
        )
    _check_batch_norm(config)


def _check_batch_norm(config: Mapping[str, Any]) -> None:
    """Batch norm has no variance over one example (an MLP then raises in its first step)."""
    devices = lookup(config, "trainer.devices")
    processes = len(devices) if isinstance(devices, list) else devices
    size = lookup(config, "data.batch_size")
    if lookup(config, "normalization.kind") != "batch" or not isinstance(size, int):
        return
    if (size // processes if isinstance(processes, int) else size) < 2:
        raise bad_value("data.batch_size", size, "normalization=batch needs 2 examples a process")


def has(config: Mapping[str, Any], key: str) -> bool:
    """Whether a dotted key stands in the config, whatever its value."""
    *parents, last = key.split(".")
    node: Any = lookup(config, ".".join(parents)) if parents else config
    return isinstance(node, Mapping) and last in node

"""Values that cannot be trained with, refused before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from isometry.errors import bad_value
from isometry.runs.decision import RERUN
from isometry.runs.table import lookup

Check = tuple[Callable[[Any], bool], str]


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int) -> Check:
    """A whole number of at least `low`."""
    return (lambda value: _is_integer(value, low)), f"must be a whole number of at least {low}"


def optional_integer(low: int) -> Check:
    """The same, or null."""
    return (lambda value: value is None or _is_integer(value, low)), f"must be a whole number of at least {low}, or null"


def positive() -> Check:
    """A finite number above 0."""
    return (lambda value: _is_number(value) and value > 0), "must be a finite number above 0"


def non_negative() -> Check:
    """A finite number of at least 0."""
    return (lambda value: _is_number(value) and value >= 0), "must be a finite number of at least 0"


CHECKS: dict[str, Check] = {
    "model.depth": integer(1),
    "model.width": integer(1),
    "model.channels": integer(1),
    "model.stages": integer(1),
    "model.kernel_size": ((lambda value: _is_integer(value, 1) and value % 2 == 1), "must be an odd whole number"),
    "model.padding": ((lambda value: value in ("circular", "zeros")), "allowed are circular, zeros"),
    "initializer.sigma_w": non_negative(),
    "initializer.sigma_b": non_negative(),
    "initializer.std": non_negative(),
    "initializer.gain": positive(),
    "optimizer.lr": positive(),
    "optimizer.momentum": non_negative(),
    "optimizer.weight_decay": non_negative(),
    "data.batch_size": integer(1),
    "data.eval_batch_size": integer(1),
    "data.val_size": integer(1),
    "trainer.max_epochs": optional_integer(1),
    "trainer.max_steps": ((lambda value: value == -1 or _is_integer(value, 1)), "must be at least 1, or -1 for no limit"),
    "trainer.accumulate_grad_batches": integer(1),
    "callbacks.signals.every_n_steps": optional_integer(1),
    "callbacks.signals.flush_every": integer(1),
    "callbacks.checkpoints.every_n_steps": optional_integer(1),
    "callbacks.checkpoints.every_n_epochs": integer(1),
    "threads": optional_integer(1),
    "seed": ((lambda value: _is_integer(value, 0) and value < 2**32), "must be a whole number from 0 to 4294967295"),
    "rerun": ((lambda value: value in RERUN), "allowed are all, failed, or null"),
}
"""Key to test and the words for what is allowed; a key that a config does not have is not tested."""


def validate(config: Mapping[str, Any]) -> None:
    """Test the values of a resolved config.

    Raises:
        UserError: for the first value that cannot be trained with.
    """
    for key, (accepts, allowed) in CHECKS.items():
        if has(config, key) and not accepts(lookup(config, key)):
            raise bad_value(key, lookup(config, key), allowed)
    if lookup(config, "model.name") == "convnet" and config["model"]["depth"] < 2:
        raise bad_value("model.depth", config["model"]["depth"], "must be at least 2 for model=convnet")


def has(config: Mapping[str, Any], key: str) -> bool:
    """Whether a dotted key stands in the config, whatever its value."""
    *parents, last = key.split(".")
    node: Any = lookup(config, ".".join(parents)) if parents else config
    return isinstance(node, Mapping) and last in node

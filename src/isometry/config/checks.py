"""Values and combinations that cannot be trained with, refused before anything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from isometry.config.keys import KEYS
from isometry.config.targets import check_all_are_built, check_targets
from isometry.errors import bad_value, nearest
from isometry.runs.table import lookup

_PARTS = [key.split(".") for key in KEYS]
SECTIONS = sorted({".".join(parts[:n]) for parts in _PARTS for n in range(1, len(parts))})
"""Everything that stands above a key."""
CLOSED = (
    *("callbacks.signals", "callbacks.checkpoints", "callbacks.early_stopping"),
    *("logger", "lr_scaling", "verdict"),
)
"""Sections that have the declared keys and no others: what Hydra sees to on a command line, and
nobody in the file of a run directory.
"""
TELLING = {"model": ("name", "_target_"), "activation": ("name",), "initializer": ("name",)}
"""What an option must have of these, to be told from others in the name of a run."""


def validate_values(config: Mapping[str, Any]) -> None:
    """Test each value of a resolved config by itself.

    Raises:
        UserError: for the first value that is not of its key's kind.
    """
    for section in SECTIONS:
        if has(config, section) and not isinstance(lookup(config, section), Mapping):
            raise bad_value(section, _short(lookup(config, section)), "must be a section of keys")
    for section in CLOSED:
        _check_closed(config, section)
    for section, keys in TELLING.items():
        if has(config, section) and not any(has(config, f"{section}.{key}") for key in keys):
            raise bad_value(
                section, "...", f"the option that was chosen has no {' or '.join(keys)}"
            )
    for key, kind in KEYS.items():
        if has(config, key) and not kind.accepts(lookup(config, key)):
            raise bad_value(key, _short(lookup(config, key)), kind.words)


def _check_closed(config: Mapping[str, Any], section: str) -> None:
    if not has(config, section):
        return
    declared = {key.removeprefix(f"{section}.") for key in KEYS if key.startswith(f"{section}.")}
    found = set(map(str, lookup(config, section)))
    for key in sorted(found ^ declared):
        why = "is missing" if key in declared else f"no such key{nearest(key, declared)}"
        raise bad_value(f"{section}.{key}", "", why)


def _short(value: Any) -> str:
    text = str(value).encode(errors="replace").decode()  # of a path that is no text
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def validate(config: Mapping[str, Any]) -> None:
    """Test the values of a resolved config of a training, and how they go together.

    Raises:
        UserError: for the first that cannot be trained with.
    """
    validate_values(config)
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
    if (
        lookup(config, "initializer.sigma_b") == "auto"
        and "critical" not in str(lookup(config, "initializer._target_")).lower()
    ):
        raise bad_value("initializer.sigma_b", "auto", "is for initializer=critical")
    _check_clipping(config)
    if lookup(config, "loss") == "mse" and has(config, "data.task"):
        raise bad_value("loss", "mse", "data of texts, which have many labels, takes cross_entropy")
    _check_memory(config)
    _check_verdict(config)


def _check_memory(config: Mapping[str, Any]) -> None:
    """The weights of the plain networks: what is too large for this machine is killed by it."""
    depth = lookup(config, "model.depth") or 0
    key = "model.width" if has(config, "model.width") else "model.channels"
    side = lookup(config, key) or 0
    weights = int(depth) * int(side) ** 2 * int(lookup(config, "model.kernel_size") or 1) ** 2
    gigabytes = weights * BYTES_PER_WEIGHT / 2**30
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if gigabytes > here:
        words = f"{depth} such layers take {gigabytes:,.0f} GB in training; here are {here:,.0f}"
        raise bad_value(key, side, words)


BYTES_PER_WEIGHT = 12
"""Weight, gradient and the weight at step 0, in float32."""


def _check_clipping(config: Mapping[str, Any]) -> None:
    """A clipping that has no threshold does not clip."""
    algorithm = lookup(config, "trainer.gradient_clip_algorithm")
    unlimited = lookup(config, "trainer.gradient_clip_val") is None
    if unlimited and algorithm in ("layer", "adaptive"):
        words = "needs trainer.gradient_clip_val"
        raise bad_value("trainer.gradient_clip_algorithm", algorithm, words)


def _check_verdict(config: Mapping[str, Any]) -> None:
    low, high = (lookup(config, f"verdict.{key}") for key in ("vanishing_below", "exploding_above"))
    if low is not None and high is not None and low >= high:
        raise bad_value(
            "verdict.vanishing_below", low, f"must be below verdict.exploding_above={high}"
        )


def processes_of(devices: Any) -> int:
    """How many train together, as far as `trainer.devices` says it: `auto` is at least one."""
    if devices == "auto":
        return 1
    return devices if isinstance(devices, int) else len(devices)


def has(config: Mapping[str, Any], key: str) -> bool:
    """Whether a dotted key stands in the config, whatever its value."""
    *parents, last = key.split(".")
    node: Any = lookup(config, ".".join(parents)) if parents else config
    return isinstance(node, Mapping) and last in node

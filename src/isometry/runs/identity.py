"""Which run a configuration is: its id."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

IRRELEVANT = (
    "callbacks.progress",
    "curvature",
    "data.cache_dir",
    "hydra",
    "label",
    "logger",
    "metric",
    "paths",
    "pictures",
    "print_config",
    "rerun",
    "resume",
    "study_name",
    "tags",
)
"""Keys that cannot change a result; dotted paths into the resolved config. `trainer.devices` counts
only as a number.
"""

LIMITS = {
    *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
    *("overfit_batches", "val_check_interval"),
}
"""Of the trainer, where 1 is a batch and 1.0 all of them."""

MAX_LENGTH = 100


def run_id(config: Mapping[str, Any]) -> str:
    """A readable slug of the main choices and eight hex digits of a hash, e.g.
    `mlp-d30-tanh-orthogonal-s1-3fa94c21`.

    Args:
        config: the resolved config as plain containers.
    """
    slug = "-".join(_choices(config))
    safe = re.sub(r"[^a-z0-9.-]+", "_", slug.lower()).strip("._-")
    return f"{safe[: MAX_LENGTH - 9]}-{config_hash(config)}"


def _choices(config: Mapping[str, Any]) -> list[str]:
    model = config["model"]
    words = [str(model.get("name") or model["_target_"])]
    words += [f"d{model['depth']}"] if "depth" in model else []
    phi = config["activation"]["name"]
    words += (
        [config["initializer"]["name"]] if phi == "own" else [phi, config["initializer"]["name"]]
    )
    normalization = config["normalization"]["kind"]
    words += [] if normalization == "none" else [normalization]
    remedy = _section(dict(config), "remedy").get("name", "none")
    words += [] if remedy == "none" else [remedy]
    return [*words, f"s{config['seed']}"]


def config_hash(config: Mapping[str, Any]) -> str:
    """Eight hex digits over everything that can change the result."""
    text = json.dumps(_canonical(relevant(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the keys of `IRRELEVANT`, and with a device count instead of device
    indices.
    """
    kept = copy.deepcopy(dict(config))
    for path in IRRELEVANT:
        *parents, last = path.split(".")
        node = kept
        for parent in parents:
            node = _section(node, parent)
        node.pop(last, None)
    data = _section(kept, "data")
    if isinstance(data.get("raw_dir"), str):
        data["raw_dir"] = os.path.realpath(data["raw_dir"])
    trainer = _section(kept, "trainer")
    if isinstance(trainer.get("devices"), list):
        trainer["devices"] = len(trainer["devices"])
    for limit in LIMITS & trainer.keys():
        if isinstance(trainer[limit], int):
            trainer[limit] = f"{trainer[limit]} batches"
    return kept


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of the config; of a stranger's file, in which it may be anything, nothing."""
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _canonical(value: Any) -> Any:
    """1 and 1.0 are one value; so is a number whatever its spelling in YAML."""
    if isinstance(
        value, dict
    ):  # asking an abstract class about a new type walks all its subclasses: 0.2 s in all
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if (
        isinstance(value, float)
        and math.isfinite(value)
        and value == int(value)
        and abs(value) < 2**53
    ):
        return int(value)
    return value

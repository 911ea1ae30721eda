"""Which `_target_`s of a config are honoured, and the one `instantiate`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from isometry.config.compose import conf_dir, extra_conf_dir
from isometry.errors import UserError, bad_value

METADATA = ("name", "kinks")
"""Keys of a config node that name it for people and are not passed to its target."""

_REGISTERED: set[str] = set()


def register_target(path: str) -> None:
    """Honour a `_target_` that stands in no config of the installation (for forks that build
    configs in code).
    """
    _REGISTERED.add(path)


@cache
def _installed_targets(folders: tuple[Path, ...]) -> frozenset[str]:
    pattern = re.compile(r"^\s*_target_:\s*['\"]?([\w.]+)", re.MULTILINE)
    files = (path for folder in folders for path in folder.rglob("*.yaml"))
    return frozenset(target for path in files for target in pattern.findall(path.read_text()))


def allowed_targets() -> frozenset[str]:
    """Every `_target_` of the installed configs, of `ISOMETRY_CONF`, and those a fork
    registered.
    """
    folders = tuple(folder for folder in (conf_dir(), extra_conf_dir()) if folder is not None)
    return _installed_targets(folders) | _REGISTERED


def instantiate(node: DictConfig | Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Build what a config node describes. The only place of the project that does.

    Args:
        node: has `_target_`; its other keys but `METADATA` are keyword arguments.
        args, kwargs: passed on.

    Raises:
        UserError: for a target that is not honoured, and for an argument the target refuses.
    """
    plain = (
        OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    )
    check_targets(plain)  # type: ignore[arg-type]
    import hydra.utils

    assert isinstance(plain, dict)
    target = plain["_target_"]
    arguments = {
        str(key): value for key, value in plain.items() if key not in (*METADATA, "_target_")
    }
    try:
        factory = hydra.utils.get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target}: cannot be imported ({error})") from error
    if arguments.pop("_partial_", False):
        factory = functools.partial(functools.partial, factory)
    try:
        return factory(*args, **{key: _build(value) for key, value in arguments.items()}, **kwargs)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(f"{target} refuses {given}: {error}") from error


def _build(value: Any) -> Any:
    return instantiate(value) if isinstance(value, dict) and "_target_" in value else value


def _targets(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _targets(child)


def check_targets(config: Mapping[str, Any]) -> None:
    """Refuse a config with a `_target_` that is not honoured, wherever it stands.

    Raises:
        UserError: for the first such target. Nothing has been imported by then.
    """
    for target in _targets(config):
        _check_target(target)


def _check_target(target: str) -> None:
    if target not in allowed_targets():
        raise bad_value(
            "_target_",
            target,
            "stands in no config of this installation; put it into a file of conf/ (or of the "
            "folder ISOMETRY_CONF names) "
            "or call isometry.config.compose.register_target",
        )

"""Which `_target_`s of a config are honoured, and the one `instantiate`."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from isometry.config.compose import conf_dirs
from isometry.errors import UserError, bad_value

METADATA = ("name", "kinks")
"""Keys of a config node that name it for people and are not passed to its target."""

BUILT = frozenset(
    (
        "activation",
        "classifier",
        "data",
        "initializer",
        "model",
        "optimizer",
        "remedy",
        "scheduler",
        "trainer",
    )
)
"""Sections of a training's config from which an object is made, if they have a `_target_`; so is
each section of `callbacks`, and whatever stands inside of these."""

_REGISTERED: set[str] = set()


def register_target(path: str) -> None:
    """Honour a `_target_` that stands in no config of the installation (for forks that build
    configs in code).
    """
    _REGISTERED.add(path)


@cache
def _installed_targets(folders: tuple[Path, ...]) -> frozenset[str]:
    pattern = re.compile(r"^[^#\n]*?_target_:\s*['\"]?([\w.]+)", re.MULTILINE)
    files = (path for folder in folders for path in folder.rglob("*.yaml"))
    return frozenset(
        target for path in files for target in pattern.findall(path.read_text(encoding="utf-8"))
    )


def allowed_targets() -> frozenset[str]:
    """Every `_target_` of the installed configs, of `ISOMETRY_CONF`, and those a fork
    registered.
    """
    return _installed_targets(tuple(conf_dirs())) | _REGISTERED


def instantiate(node: DictConfig | Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Build what a config node describes. The only place of the project that does.

    Args:
        node: has `_target_`; `_args_` lists positional arguments, and its other keys but
            `METADATA` are keyword arguments.
        args, kwargs: passed on.

    Raises:
        UserError: for a target that is not honoured, and for an argument the target refuses.
    """
    plain = (
        OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    )
    check_targets(plain)  # type: ignore[arg-type]
    assert isinstance(plain, dict)
    target = plain["_target_"]
    arguments = {
        str(key): value for key, value in plain.items() if key not in (*METADATA, "_target_")
    }
    args = (*args, *map(_build, arguments.pop("_args_", ())))
    factory = _imported(target)
    if arguments.pop("_partial_", False):
        factory = functools.partial(functools.partial, factory)
    try:
        return factory(*args, **{key: _build(value) for key, value in arguments.items()}, **kwargs)
    except (TypeError, ValueError) as error:
        words = [f"{key}={value}" for key, value in arguments.items()]
        given = ", ".join(words) or "what it is given"
        raise UserError(f"{target} refuses {given}: {error}") from error


def parameters_of(node: DictConfig | Mapping[str, Any]) -> set[str]:
    """The names of the arguments that a node's target takes and the node itself does not give;
    `**` where it takes any.

    Raises:
        UserError: for a target that is not honoured or cannot be imported.
    """
    check_targets(node)  # type: ignore[arg-type]
    parameters = inspect.signature(_imported(str(node["_target_"]))).parameters.values()
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    names = {each.name for each in parameters if each.name not in node}
    return names | {"**"} if takes_any else names


def _imported(target: str) -> Any:
    import hydra.utils

    try:
        return hydra.utils.get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target}: cannot be imported ({error})") from error


def _build(value: Any) -> Any:
    """An argument, in which every node with a `_target_` is built, however deep it stands."""
    if isinstance(value, list):
        return [_build(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "_target_" in value:
        return instantiate(value)
    return {key: _build(item) for key, item in value.items()}


def targets(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and value of every `_target_` of a config."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, str(node["_target_"])
        for key, child in node.items():
            yield from targets(child, f"{path}.{key}".removeprefix("."))
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from targets(child, f"{path}.{index}")


def check_targets(config: Mapping[str, Any]) -> None:
    """Refuse a node with a `_target_` that is not honoured, wherever it stands.

    Raises:
        UserError: for the first such target. Nothing has been imported by then.
    """
    for _, target in targets(config):
        if target not in allowed_targets():
            raise bad_value("_target_", target, NOT_HONOURED)


NOT_HONOURED = (
    "stands in no config of this installation; put it into a file of conf/ (or of the folder "
    "ISOMETRY_CONF names) or call isometry.config.register_target"
)


def check_all_are_built(config: Mapping[str, Any]) -> None:
    """Refuse a training's config with a `_target_` from which nothing would be made.

    Raises:
        UserError: for the first such target.
    """
    for path, target in targets(config):
        section, _, rest = path.partition(".")
        if section not in BUILT and not (section == "callbacks" and rest):
            allowed = f"nothing is built from {section}; {', '.join(sorted(BUILT))} and what "
            raise bad_value(f"{path}._target_", target, f"{allowed}stands below callbacks are")

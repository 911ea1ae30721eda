"""Where configs lie, and composing them."""

from __future__ import annotations

import atexit
import functools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from isometry.errors import UserError, bad_value
from isometry.scratch import scratch_folder


def _wandb_offline() -> bool:
    return os.environ.get("WANDB_MODE", "offline") not in ("online", "run", "shared")


def _wandb_name(variable: str, otherwise: Any) -> Any:
    """What W&B's variable says; a mistake in it ends no training, which may not even log there."""
    value = os.environ.get(variable, "")
    return value if re.fullmatch(r"[^/\\#?%:\s]{1,128}", value) else otherwise


# what `conf/` asks: the default is offline, and W&B's own variable outranks a default
OmegaConf.register_new_resolver("wandb_offline", _wandb_offline, replace=True)
OmegaConf.register_new_resolver("wandb_name", _wandb_name, replace=True)


@functools.cache
def _scratch() -> str:
    """A folder until this process ends, for what Hydra insists on writing."""
    stack = ExitStack()
    atexit.register(stack.close)
    return str(stack.enter_context(scratch_folder()))


OmegaConf.register_new_resolver("scratch_folder", _scratch, replace=True)


def conf_dir() -> Path:
    """The installed `conf/`: inside the package in a wheel, beside `src/` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


def extra_conf_dir() -> Path | None:
    """A folder of a user's own options, from the environment variable `ISOMETRY_CONF`; searched
    before `conf_dir`.

    Raises:
        UserError: where there is no such folder.
    """
    named = os.environ.get("ISOMETRY_CONF")
    if named and not Path(named).is_dir():
        raise bad_value("ISOMETRY_CONF", named, "no such folder")
    return Path(named).resolve() if named else None


def conf_dirs() -> list[Path]:
    """Every folder in which options lie: the installed one, and a user's own."""
    extra = extra_conf_dir()
    return [conf_dir()] if extra is None else [conf_dir(), extra]


def is_group(name: str) -> bool:
    """Whether a config group has this name."""
    return any((folder / name).is_dir() for folder in conf_dirs())


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain containers, interpolations resolved.

    Raises:
        UserError: for an interpolation that leads nowhere.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or "config"
        raise UserError(f"{key}: is missing; give {key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def compose(verb: str = "train", overrides: Iterable[str] = ()) -> DictConfig:
    """The config that `isometry VERB overrides` would run with, without Hydra's own node; for code
    and notebooks.
    """
    from hydra import compose as hydra_compose

    with hydra_of_our_own() as search:
        return hydra_compose(verb, [*overrides, *search])


def compose_for_help(verb: str, overrides: Iterable[str]) -> tuple[DictConfig, dict[str, Any], str]:
    """The config of a verb, the option of each of its groups, and its help text."""
    from hydra import compose as hydra_compose

    with hydra_of_our_own() as search:
        config = hydra_compose(verb, [*overrides, *search], return_hydra_config=True)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    template = str(OmegaConf.to_container(config.hydra.help, resolve=False)["template"])  # type: ignore[index,call-overload]
    del config.hydra
    return config, choices, template


def compose_option(group: str, option: str) -> DictConfig:
    """What a choice `group=option` puts into a config, inherited keys included.

    Raises:
        UserError: for one that makes choices in other groups, too.
    """
    from hydra.errors import ConfigCompositionException

    try:
        node: DictConfig = compose(f"{group}/{option}")[group]
    except ConfigCompositionException as error:
        words = "chooses in other groups, too: it can be given on the command line only"
        raise bad_value(group, option, words) from error
    return node


@contextmanager
def hydra_of_our_own() -> Iterator[list[str]]:
    """Hydra set up on `conf/`, also where the running verb has one already; yields the overrides
    that find a fork's folder.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    extra = extra_conf_dir()
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield [] if extra is None else [f"hydra.searchpath=[file://{extra}]"]
    finally:
        GlobalHydra.instance().hydra = outer

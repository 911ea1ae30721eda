"""Hydra's and OmegaConf's errors in words that name the key, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from isometry.config.compose import compose, conf_dirs, is_group
from isometry.errors import UserError, nearest

NO_CHOICE = "Config group override must be a string or a list."
"""How Hydra's plain ValueError begins where a group is given null, or a number."""


def is_users(error: Exception) -> bool:
    """Whether this is a mistake in the command line or in a config."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ours = isinstance(error, UserError | HydraException | OmegaConfBaseException | YAMLError)
    return ours or str(error).startswith(NO_CHOICE)


def explain(error: Exception, verb: str, arguments: Sequence[str]) -> str:
    """One message for the user.

    Args:
        error: an exception for which `is_users` holds.
        verb: of the command line.
        arguments: behind the verb.
    """
    from hydra.errors import OverrideParseException

    text = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as KEY=VALUE; a value with spaces, commas, brackets "
            "or quotes is itself quoted: 'KEY=\"a, b\"'"
        )
    if found := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", text):
        return (
            f"{found.group(1)}: several values are a sweep, with -m; a list stands in brackets, "
            "a text with commas in quotes: KEY=[a,b], 'KEY=\"a,b\"'"
        )
    if "does not support sweep type" in text:
        return (
            "interval(...) and the like need a sweeper that searches: hydra/sweeper=optuna "
            "metric=val_accuracy hydra.sweeper.direction=maximize"
        )
    if found := re.search(
        r"Could not override '([^']+)'|Key '[^']+' is not in struct\s+full_key: (\S+)", text
    ):
        return _unknown_key(found.group(1) or found.group(2), verb, arguments)
    if found := re.search(r"Missing key (\S+)\s+full_key: (\S+)", text):
        return f"{found.group(2)}: the config has no such key"
    if text.startswith(NO_CHOICE):
        return _no_choice(arguments)
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        return _unknown_option(found.group(1), found.group(2), options(found.group(1)))
    if isinstance(error, UserError):
        return text
    return "\n".join(line for line in text.splitlines() if "HYDRA_FULL_ERROR" not in line)


def _no_choice(arguments: Sequence[str]) -> str:
    """A group that was given something else than the name of an option."""
    given = [word.partition("=") for word in arguments if is_group(word.partition("=")[0])]
    wrong = next((g for g in given if g[2] not in options(g[0])), given[-1])
    return f"{wrong[0]}={wrong[2]}: allowed are {', '.join(options(wrong[0]))}"


def _unknown_option(group: str, option: str, allowed: list[str]) -> str:
    if not allowed:  # a group of Hydra's, of which plugins have options
        return f"{group}={option}: no such option of Hydra's, or of a plugin that is installed"
    return (
        f"{group}={option}: no such option{nearest(option, allowed)}; allowed are "
        f"{', '.join(allowed)}"
    )


def _unknown_key(key: str, verb: str, arguments: Sequence[str]) -> str:
    """The nearest key of the whole config, else what stands beside the misspelt one."""
    known = sorted(leaves(compose(verb, [word for word in arguments if _is_choice(word)])))
    value = next(
        (word.partition("=")[2] for word in arguments if word.lstrip("+~").startswith(f"{key}=")),
        "",
    )
    parent = key.rpartition(".")[0]
    beside = (
        [name for name in known if name.startswith(f"{parent}.")]
        if parent
        else [n for n in known if "." not in n]
    )
    return (
        f"{key}={value}: no such key{_suggestion(key, known)}; allowed are "
        f"{', '.join(beside or known)}"
    )


def _suggestion(key: str, known: Sequence[str]) -> str:
    """A group or a key beside it whose name is near, or a key that ends so (`lr`)."""
    if "." in key:
        return nearest(key, known)
    groups = {path.name for folder in conf_dirs() for path in folder.iterdir() if path.is_dir()}
    inside = [name for name in known if name.rpartition(".")[2] == key]
    if inside:
        return f"; did you mean {inside[0]}?"
    plain = {*groups, *(name for name in known if "." not in name)} - {key}
    return nearest(key.lower(), sorted(plain)) or nearest(key, known)


def _is_choice(word: str) -> bool:
    """Whether an override chooses an option that exists: `model=convnet`."""
    group, _, option = word.partition("=")
    return is_group(group) and option in options(group)


def options(group: str) -> list[str]:
    """The options of a config group, those of a fork's folder among them."""
    files = (path for folder in conf_dirs() for path in (folder / group).glob("*.yaml"))
    return sorted({path.stem for path in files})


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values of a config."""
    plain: Any = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"

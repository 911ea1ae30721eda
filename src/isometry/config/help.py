"""`isometry VERB --help`: what the verb does, the groups that apply to it, its keys with their
defaults; `--help KEY`: what a key may be.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from omegaconf import OmegaConf

from isometry.config.compose import compose_for_help, is_group
from isometry.config.keys import FREE, KEYS
from isometry.config.messages import leaves, options
from isometry.config.words import RENAMED
from isometry.errors import UserError, nearest
from isometry.runs.table import lookup

WIDTH = 120
NAMES = 15
"""Characters of the column of group names."""
UNREAD = {
    "diagnose": (
        *("callbacks", "debug", "label", "logger", "metric", "pictures", "print_config"),
        *("rerun", "resume", "study_name", "tags"),
    )
}
"""What a verb takes, as its command line is that of a training, and does not read: its help does
not show it."""


def help_of(verb: str, overrides: Sequence[str], asked: str | None = None) -> str:
    """The text of a verb's help, for the choices of a command line.

    Args:
        verb: of `cli.VERBS`.
        overrides: of the command line.
        asked: a key, a section of keys, or a group to be explained; None: the overview.

    Raises:
        UserError: for a key that the verb has not.
    """
    config, chosen, template = compose_for_help(verb, overrides)
    values = _read_by(verb, _values(config))
    chosen = _read_by(verb, chosen)
    if asked is not None:
        return _help_of_key(verb, asked, values, chosen)
    what, _, examples = template.partition("Example")
    lines = [what.strip(), ""]
    groups = list(_groups(chosen))
    lines += ["Choices (GROUP=OPTION), the chosen one first:", *groups, ""] if groups else []
    lines += ["Values (KEY=VALUE) with their defaults; --help KEY says what one may be:"]
    lines += [*_sections(values), "", f"Example{examples.rstrip()}"]
    return "\n".join(lines)


def _help_of_key(verb: str, asked: str, values: dict[str, Any], chosen: dict[str, Any]) -> str:
    key = RENAMED.get(verb, {}).get(asked, asked)
    group = {name: option for name, option in chosen.items() if name == key}
    explained = [*_groups(group), *_explained(values, key)]
    if explained:
        return "\n".join(explained)
    if key in chosen:
        return f"{key}: has no option yet; a folder of your own has, which ISOMETRY_CONF names"
    raise UserError(f"isometry {verb} has no key {asked}{nearest(asked, [*values, *chosen])}")


def _read_by(verb: str, entries: dict[str, Any]) -> dict[str, Any]:
    unread = UNREAD.get(verb, ())
    return {key: value for key, value in entries.items() if key.partition(".")[0] not in unread}


def _values(config: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    known = [key for key in leaves(config) if key in KEYS]
    own = [key for key in known if key.rpartition(".")[2] not in (*FREE, "name")]
    return {key: lookup(plain, key) for key in own}


def _groups(chosen: dict[str, Any]) -> Iterator[str]:
    for group, option in chosen.items():
        if "/" in group or not is_group(group):
            continue
        others = [name for name in options(group) if name != option]
        if others:
            yield from _wrapped(group, ", ".join([option or "(none)", *others]))


def _sections(values: dict[str, Any]) -> Iterator[str]:
    """A paragraph a section; keys that stand in none come first."""
    ordered = sorted(values, key=lambda key: (key.count(".") > 0, _section(key)))
    for section, keys in groupby(ordered, key=_section):
        words = [f"{key.removeprefix(section + '.')}={_shown(values[key])}" for key in keys]
        yield from _wrapped(f"{section}." if section else "", "  ".join(words))


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _wrapped(name: str, text: str) -> list[str]:
    first = f"  {name:{NAMES}} "
    later = " " * (NAMES + 3)
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _explained(values: dict[str, Any], asked: str) -> Iterator[str]:
    for key in (key for key in values if key == asked or key.startswith(f"{asked}.")):
        words = KEYS[key].words.removeprefix("must be ").removeprefix("allowed are ")
        yield f"{key}={_shown(values[key])}: {words}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_shown, value)) + "]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if isinstance(value, bool | None) else str(value)

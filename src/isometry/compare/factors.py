"""By what runs differ: every key of their configs that is not the same in all of them.

A choice `activation=relu` changes a dozen keys at once. It is one factor, `activation`; a key of
the same section is a factor of its own only where it varies within one choice. Seeds are no factor:
they make replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pandas as pd

from isometry.errors import UserError, nearest

REPLICATE = "seed"
"""The last part of keys that make replicates: `seed`, and `data.seed`, which follows it."""
LEADERS = ("name", "kind", "source", "rule", "_target_")
"""The key of a section that says which option was chosen; the first that there is."""
FOLLOWS = {"activation": "model", "normalization": "model", "data": "model"}
"""Choices that another one may bring along: a model its activation, say."""
ABSENT = "-"
"""The value of a key that a run's config does not have."""


@dataclass(frozen=True)
class Factors:
    """What varies between runs.

    Attributes:
        values: one row a run (in the runs' order), one column a factor: numbers, text, `ABSENT`.
        same: factor to the other keys that vary exactly as it does.
        named: of each run, whether a sweep has named it: then its place says something.
    """

    values: pd.DataFrame
    same: Mapping[str, list[str]] = field(default_factory=dict)
    named: Sequence[bool] = ()

    @property
    def names(self) -> list[str]:
        return list(self.values.columns)

    def levels(self, name: str) -> list[Any]:
        """The values of a factor in the order in which the sweeps named them; behind them those of
        runs that no sweep named, by size.
        """
        column = list(self.values[name])
        placed = [value for value, named in zip(column, self.named, strict=True) if named]
        return list(dict.fromkeys([*placed, *sorted(column, key=_by_size)]))


def _by_size(value: Any) -> tuple[bool, float, str]:
    """Numbers before words."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def factors_of(
    configs: Sequence[Mapping[str, Any]],
    named: Sequence[bool] | None = None,
    always: Sequence[str] = (),
) -> Factors:
    """The factors of some runs.

    Args:
        configs: of each run, by dotted keys (`runs.table.flat`).
        named: as of `Factors`; None: all are.
        always: keys or sections that are factors even if they do not vary.

    Raises:
        UserError: for one of these that no run has.
    """
    columns = {key: _column(configs, key) for key in _keys(configs)}
    varying = [key for key in columns if _varies(columns[key]) and not _is_seed(key)]
    wanted = [_leader(name, columns) for name in always]
    kept: dict[str, list[Hashable]] = {}
    same: dict[str, list[str]] = {}
    for key in dict.fromkeys([*wanted, *sorted(varying, key=_order)]):
        before = _covered(key, columns[key], kept)
        if before is None or key in wanted:
            kept[key] = columns[key]
        elif _section(before) != _section(key) and shown(key) not in same.get(shown(before), []):
            same.setdefault(shown(before), []).append(shown(key))
    order = list(columns)
    names = sorted(kept, key=lambda key: (_changes(kept[key], named), order.index(key)))
    labels = [shown(key) for key in names]
    labels = [key if shown(key) in labels[:i] else shown(key) for i, key in enumerate(names)]
    values = zip(labels, names, strict=True)
    frame = pd.DataFrame({label: pd.Series(kept[key], dtype=object) for label, key in values})
    return Factors(frame, same, [True] * len(configs) if named is None else named)


def _changes(column: Sequence[Hashable], named: Sequence[bool] | None) -> int:
    """How often a value changes from run to run: what was typed first changes least."""
    if named is not None and not all(named):
        return 0
    return sum(one != other for one, other in pairwise(column))


def shown(key: str) -> str:
    """A factor's name: the section for the key that names its option."""
    section, _, last = key.rpartition(".")
    return section if section and last in LEADERS else key


def _keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for config in configs for key in config))


def _column(configs: Sequence[Mapping[str, Any]], key: str) -> list[Hashable]:
    return [_plain(config[key]) if key in config else ABSENT for config in configs]


def _plain(value: Any) -> Hashable:
    """1 and 1.0 are one value, true is none of them; null is a word."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == REPLICATE


def _varies(column: Sequence[Hashable]) -> bool:
    return len(set(column)) > 1


def _leader(name: str, columns: Mapping[str, Any]) -> str:
    """The key of a factor's name."""
    for key in (name, *(f"{name}.{last}" for last in LEADERS)):
        if key in columns:
            return key
    suggestion = nearest(name, [shown(key) for key in columns])
    raise UserError(f"{name}: no run has such a key{suggestion}")


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def rank(key: str) -> int:
    """Keys that name an option come before the keys of the option."""
    last = key.rpartition(".")[2]
    return LEADERS.index(last) if last in LEADERS else len(LEADERS)


def _order(key: str) -> tuple[int, bool]:
    """By rank; what may follow another choice comes behind it."""
    return rank(key), _section(key) in FOLLOWS


def _covered(
    key: str, column: Sequence[Hashable], kept: Mapping[str, Sequence[Hashable]]
) -> str | None:
    """The factor that already tells this key's values: the option of its own section, or one that
    varies exactly as it does.
    """
    for other, values in kept.items():
        own = key.startswith(f"{_section(other)}.") or FOLLOWS.get(_section(key)) == _section(other)
        leads = own and rank(other) < len(LEADERS)
        if (leads and _tells(values, column)) or (
            _tells(values, column) and _tells(column, values)
        ):
            return other
    return None


def _tells(cause: Sequence[Hashable], effect: Sequence[Hashable]) -> bool:
    """Whether each value of one column goes with a single value of the other."""
    return len(set(zip(cause, effect, strict=True))) == len(set(cause))

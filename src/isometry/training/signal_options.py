"""What is measured when, and what is done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf

from isometry.config.compose import conf_dir
from isometry.config.keys import KEYS
from isometry.errors import UserError
from isometry.signals.own import Statistic


@dataclass(frozen=True)
class SignalOptions:
    """`conf/callbacks/default.yaml` has the defaults, `config.keys` the ranges."""

    every_n_steps: int | None
    """Record every so many optimizer steps, and always step 0 and the last one; None: never."""

    flush_every: int
    """Optimizer steps between two copies to the host; a divergence is noticed at the next one."""

    alarm_factor: float
    """Warn when the gradient norm is over so many times its running median ..."""

    alarm_steps: int | None
    """... for so many optimizer steps on end; None: never."""

    log_columns: Sequence[str]
    """Columns sent to the loggers, as `column/layer_007`."""

    statistics: Mapping[str, Statistic]
    """Of one's own, by the name of their column."""


NAMES = tuple(field.name for field in fields(SignalOptions))


def signal_options(chosen: dict[str, Any]) -> SignalOptions:
    """The defaults, with some values chosen.

    Raises:
        UserError: for a name or a value that is none.
    """
    for name, value in chosen.items():
        if name not in NAMES:
            raise UserError(f"isometry: {name}={value!r}: allowed are {', '.join(NAMES)}")
        kind = KEYS[f"callbacks.signals.{name}"]
        if not kind.accepts(value):
            raise UserError(f"isometry: {name}={value!r} {kind.words}")
    defaults: Any = OmegaConf.load(conf_dir() / "callbacks" / "default.yaml")
    values: Any = OmegaConf.to_container(defaults.signals)
    return SignalOptions(**(values | chosen))

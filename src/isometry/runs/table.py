"""What lies in the run directories of a study, read once: the config by its dotted keys, the state,
the summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from isometry.errors import Damaged
from isometry.runs.directory import LOADER, RunDirectory
from isometry.runs.identity import relevant
from isometry.runs.order import order_of


@dataclass(frozen=True)
class Record:
    """One run as its files tell.

    Attributes:
        run: its directory.
        config: what of its resolved config can change a result, by dotted keys; a list is its text.
        state: of `status.json`; `damaged` where a file is.
        summary: the content of `summary.json`, empty before the run ended.
        damage: what is wrong; None where nothing is.
    """

    run: RunDirectory
    config: Mapping[str, Any] = field(default_factory=dict)
    state: str | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    damage: str | None = None

    @property
    def seed(self) -> Any:
        return self.config.get("seed")


def runs_of(study: Path) -> list[RunDirectory]:
    """The run directories of a study: in the order in which its sweeps named them, the others
    behind, by name.
    """
    order = order_of(study)
    found = [RunDirectory(path.parent) for path in study.glob("*/status.json")]
    return sorted(found, key=lambda run: (order.get(run.run_id, len(order)), run.run_id))


def read_record(run: RunDirectory) -> Record:
    """Everything about a run but its signals. One bad run never hides the others: of damaged files
    the record says what is wrong.
    """
    try:
        return _whole(run)
    except Damaged as damage:
        return Record(run, state="damaged", damage=str(damage))
    except (ValueError, OverflowError) as error:  # a path or a number that is none
        return Record(run, state="damaged", damage=f"{run.path}: {error}")


def _whole(run: RunDirectory) -> Record:
    config = _config(run)
    status = run.status() or {}
    return Record(run, dict(flat(relevant(config))), status.get("state"), run.summary() or {})


def run_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: `run_id`, `path`, `state`, `damage` and its summary; what a run lacks is a
    missing value.
    """
    rows = [
        {
            **record.summary,
            "run_id": record.run.run_id,
            "state": record.state,
            "damage": record.damage,
            "path": str(record.run.path),
        }
        for record in records
    ]
    return pd.DataFrame(rows)


def _config(run: RunDirectory) -> dict[str, Any]:
    try:
        config = yaml.load(run.config_text() or "", Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        words = str(error).splitlines()[0]
        raise Damaged(f"{run.config}: is no YAML ({words})") from error
    if not isinstance(config, dict):
        raise Damaged(f"{run.config}: is missing, or is not the config of a run")
    return config


def flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list, or a section that is empty, is its text."""
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str | int | float | None) else str(value)


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node

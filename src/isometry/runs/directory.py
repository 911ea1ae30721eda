"""`runs/<study>/<run id>/`: where each file of a run is, and the state the run is in."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from isometry.errors import Damaged
from isometry.runs.files import is_regular, read_json, read_text, write_json, write_text
from isometry.runs.provenance import sources_digest

State = Literal["running", "finished", "diverged", "failed", "interrupted"]
STATES = get_args(State)


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: four times as fast, which a table of 1,000 runs
feels.
"""

RECORDS = ("status", "summary", "prediction", "divergence", "lock")
LARGEST_CONFIG = 100_000
"""Characters; a run's own has 5,000, and OmegaConf takes a second for so many."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        path: `<paths.runs>/<study>/<run id>`.
    """

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def study(self) -> str:
        return self.path.parent.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def signals(self) -> Path:
        return self.path / "signals.parquet"

    @property
    def signals_over_time(self) -> Path:
        """Of recurrent layers, beside `signals`: `signal_store.SignalStore.over_time`."""
        return self.path / "signals_over_time.parquet"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def initial_weights(self) -> Path:
        return self.checkpoints / "initial_weights.pt"

    def next_attempt(self, resuming: bool = False) -> int:
        """The number of the attempt that is about to begin: 1, 2, ...; a resume goes on with the
        last one, unless that has come to its end.
        """
        status = self.status() or {}
        same = resuming and status.get("state") != "finished"
        return int(status.get("attempt", 0)) + (0 if same else 1)

    def begin(self, config_yaml: str, resuming: bool = False) -> None:
        """Make the folder, write the config and `state: running`.

        Raises:
            OSError: where the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        attempt = self.next_attempt(resuming)
        start = (self.status() or {}).get("start") if resuming else _now()
        write_text(self.config, config_yaml)
        self._write_status(state="running", start=start, end=None, reason=None, attempt=attempt)

    def end(self, state: State, reason: str | None = None) -> None:
        """Write how the run ended."""
        before = self.status() or {}
        self._write_status(**{**before, "state": state, "end": _now(), "reason": reason})

    def _write_status(self, **entries: Any) -> None:
        write_json(
            self.path / "status.json",
            {**entries, "host": socket.gethostname(), "sources": sources_digest()},
        )

    def status(self) -> dict[str, Any] | None:
        """The content of `status.json`, None before the run began.

        Raises:
            Damaged: where it is no status.
        """
        path = self.path / "status.json"
        content = read_json(path)
        if content is not None:
            _check_status(path, content)
        return content

    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`, None before the run ended.

        Raises:
            Damaged: where it is no summary.
        """
        path = self.path / "summary.json"
        content = read_json(path)
        for key, value in (content or {}).items():
            if not isinstance(value, str | int | float | None) or _is_too_large(value):
                raise Damaged(f"{path}: {key} is no number and no text")
        return content

    def config_text(self) -> str | None:
        """What stands in `config.yaml`; None where there is none.

        Raises:
            Damaged: where reading it as YAML could take for ever: a kilobyte of aliases of aliases
                stands for gigabytes.
        """
        text = read_text(self.config)
        if text is not None and len(text) > LARGEST_CONFIG:
            raise Damaged(f"{self.config}: is larger than {LARGEST_CONFIG:,} bytes")
        if text is not None and _has_alias(text):
            raise Damaged(f"{self.config}: holds an alias; the config of a run has none")
        return text

    def refuse_links(self) -> None:
        """What is written here must end here.

        Raises:
            Damaged: for a link, or another special file, where this class has one of its own.
        """
        folders = (self.signals, self.signals_over_time, self.checkpoints)
        names = (self.config, self.metrics, *(self.path / f"{name}.json" for name in RECORDS))
        # Lightning's profiler appends to its own
        names = (*names, *self.path.glob("*profile*.txt"))
        inside = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
        for path in (*folders, self.path / "wandb", self.path / "tensorboard"):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise Damaged(f"{path}: must be a folder of the run's own")
        for path in (*names, *inside):
            if path.is_symlink() or (path.exists() and not is_regular(path)):
                raise Damaged(f"{path}: must be a plain file of the run's own")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_json(self.path / "summary.json", dict(summary))

    def write_prediction(self, prediction: Mapping[str, Any]) -> None:
        """Write `prediction.json`: what theory expects of the network at initialization."""
        write_json(self.path / "prediction.json", dict(prediction))

    def prediction(self) -> dict[str, Any] | None:
        """The content of `prediction.json`, None where there is none."""
        return read_json(self.path / "prediction.json")

    def write_divergence(self, account: Mapping[str, Any]) -> None:
        """Write `divergence.json`: where the first non-finite number stood, and the last profile
        before it.
        """
        write_json(self.path / "divergence.json", dict(account))


def _has_alias(text: str) -> bool:
    try:
        return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, LOADER))
    except (yaml.YAMLError, RecursionError, ValueError):
        return False  # whoever reads it says what is wrong


def _is_too_large(value: Any) -> bool:
    """A whole number that no float holds."""
    return isinstance(value, int) and abs(value) > MOST


MOST = 10**300


def _check_status(path: Path, content: dict[str, Any]) -> None:
    attempt = content.get("attempt", 1)
    if content.get("state") not in STATES:
        raise Damaged(f"{path}: state is {content.get('state')!r}, not one of {', '.join(STATES)}")
    if not isinstance(attempt, int) or isinstance(attempt, bool) or attempt < 0:
        raise Damaged(f"{path}: attempt is {attempt!r}, not a number of attempts")
    for key in ("start", "end", "reason", "host", "sources"):
        if not isinstance(content.get(key), str | None):
            raise Damaged(f"{path}: {key} is no text")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

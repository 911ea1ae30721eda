"""`runs/<study>/<run id>/`: where each file of a run is, and the state the run is in."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from isometry.runs.files import read_json, write_json, write_text
from isometry.runs.provenance import sources_digest

State = Literal["running", "finished", "diverged", "failed", "interrupted"]


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
        last one.
        """
        return int((self.status() or {}).get("attempt", 0)) + (0 if resuming else 1)

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
        """The content of `status.json`, None before the run began."""
        content: dict[str, Any] | None = read_json(self.path / "status.json")
        return content

    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`, None before the run ended."""
        content: dict[str, Any] | None = read_json(self.path / "summary.json")
        return content

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_json(self.path / "summary.json", dict(summary))

    def write_prediction(self, prediction: Mapping[str, Any]) -> None:
        """Write `prediction.json`: what theory expects of the network at initialization."""
        write_json(self.path / "prediction.json", dict(prediction))

    def prediction(self) -> dict[str, Any] | None:
        """The content of `prediction.json`, None where there is none."""
        content: dict[str, Any] | None = read_json(self.path / "prediction.json")
        return content

    def write_divergence(self, account: Mapping[str, Any]) -> None:
        """Write `divergence.json`: where the first non-finite number stood, and the last profile
        before it.
        """
        write_json(self.path / "divergence.json", dict(account))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

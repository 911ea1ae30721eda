"""What a multirun prints when it has ended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class ReportAtEnd(Callback):
    """Hydra callback: reports the study when a multirun has ended; exit code 1 if a job of the pool failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra builds this object at the start of every command: pandas and matplotlib are imported only here
        from isometry.console import wide_console
        from isometry.report import report_study
        from isometry.runs.table import runs_of

        study = Path(config.paths.runs) / config.study_name
        if runs_of(study):
            report_study(study, wide_console())
        sweep = sys.modules.get("isometry.launch.sweep")
        if sweep is not None and sweep.failures:
            raise SystemExit(1)

"""What a multirun prints when it has ended."""

from __future__ import annotations

import math
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class ReportAtEnd(Callback):
    """Hydra callback: reports the study when a multirun has ended; exit code 1 if a job or the
    report failed.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        fine = _report(Path(config.paths.runs) / config.study_name)
        _say_best(Path(config.hydra.sweep.dir) / "optimization_results.yaml", config.metric)
        sweep = sys.modules.get("isometry.launch.sweep")
        if not fine or (sweep is not None and sweep.failures):
            raise SystemExit(1)


def _say_best(path: Path, metric: str | None) -> None:
    """What a searching sweeper has found: its own file, where there is one."""
    if path.is_file():
        found = OmegaConf.load(path)
        words = ", ".join(f"{key}={value}" for key, value in found.best_params.items())
        best = f"{metric} {found.best_value:.4g} with {words}"
        known = math.isfinite(found.best_value)  # the worst there is stands for what diverged
        print(f"Best: {best if known else f'none; no run has {metric}'}")


def _report(study: Path) -> bool:
    """Report a study that has runs; whether that went well. Hydra would make a warning of an
    exception, and exit code 0.
    """
    # Hydra builds the callback at the start of every command: pandas and matplotlib are imported
    # only here
    from isometry.console import wide_console
    from isometry.runs.table import runs_of
    from isometry.verbs.report import report_study

    try:
        if runs_of(study):
            report_study(study, wide_console())
    except Exception as error:
        if not isinstance(error, OSError):  # a full disk, say, is no mistake of the program
            traceback.print_exc()
        print(f"isometry: no report ({error}); the runs are in {study}", file=sys.stderr)
        return False
    return True

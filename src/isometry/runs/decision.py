"""What is to be done with a run: the only place that decides."""

from __future__ import annotations

import shutil
from typing import Literal

from isometry.runs.directory import RunDirectory
from isometry.runs.identity import sources_digest

Decision = Literal["train", "skip"]
RERUN = (None, "all", "failed")
_OVER = ("finished", "diverged")


def decide(run: RunDirectory, rerun: str | None) -> tuple[Decision, str]:
    """Whether to train this run, and why, in words for the user.

    Args:
        run: its directory, which need not exist.
        rerun: None skips what is over; `failed` trains failed runs anew (as does None); `all` trains everything anew.
    """
    status = run.status()
    if status is None:
        return "train", "new"
    if status["state"] not in _OVER or rerun == "all":
        return "train", f"was {status['state']}"
    if status.get("sources") != sources_digest():
        return "skip", f"{status['state']} already, with other sources of isometry; rerun=all trains it again"
    return "skip", f"{status['state']} already; rerun=all trains it again"


def clear(run: RunDirectory) -> None:
    """Remove what an earlier attempt recorded; its status (which counts the attempts) and its W&B folders stay."""
    shutil.rmtree(run.signals, ignore_errors=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for path in (run.metrics, run.path / "summary.json"):
        path.unlink(missing_ok=True)

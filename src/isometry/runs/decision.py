"""What is to be done with a run: the only place that decides."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, Literal

import yaml

from isometry.runs.directory import LOADER, RunDirectory
from isometry.runs.lock import holder
from isometry.runs.provenance import sources_digest

Decision = Literal["train", "resume", "skip", "busy"]
RERUN = (None, "all", "failed")
ANEW = "rerun=all trains it again"
_OVER = ("finished", "diverged")
_CUT_SHORT = ("interrupted", "running", "failed")


def decide(
    run: RunDirectory, rerun: str | None, limits: Mapping[str, Any] | None = None
) -> tuple[Decision, str]:
    """Whether to train, resume or skip this run, or to leave it to the process that trains it; and
    why, for the user.

    Args:
        run: its directory, which need not exist.
        rerun: None skips what is over and goes on with what is not, failed runs included;
            `failed` trains failed runs anew; `all` trains everything anew.
        limits: the section `trainer` of the config that is to be trained with; a finished run goes
            on where it asks for more than the run's own.
    """
    owner = holder(run.path)
    return (
        ("busy", f"is being trained by {owner}")
        if owner is not None
        else decide_by_status(run, rerun, limits)
    )


def decide_by_status(
    run: RunDirectory, rerun: str | None, limits: Mapping[str, Any] | None = None
) -> tuple[Decision, str]:
    """`decide`, but for who holds the lock: what its holder asks."""
    status = run.status()
    if status is None:
        return "train", "new"
    state = status["state"]
    same = status.get("sources") == sources_digest()
    sources = "" if same else ", with other sources of isometry"
    if rerun == "all":
        return "train", f"was {state}"
    beyond = [] if limits is None or state != "finished" else _beyond_own(run, limits)
    fewer = any(d < 0 for d in beyond)
    if any(d > 0 for d in beyond) and not fewer:
        return "resume", f"finished already{sources}; goes on, as more is asked for"
    if state in _OVER:
        return "skip", f"{state} already{', with more than is asked for' * fewer}{sources}; {ANEW}"
    anew = state == "failed" and rerun == "failed"
    if state in _CUT_SHORT and run.last_checkpoint.exists() and not anew:
        return (
            "resume",
            f"was {state}{sources}; goes on from its last checkpoint (rerun=all starts over)",
        )
    return "train", f"was {state}"


def _beyond_own(run: RunDirectory, limits: Mapping[str, Any]) -> list[float]:
    """By how much each limit is higher than the run's own: a run that was taken on has higher ones
    than its id says.
    """
    config = yaml.load(run.config_text() or "", LOADER)
    own = config.get("trainer", {}) if isinstance(config, dict) else {}
    return [_limit(limits, key) - _limit(own, key) for key in ("max_epochs", "max_steps")]


def _limit(trainer: Mapping[str, Any], key: str) -> float:
    """A limit as a number; without one, more than any."""
    value = trainer.get(key)
    return UNLIMITED if value in (None, -1) else float(value)


UNLIMITED = 1e15


def clear(run: RunDirectory) -> None:
    """Remove what an earlier attempt recorded; its status (which counts the attempts) and its W&B
    folders stay.
    """
    shutil.rmtree(run.signals, ignore_errors=True)
    shutil.rmtree(run.signals_over_time, ignore_errors=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for path in (
        run.metrics,
        run.path / "summary.json",
        run.path / "divergence.json",
        run.path / "prediction.json",
    ):
        path.unlink(missing_ok=True)

"""What only shows when a network is built, found before any job of a sweep runs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from omegaconf import DictConfig

from isometry.errors import UserError
from isometry.launch.job import Job
from isometry.runs.identity import relevant
from isometry.training.processes import STOPS, end_with_parent

SECONDS = 20.0
"""How long is rehearsed; what is not reached is told by the job itself."""


def rehearse(context: Any, jobs: Sequence[Job], elsewhere: bool = False) -> None:
    """Build data and network of every job that differs in more than its seed, in a process of its
    own: what is imported there is not imported here.

    Args:
        context: of `multiprocessing`.
        jobs: that are to run.
        elsewhere: whether they run on other machines, which have devices and files of their own.

    Raises:
        UserError: for the first job that cannot be built.
    """
    if not jobs:
        return
    kinds = {_kind(job.config): job for job in reversed(jobs)}
    chosen = sorted(kinds.values(), key=lambda job: job.number)
    ours, theirs = context.Pipe()
    configs = [dict(job.config) for job in chosen]
    arguments = (configs, elsewhere, theirs)
    process = context.Process(target=_build_all, args=arguments, daemon=True)
    process.start()
    theirs.close()
    failed: tuple[int, str] | None = None
    with suppress(EOFError):  # it was killed, by its own memory, say: the job itself will tell
        failed = ours.recv()
    process.join()
    if failed is not None:
        job = chosen[failed[0]]
        raise UserError(f"job #{job.number} ({job.words}): {failed[1]}")


def _kind(config: Mapping[str, Any]) -> str:
    """What makes a difference to the building."""
    kept = relevant(config)
    kept.pop("seed", None)
    kept.get("data", {}).pop("seed", None)
    return json.dumps(kept, sort_keys=True, default=str)


def _build_all(configs: Sequence[dict[str, Any]], elsewhere: bool, answer: Connection) -> None:
    """In the other process: answers with the index of the first config that cannot be built and the
    message, or None.
    """
    from omegaconf import OmegaConf

    from isometry.training.run import prepare

    build = _build_elsewhere if elsewhere else prepare
    for number in STOPS:  # nothing has to be tidied up
        signal.signal(number, signal.SIG_DFL)
    end_with_parent()
    until = time.monotonic() + SECONDS
    for index, config in enumerate(configs):
        try:
            build(OmegaConf.create(config))
        except UserError as error:
            answer.send((index, str(error)))
            return
        except Exception:  # a fault that is none of the user's: its job shows where
            break
        if time.monotonic() > until:
            break
    answer.send(None)


def _build_elsewhere(config: DictConfig) -> None:
    """What does not depend on the machine; data that cannot be read here may be read there."""
    from isometry.config.checks import processes_of
    from isometry.config.machine import check_shares
    from isometry.training.build import build_data
    from isometry.training.run import classifier_for

    check_shares(config, processes_of(config.trainer.devices))
    try:
        data = build_data(config)
    except UserError:
        return
    classifier_for(config, data)

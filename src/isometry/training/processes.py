"""Whether this process is one of several that train together."""

from __future__ import annotations

import os

PARENT = os.getppid()
"""Who started this process."""


def inside_launcher() -> bool:
    """Whether several processes were started together: by torchrun, or by srun with several
    tasks.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return (
        int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
        or not inside_launcher()
    )


def launcher_is_gone() -> bool:
    """Whether the launcher of processes that train together has died: what then goes wrong in one
    is no failure of the run.
    """
    return inside_launcher() and os.getppid() != PARENT

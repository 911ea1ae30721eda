"""The weights at step 0 in a file of their own: displacement is taken from them, also after a
resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from isometry.errors import Damaged
from isometry.training.callbacks.checkpoints import load_intact, save_whole


def write_initial(path: Path, initial: Sequence[Tensor]) -> None:
    """Write `Recorder.initial` whole; once a run, where each checkpoint would otherwise carry all
    weights twice.
    """
    save_whole(list(initial), path)


def read_initial(path: Path) -> list[Tensor] | None:
    """What `write_initial` has written, on the CPU; None, and a warning, where it is not to be had:
    the training goes on.
    """
    try:
        found: list[Tensor] = load_intact(path)
    except Damaged as damage:
        words = "without the weights at step 0 displacement is null from here on"
        warnings.warn(f"{damage}; {words}", stacklevel=2)
        return None
    return found

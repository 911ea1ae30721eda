"""The weights at step 0 in a file of their own: displacement is taken from them, also after a
resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from isometry.training.callbacks.checkpoints import save_whole


def write_initial(path: Path, packed: Sequence[Tensor]) -> None:
    """Write `Recorder.initial` whole; once a run, where each checkpoint would otherwise carry all
    weights twice.
    """
    save_whole(list(packed), path)


def read_initial(path: Path) -> list[Tensor] | None:
    """What `write_initial` has written, on the CPU; None, and a warning, where it is not to be had:
    the training goes on.
    """
    try:
        found: list[Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever unpickling a stranger's bytes runs into
        warnings.warn(
            f"{path}: the weights at step 0 cannot be read ({type(error).__name__}); without "
            "them displacement is null from "
            f"here on",
            stacklevel=2,
        )
        return None
    return found

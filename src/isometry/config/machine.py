"""What a config asks of this machine and the machine does not have, told before anything is
built.
"""

from __future__ import annotations

import os

import torch
from omegaconf import DictConfig

from isometry.config.checks import processes_of
from isometry.errors import bad_value

PROCESSES_A_CORE = 4
"""At most so many train on a CPU: more than one gain nothing, and hundreds take all memory."""


def check_machine(config: DictConfig) -> None:
    """Test accelerator and devices.

    Raises:
        UserError: where there is no such accelerator, or not so many.
    """
    accelerator = config.trainer.accelerator
    devices = config.trainer.devices
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise bad_value(
            "trainer.accelerator",
            accelerator,
            "this machine has no CUDA GPU that torch can use; cpu or auto work",
        )
    on_cpu = accelerator == "cpu" or (
        accelerator == "auto" and not torch.accelerator.is_available()
    )
    if on_cpu and config.trainer.precision == "16-mixed":
        words = "a CPU has no 16-mixed (Lightning would silently train in bf16-mixed, and say 16)"
        raise bad_value("trainer.precision", "16-mixed", words)
    processes = processes_of(devices)
    check_shares(config, processes)
    most = PROCESSES_A_CORE * (os.cpu_count() or 1)
    if on_cpu and processes > most:
        words = f"every process is one of its own: at most {most} on this machine's cores"
        raise bad_value("trainer.devices", devices, words)
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise bad_value(
            "trainer.accelerator", accelerator, "this machine has no Apple GPU; cpu or auto work"
        )
    if (
        accelerator in ("gpu", "cuda")
        and isinstance(devices, int)
        and devices > torch.cuda.device_count()
    ):
        raise bad_value(
            "trainer.devices", devices, f"this machine has {torch.cuda.device_count()} CUDA GPUs"
        )


def check_shares(config: DictConfig, processes: int) -> None:
    """Every process takes an equal share of a batch, or the mean of their gradients is none of the
    batch.

    Raises:
        UserError: where a batch cannot be shared so.
    """
    size = config.data.get("batch_size")
    if isinstance(size, int) and size % processes:
        words = f"must be a multiple of the {processes} processes that share a batch"
        raise bad_value("data.batch_size", size, words)

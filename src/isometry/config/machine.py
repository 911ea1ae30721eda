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
    check_shares(config, processes_of(config.trainer.devices))
    accelerator = config.trainer.accelerator
    if accelerator in ("gpu", "cuda"):
        _check_gpus(config)
    if accelerator == "mps" and not torch.backends.mps.is_available():
        words = "this machine has no Apple GPU; cpu or auto work"
        raise bad_value("trainer.accelerator", accelerator, words)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available()):
        _check_cpu(config)


def _check_gpus(config: DictConfig) -> None:
    accelerator, devices = config.trainer.accelerator, config.trainer.devices
    if not torch.cuda.is_available():
        words = "this machine has no CUDA GPU that torch can use; cpu or auto work"
        raise bad_value("trainer.accelerator", accelerator, words)
    found = torch.cuda.device_count()
    if isinstance(devices, int) and devices > found:
        raise bad_value("trainer.devices", devices, f"this machine has {found} CUDA GPUs")


def _check_cpu(config: DictConfig) -> None:
    if config.trainer.precision == "16-mixed":
        words = "a CPU has no 16-mixed (Lightning would silently train in bf16-mixed, and say 16)"
        raise bad_value("trainer.precision", "16-mixed", words)
    devices = config.trainer.devices
    most = PROCESSES_A_CORE * (os.cpu_count() or 1)
    if processes_of(devices) > most:
        words = f"every process is one of its own: at most {most} on this machine's cores"
        raise bad_value("trainer.devices", devices, words)


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

"""Which devices a job gets: a queue of tokens, each held by one job at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence


def available(devices: str | int | Sequence[int | str], accelerator: str) -> list[str]:
    """The devices of this machine, as `cuda:0` or `cpu:0`; a CPU slot is one core.

    Args:
        devices: `auto`, how many, or their names or indices.
        accelerator: what the jobs train on; `auto` takes GPUs where there are some.
    """
    gpus = [] if accelerator in ("cpu", "mps") else visible_gpus()
    kind = "cuda" if gpus or accelerator in ("gpu", "cuda") else "cpu"
    if devices == "auto":
        return (
            [f"cuda:{gpu}" for gpu in gpus]
            if kind == "cuda"
            else [f"cpu:{core}" for core in range(cores())]
        )
    if isinstance(devices, int):
        names: Sequence[int | str] = gpus[:devices] if kind == "cuda" and gpus else range(devices)
        return [f"{kind}:{name}" for name in names]
    assert not isinstance(devices, str)
    return [name if isinstance(name, str) and ":" in name else f"{kind}:{name}" for name in devices]


def visible_gpus() -> list[str]:
    """NVIDIA GPUs as CUDA would number them, without asking CUDA: this process must not initialize
    it.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Tokens:
    """The free devices; a device stands in it as often as jobs may share it.

    Args:
        devices: names, as of `available`.
        jobs_per_device: jobs that share one.
    """

    def __init__(self, devices: Sequence[str], jobs_per_device: int = 1):
        self.total = len(devices)
        self.free = [device for _ in range(jobs_per_device) for device in devices]

    def take(self, count: int) -> list[str] | None:
        """So many different devices, None while they are not free."""
        chosen = list(dict.fromkeys(self.free))[: min(count, self.total)]
        if len(chosen) < min(count, self.total):
            return None
        for device in chosen:
            self.free.remove(device)
        return chosen

    def give_back(self, devices: Sequence[str]) -> None:
        """Free again."""
        self.free.extend(devices)


def environment(devices: Sequence[str]) -> dict[str, str]:
    """The variables by which a job sees its devices only."""
    gpus = [name.removeprefix("cuda:") for name in devices if name.startswith("cuda:")]
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}

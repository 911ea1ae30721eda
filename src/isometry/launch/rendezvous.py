"""Where the processes of a run on one machine meet: files in a folder that only this user can open.

torchrun's own meeting place is a port on all interfaces, and it unpickles what it is sent: whoever
reaches the machine could run a command as the user who trains.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "isometry-files"
"""The name under which torchrun's launcher finds `OneMachine`."""


class OneMachine(RendezvousHandler):
    """The launcher's side: of one launcher there is nobody to wait for.

    Args:
        parameters: of the launcher; the endpoint is the private folder.
    """

    def __init__(self, parameters: RendezvousParameters):
        self._run_id = parameters.run_id
        self._store = dist.FileStore(str(Path(parameters.endpoint) / "launcher"), 1)
        self._closed = False

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        # torchrun hands an address on to the processes, which nobody opens: see `group`
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("localhost", 0))

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self._closed = True
        return True


rendezvous_handler_registry.register(BACKEND, OneMachine)


@contextmanager
def group(folder: Path, accelerator: str) -> Iterator[None]:
    """This process as one of the group that trains together; Lightning finds it there.

    Args:
        folder: which only this user can open.
        accelerator: `trainer.accelerator`.
    """
    world_size = int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(str(folder / "processes"), world_size)
    found = torch.accelerator.current_accelerator(check_available=True)
    device = found if accelerator != "cpu" else None
    backend = dist.get_default_backend_for_device(device or "cpu")
    if os.path.isdir("/sys/class/net/lo"):  # nor do their sums leave the machine
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        backend, store=store, rank=int(os.environ["RANK"]), world_size=world_size
    )
    yield  # after an error nobody may be left to say goodbye to
    dist.destroy_process_group()

"""Processes that train together leave after the same step."""

from __future__ import annotations

import torch.distributed as dist

from isometry.signals.distributed import world_size

AHEAD = 2
"""Steps between the wish to leave and leaving."""


class LeaveTogether:
    """Any process may ask for an end; all see it after the same step.

    A signal reaches each process in another place. Would each leave after its own step, one would
    wait for gradients that never come. Who wants to leave after step s says so for the end of step
    s + 2, before it takes part in step s + 1. No other process is through with s + 2 by then: the
    gradients of a step are summed over all processes. One step would do if a process waited for
    that sum; on GPUs it is a batch ahead of it (Lightning waits for the device once a batch).

    Looking costs a question to the processes' store (20 microseconds on one machine, an all-reduce
    300), on the host alone.

    Args:
        fit: which training of the process group this is; what was said in an earlier one does not
            count.
    """

    def __init__(self, fit: int = 0) -> None:
        self._fit = fit
        self._store = dist.distributed_c10d._get_default_store() if world_size() > 1 else None

    def leave(self, step: int, wish: bool) -> bool:
        """Whether all leave at the next occasion; asked by each process at the end of each step.

        Args:
            step: the steps taken.
            wish: whether this process wants to leave.

        Raises:
            KeyboardInterrupt: where the launcher is gone, and the store with it: nothing can be
                agreed on any more.
        """
        if self._store is None:
            return wish
        try:
            now: bool = self._store.check([self._key(step)])
            if wish and not now:
                # waits for the answer: no question after it comes too early
                self._store.add(self._key(step + AHEAD), 1)
        except dist.DistError:
            raise KeyboardInterrupt from None
        return now

    def _key(self, step: int) -> str:
        return f"isometry/leave/{self._fit}/{step}"

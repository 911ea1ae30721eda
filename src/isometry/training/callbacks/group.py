"""Several callbacks as one, to Lightning.

Lightning calls every hook of every callback, overridden or not, each under a profiler context: with
many callbacks that shows in the step of a small network. The group calls a hook only of those who
have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint

HOOKS = tuple(name for name in vars(Callback) if name.startswith(("on_", "setup", "teardown")))


class CallbackGroup(Checkpoint):
    """Calls its members' hooks in their order; their states are kept apart by class name.

    A `Checkpoint` to Lightning, which calls those last at the end of an epoch: checkpoints are
    members, too.

    Args:
        members: callbacks of different classes.
    """

    def __init__(self, members: Sequence[Callback]):
        self.members = {type(member).__name__: member for member in members}
        if len(self.members) != len(members):
            raise ValueError("a group holds one callback of each class")
        for hook in HOOKS:
            takers = [
                getattr(m, hook)
                for m in members
                if getattr(type(m), hook) is not getattr(Callback, hook)
            ]
            if takers:
                setattr(self, hook, _chain(takers))

    def state_dict(self) -> dict[str, Any]:
        return {name: member.state_dict() for name, member in self.members.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in state_dict.keys() & self.members.keys():
            self.members[name].load_state_dict(state_dict[name])


def _chain(takers: list[Callable[..., None]]) -> Callable[..., None]:
    if len(takers) == 1:
        return takers[0]

    def call(*args: Any, **kwargs: Any) -> None:
        for taker in takers:
            taker(*args, **kwargs)

    return call

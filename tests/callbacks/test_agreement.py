"""Two processes, here two objects at one store, leave after the same step."""

import pytest
import torch.distributed as dist

from isometry.callbacks import agreement
from isometry.callbacks.agreement import Agreement


@pytest.fixture
def two(monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(agreement, "world_size", lambda: 2)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    return Agreement(), Agreement()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_did_not_ask_leaves_too_and_after_the_same_step(two, order):
    """The signal reaches process 0 in step 3; whoever comes first to the end of a step, the decision is one."""
    left = {0: [], 1: []}
    for step in range(1, 6):
        for process in order:
            if two[process].leave(step, wish=process == 0 and step >= 3):
                left[process].append(step)
    assert left[0][0] == left[1][0] == 4


def test_two_who_ask_in_neighbouring_steps_leave_together(two):
    """Process 1 is through with step 3 when the signal comes; process 0 is not."""
    assert not two[1].leave(3, wish=False)
    assert not two[0].leave(3, wish=True)
    assert two[0].leave(4, wish=True)
    assert two[1].leave(4, wish=True)


def test_a_step_left_out_is_made_up_for(two):
    """Nobody leaves at the end of an epoch, where nobody asks."""
    assert not two[0].leave(3, wish=True)
    for process in two:  # step 4 is the epoch's last
        assert not process.leave(5, wish=process is two[0])
    assert two[0].leave(6, wish=True)
    assert two[1].leave(6, wish=False)


def test_one_process_leaves_at_once():
    alone = Agreement()
    assert [alone.leave(3, wish=False), alone.leave(3, wish=True)] == [False, True]

"""Two processes, here two objects at one store, leave after the same step."""

import pytest
import torch.distributed as dist

from isometry.training.callbacks import leave_together
from isometry.training.callbacks.leave_together import LeaveTogether


@pytest.fixture
def two(monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(leave_together, "world_size", lambda: 2)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    return LeaveTogether(1), LeaveTogether(1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_did_not_ask_leaves_too_and_after_the_same_step(two, order):
    """The signal reaches process 0 in step 3; whoever comes first to the end of a step, the
    decision is one.
    """
    left = {0: [], 1: []}
    for step in range(1, 7):
        for process in order:
            if two[process].leave(step, wish=process == 0 and step >= 3):
                left[process].append(step)
    assert left[0][0] == left[1][0] == 5


def test_two_who_ask_in_neighbouring_steps_leave_together(two):
    """Process 1 is through with step 3 when the signal comes; process 0 is not."""
    assert not two[1].leave(3, wish=False)
    assert not two[0].leave(3, wish=True)
    assert [process.leave(4, wish=True) for process in two] == [False, False]
    assert [process.leave(5, wish=True) for process in two] == [True, True]


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_process_that_runs_ahead_of_the_others_device_leaves_with_them(two, ahead):
    """Process 1 is `ahead` steps further than process 0, which is asked to leave in step 3."""
    left = {0: [], 1: []}
    for step in range(1, 8):
        for process, at in ((1, step + ahead), (0, step)):
            if two[process].leave(at, wish=process == 0 and at >= 3):
                left[process].append(at)
    assert left[0][0] == left[1][0] == 5


def test_a_later_training_of_the_same_processes_begins_anew(two):
    two[0].leave(3, wish=True)
    assert two[1].leave(5, wish=False)
    assert not LeaveTogether(2).leave(5, wish=False)


def test_where_the_launcher_is_gone_each_leaves_without_a_word(two, monkeypatch):
    """Not as an error: the run's checkpoint is good, and it goes on from there."""

    class Gone:
        def check(self, keys):
            raise dist.DistNetworkError("connection reset")

    monkeypatch.setattr(two[0], "_store", Gone())
    with pytest.raises(KeyboardInterrupt):
        two[0].leave(3, wish=True)


def test_one_process_leaves_at_once():
    alone = LeaveTogether()
    assert [alone.leave(3, wish=False), alone.leave(3, wish=True)] == [False, True]

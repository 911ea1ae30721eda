"""The queue over devices, with made-up device ids."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.launch.devices import Tokens, available, environment


def test_what_a_machine_has(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert available("auto", "auto") == ["cuda:2", "cuda:5"]
    assert available(1, "gpu") == ["cuda:2"]
    assert available([5], "auto") == ["cuda:5"]
    assert available(3, "cpu") == ["cpu:0", "cpu:1", "cpu:2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert all(name.startswith("cpu:") for name in available("auto", "auto"))
    assert available(["cuda:7"], "auto") == ["cuda:7"]


def test_a_job_sees_its_own_gpus_only():
    assert environment(["cuda:2", "cuda:5"]) == {"CUDA_VISIBLE_DEVICES": "2,5"}
    assert environment(["cpu:0"]) == {}


def test_several_jobs_on_a_device_and_several_devices_a_job():
    tokens = Tokens(["cuda:0", "cuda:1"], jobs_per_device=2)
    assert tokens.take(2) == ["cuda:0", "cuda:1"]
    assert tokens.take(2) == ["cuda:0", "cuda:1"]
    assert tokens.take(1) is None
    tokens.give_back(["cuda:1"])
    assert tokens.take(2) is None  # one device is not two
    assert tokens.take(1) == ["cuda:1"]


def test_a_job_that_wants_more_than_there_is_gets_all_there_is():
    assert Tokens(["cpu:0"]).take(4) == ["cpu:0"]


@settings(max_examples=100, derandomize=True)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=30),
)
def test_no_device_holds_too_many_jobs_and_none_idles_while_a_job_that_fits_waits(
    devices, share, work
):
    """The pool's loop with a clock of its own: jobs are (devices wanted, time taken)."""
    tokens = Tokens([f"cuda:{index}" for index in range(devices)], share)
    waiting = list(work)
    running = []
    now = 0
    while waiting or running:
        while waiting and (held := tokens.take(waiting[0][0])) is not None:
            running.append((now + waiting.pop(0)[1], held))
        counts = [name for _, held in running for name in held]
        assert all(counts.count(name) <= share for name in counts)
        assert all(len(set(held)) == len(held) for _, held in running)
        if waiting:
            assert len(set(tokens.free)) < min(waiting[0][0], devices)
        now = min(end for end, _ in running)
        for end, held in [job for job in running if job[0] == now]:
            tokens.give_back(held)
            running.remove((end, held))
    assert sorted(tokens.free) == sorted([f"cuda:{index}" for index in range(devices)] * share)
    assert now >= max(time for _, time in work)


def test_nothing_to_hand_out_is_no_device():
    with pytest.raises(AssertionError):
        available("some", "cpu")

"""One process trains a run: a living owner keeps others out, a dead one's lock is taken over."""

import json
import multiprocessing
import os
import socket
import time

import pytest

from isometry.runs import lock as locks
from isometry.runs.decision import decide
from isometry.runs.directory import RunDirectory
from isometry.runs.lock import RunBusy, RunLock, holder


def test_a_second_owner_is_told_who_has_it(tmp_path):
    with (
        RunLock(tmp_path),
        pytest.raises(RunBusy, match=f"process {os.getpid()} on {socket.gethostname()}"),
    ):
        RunLock(tmp_path).acquire()
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def _die_with_lock(folder):
    RunLock(folder).acquire()
    os._exit(9)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_die_with_lock, args=(tmp_path,))
    process.start()
    process.join()
    assert (tmp_path / "lock.json").exists()
    assert holder(tmp_path) is None
    with RunLock(tmp_path):
        assert holder(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_pid_that_was_used_again_is_not_the_owner(tmp_path):
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": "1"}
    (tmp_path / "lock.json").write_text(json.dumps(owner))
    assert holder(tmp_path) is None


def test_another_hosts_lock_lives_by_its_heartbeat(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    assert holder(tmp_path) == "process 1 on elsewhere"
    old = time.time() - locks.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert holder(tmp_path) is None
    RunLock(tmp_path).acquire()


def test_the_heartbeat_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    with RunLock(tmp_path) as lock:
        os.utime(lock.path, (1, 1))
        deadline = time.time() + 10
        while lock.path.stat().st_mtime < 2 and time.time() < deadline:
            time.sleep(0.02)
        assert lock.path.stat().st_mtime > 2


def _race(folder, results):
    try:
        RunLock(folder).acquire()
        results.put("got")
        time.sleep(1.0)
    except RunBusy:
        results.put("busy")
    os._exit(0) if False else time.sleep(1.0)


def test_of_many_that_come_at_once_one_gets_a_stale_lock(tmp_path):
    owner = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "1"}
    (tmp_path / "lock.json").write_text(json.dumps(owner))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path, results)) for _ in range(8)]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found) == ["busy"] * 7 + ["got"]


def test_the_decision_leaves_a_run_to_its_owner(tmp_path):
    run = RunDirectory(tmp_path / "study" / "run")
    run.begin("a: 1")
    with RunLock(run.path):
        for rerun in (None, "all", "failed"):
            decision, why = decide(run, rerun)
            assert decision == "busy"
            assert f"process {os.getpid()}" in why
    assert decide(run, None)[0] == "train"

"""One process trains a run: a living owner keeps others out, a dead one's lock is taken over."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pyarrow as pa
import pytest

from isometry.launch.ddp import train_rank
from isometry.runs import lock as locks
from isometry.runs.decision import decide
from isometry.runs.directory import RunDirectory
from isometry.runs.files import remove_unfinished, write_text
from isometry.runs.lock import LockLost, Owner, RunBusy, RunLock, holder
from isometry.runs.signal_store import SignalStore
from isometry.training.callbacks.checkpoints import save_whole
from isometry.training.run import say_what_is_watched


def rows():
    return pa.table({"step": [0], "layer": [1]})


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


def written(folder, **entries):
    """A lock file of another process, as its owner would write it."""
    owner = {**asdict(Owner.this_process()), "token": "theirs", **entries}
    (folder / "lock.json").write_text(json.dumps(owner))
    return folder / "lock.json"


@pytest.fixture
def quick(monkeypatch):
    """Hearts that beat faster."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.05)


def test_a_pid_that_was_used_again_is_not_the_owner(tmp_path):
    written(tmp_path, started="1")
    assert holder(tmp_path) is None


@pytest.mark.parametrize("seconds", [-3600, -90, 0, 90, 3600])
@pytest.mark.parametrize(
    "elsewhere", [{"host": "elsewhere", "machine": "elsewhere"}, {"machine": "another namespace"}]
)
def test_another_machines_lock_lives_by_its_heartbeat_whatever_its_clock_says(
    tmp_path, quick, seconds, elsewhere
):
    """A container has its own process numbers under the same host name."""
    path = written(tmp_path, **elsewhere)
    clock = time.time() + seconds
    os.utime(path, (clock, clock))
    beating = threading.Event()

    def beat():
        now = clock
        while not beating.wait(0.2):
            now += 0.2
            os.utime(path, (now, now))

    heart = threading.Thread(target=beat)
    heart.start()
    assert holder(tmp_path) is not None
    with pytest.raises(RunBusy):
        RunLock(tmp_path).acquire()
    beating.set()
    heart.join()
    assert holder(tmp_path) is None
    RunLock(tmp_path).acquire()


def test_an_owner_that_another_machine_follows_is_alive(tmp_path, quick):
    path = written(tmp_path, machine="elsewhere")

    def follow():
        time.sleep(0.3)
        path.unlink()
        written(tmp_path, machine="elsewhere", token="next")

    thread = threading.Thread(target=follow)
    thread.start()
    assert holder(tmp_path) is not None
    thread.join()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 3}', "\x00\xff", '"x"', "null"])
def test_a_damaged_lock_lives_by_its_heartbeat_too(tmp_path, quick, text):
    (tmp_path / "lock.json").write_text(text)
    assert holder(tmp_path) is None
    with RunLock(tmp_path):
        assert holder(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path, quick):
    os.mkfifo(tmp_path / "lock.json")
    with RunLock(tmp_path):
        pass


def test_the_heartbeat_beats_through_a_failure(tmp_path, quick, monkeypatch):
    failed = []
    touch = os.utime

    def fails_once(*arguments):
        if not failed:
            failed.append(True)
            raise OSError("the disk is away")
        touch(*arguments)

    monkeypatch.setattr(locks.os, "utime", fails_once)
    with RunLock(tmp_path) as lock:
        first = lock.path.stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while lock.path.stat().st_mtime_ns == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert failed
        assert lock.path.stat().st_mtime_ns > first


def take_over(lock, folder):
    lock.path.unlink()
    written(folder, pid=1, host="elsewhere")


def test_who_has_lost_the_lock_writes_no_more(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLock(folder) as lock:
        write_text(folder / "deep" / "a.txt", "before")
        take_over(lock, folder)
        for write in (
            lambda: write_text(folder / "deep" / "a.txt", "after"),
            lambda: write_text(folder / "new" / "b.txt", "after"),
            lambda: RunDirectory(folder).end("finished"),
            lambda: SignalStore(folder / "signals.parquet").append(rows()),
            lambda: save_whole({}, folder / "checkpoints" / "last.ckpt"),
        ):
            with pytest.raises(LockLost, match="process 1 on elsewhere trains this run now"):
                write()
        write_text(tmp_path / "elsewhere.txt", "not of that run")
    assert sorted(path.name for path in folder.iterdir()) == ["deep", "lock.json"]
    assert (folder / "deep" / "a.txt").read_text() == "before"
    assert json.loads(lock.path.read_text())["token"] == "theirs"  # only its own is given back
    write_text(folder / "deep" / "a.txt", "who does not train may write")


def test_a_run_that_was_removed_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLock(folder):
        shutil.rmtree(folder)
        with pytest.raises(LockLost, match="was removed while it trained"):
            save_whole({}, folder / "checkpoints" / "last.ckpt")
    assert not folder.exists()


def test_a_rank_of_a_launcher_that_died_writes_nothing(tmp_path):
    """Its run may be another's by the time it comes to life."""
    with RunLock(tmp_path), pytest.raises(LockLost):
        train_rank(RunDirectory(tmp_path), "an earlier launcher's", tmp_path, resuming=False)
    assert list(tmp_path.iterdir()) == []


def _race(folder, results):
    try:
        RunLock(folder).acquire()
        results.put("got")
        time.sleep(1.0)
    except RunBusy:
        results.put("busy")
    os._exit(0) if False else time.sleep(1.0)


def test_of_many_that_come_at_once_one_gets_a_stale_lock(tmp_path):
    written(tmp_path, pid=2**22 + 1, started="1")
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


def test_process_numbers_of_another_namespace_are_others():
    """A container with the host's network: the same host name, and its own process 7."""
    script = "from isometry.runs.lock import this_machine; print(this_machine())"
    inside = ["unshare", "-pf", "--mount-proc", sys.executable, "-c", script]
    try:
        done = subprocess.run(inside, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("unshare is not allowed here")
    there = done.stdout.strip()
    assert there != locks.this_machine()
    assert there.split()[:2] == locks.this_machine().split()[:2]


def test_who_asks_for_a_lock_is_not_swept_away(tmp_path, monkeypatch):
    """Its holder, which has just begun, sweeps up what killed processes have left."""
    real = os.link

    def link(source, target):
        remove_unfinished(tmp_path)
        return real(source, target)

    with RunLock(tmp_path):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(RunBusy, match="is being trained"):
            RunLock(tmp_path).acquire()


def test_what_is_waited_for_is_said(tmp_path, capsys):
    run = RunDirectory(tmp_path / "s" / "r")
    run.path.mkdir(parents=True)
    with RunLock(run.path) as lock:
        say_what_is_watched([run])
        assert capsys.readouterr().err == ""  # a process of this machine tells at once
        owner = {**asdict(lock.owner), "machine": "another", "host": "far"}
        lock.path.write_text(json.dumps(owner))
        say_what_is_watched([run])
        assert "on far; its heartbeat is waited for, 10 s" in capsys.readouterr().err
        lock.path.unlink()

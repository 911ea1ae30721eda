"""What the pool makes of a job's process that has ended, and of a run that is another process's."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from isometry.errors import UserError
from isometry.launch.job import Job
from isometry.launch.pool import Pool, _stoppable
from isometry.runs.directory import RunDirectory
from isometry.runs.lock import RunBusy, RunLock
from isometry.training.run import begun, plan, take


def ended(run: RunDirectory, code: int) -> Job:
    job = Job(0, "seed=0", {}, run, 1, process=SimpleNamespace(exitcode=code))
    job.finish()
    return job


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "study" / "run")
    directory.begin("a: 1")
    return directory


@pytest.mark.parametrize(("code", "state"), [(0, "busy"), (1, "failed"), (130, "interrupted")])
def test_a_run_that_another_process_trains_stays_what_it_is(run, code, state):
    """Two sweeps at once: the job that came second ends while the first one trains (this process
    holds the lock).
    """
    with RunLock(run.path):
        assert ended(run, code).state == state
    assert run.status()["state"] == "running"


@pytest.mark.parametrize(("code", "state"), [(-9, "failed"), (130, "interrupted")])
def test_a_killed_job_leaves_its_run_interrupted(run, code, state):
    assert ended(run, code).state == state
    assert run.status()["state"] == "interrupted"
    assert not (run.path / "lock.json").exists()


def test_what_another_process_has_finished_is_done_and_stays_finished(run):
    run.end("finished")
    assert ended(run, 0).state == "done"
    assert ended(run, -9).state == "failed"
    assert run.status()["state"] == "finished"


def test_a_job_that_never_began_leaves_no_run(tmp_path):
    assert ended(RunDirectory(tmp_path / "study" / "run"), 2).state == "failed"
    assert not (tmp_path / "study").exists()


def test_a_run_that_others_trained_while_this_process_was_building_is_not_trained_again(
    make_config,
):
    config = make_config("model.depth=3")
    run, config, decision = plan(config)
    assert decision == "train"
    run.begin("a: 1")
    run.end("finished")
    before = run.status()
    meantime = "another process has trained it in the meantime: finished already"
    with pytest.raises(RunBusy, match=meantime), begun(config, run, decision):
        pass
    assert run.status() == before
    assert not (run.path / "lock.json").exists()
    config.rerun = "all"
    take(run, "train", config).release()  # who asked for everything anew gets it


def test_a_lock_that_is_held_is_told_with_the_run(make_config):
    run, config, _ = plan(make_config("model.depth=3"))
    run.path.mkdir(parents=True)
    held = f"{run.run_id} is being trained by process"
    with RunLock(run.path), pytest.raises(RunBusy, match=held), begun(config, run, "train"):
        pass


def test_a_run_that_cannot_begin_gives_its_lock_back(make_config, monkeypatch):
    run, config, decision = plan(make_config("model.depth=3"))

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(RunDirectory, "begin", refuse)
    refused = re.escape(f"paths.runs={config.paths.runs}: cannot write there (read-only)")
    with pytest.raises(UserError, match=refused), begun(config, run, decision):
        pass
    assert not (run.path / "lock.json").exists()


def test_the_time_in_which_the_forkserver_imports_is_not_the_jobs(run):
    """The first job of a sweep waits for it, by seconds; `timeout_minutes` would stop it before it
    began.
    """

    class Process:
        def __init__(self, **_: object):
            pass

        def start(self) -> None:
            self.ready = time.time()

    job = Job(0, "seed=0", {}, run, 1)
    job.start(SimpleNamespace(Process=Process), "module:task", ["cpu:0"], {})
    assert job.state == "running"
    assert job.started >= job.process.ready


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_in_a_finalizer_stops_the_sweep_all_the_same(run, number, monkeypatch):
    """Python drops what is raised there; the next look at the jobs raises it again, before another
    one starts.
    """

    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    job = Job(0, "seed=0", {"trainer": {"accelerator": "cpu"}}, run, 1)
    before = signal.getsignal(number)
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: dropped.append(what.exc_type))
    with _stoppable() as received:
        Dying()
        assert (received, dropped) == ([number], [KeyboardInterrupt])
        with pytest.raises(KeyboardInterrupt):
            Pool("auto", 1, None)._run([job], received)
    assert job.state == "waiting"
    assert signal.getsignal(number) is before

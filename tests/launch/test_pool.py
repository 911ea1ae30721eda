"""Sweeps through the pool, as a user runs them: fresh processes, no overlap, skip, resume,
failures, faults.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from commands import ISOMETRY, SMALL
from isometry.config.compose import compose
from isometry.runs.directory import RunDirectory
from isometry.runs.table import runs_of
from isometry.training.run import train

pytestmark = pytest.mark.slow


def command(folder: Path, *words: str) -> list[str]:
    return [ISOMETRY, "train", "-m", *SMALL, f"paths.runs={folder}/runs", "study_name=s", *words]


def start(folder: Path, data: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ISOMETRY_DATA": str(data), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command(folder, *words),
        cwd=folder,
        env=environment,
        text=True,
        start_new_session=True,
        **pipes,
    )


def sweep(folder: Path, data: Path, *words: str, timeout: float = 180) -> tuple[int, str]:
    """Exit code and everything printed."""
    process = start(folder, data, *words)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def runs(folder: Path) -> list[RunDirectory]:
    return runs_of(folder / "runs" / "s")


def states(folder: Path) -> list[str]:
    return sorted((run.status() or {})["state"] for run in runs(folder))


def test_a_sweep_runs_once_and_says_so_the_second_time(tmp_path, data_cache):
    code, text = sweep(
        tmp_path, data_cache, "seed=0,1,2", "activation=tanh,relu", "trainer.max_steps=4"
    )
    assert code == 0, text
    assert states(tmp_path) == ["finished"] * 6
    assert "6 jobs, 0 done already or elsewhere, 6 to run" in text
    before = {run.run_id: (run.path / "status.json").read_text() for run in runs(tmp_path)}
    code, text = sweep(
        tmp_path, data_cache, "seed=0,1,2,3", "activation=tanh,relu", "trainer.max_steps=4"
    )
    assert code == 0
    assert "8 jobs, 6 done already or elsewhere, 2 to run" in text
    assert len(runs(tmp_path)) == 8
    after = {run.run_id: (run.path / "status.json").read_text() for run in runs(tmp_path)}
    assert before.items() <= after.items()  # untouched


def test_a_sweep_with_a_mistake_runs_nothing(tmp_path, data_cache):
    code, text = sweep(tmp_path, data_cache, "model.width=10,0", "trainer.max_steps=2")
    assert code == 2
    assert "job #1 (model.width=0): model.width=0" in text
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()


FAILS = """
from lightning.pytorch import Callback


class Fails(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if len(batch[0]) == 4:
            raise RuntimeError("the machine is on fire")
"""


def test_what_only_building_shows_is_found_before_anything_runs(tmp_path, data_cache):
    """The identity fits no network whose layers change their width."""
    words = ["initializer=identity,glorot_normal", "model=convnet,mlp", "seed=0,1"]
    code, text = sweep(tmp_path, data_cache, *words, "trainer.max_steps=2", "model.depth=4")
    assert code != 0
    assert "job #0 (initializer=identity model=convnet seed=0): initializer=identity" in text
    assert "model.width" not in text
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("again", [1, 2, 5])
def test_ctrl_c_twice_is_one(tmp_path, data_cache, again):
    """`timeout -s INT` sends one to the group and one to the command."""
    endless = ["trainer.max_steps=1000000", "trainer.max_epochs=100000", "seed=0,1"]
    process = start(tmp_path, data_cache, *endless)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/s/*/lock.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(again):
        os.killpg(process.pid, signal.SIGINT)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "the same command goes on with what is left" in out + err


SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=0"]


def test_optuna_searches_through_the_pool(tmp_path, data_cache):
    """Runs that diverge are the worst there are, and end no search."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = [*SEARCH, "hydra.sweeper.n_trials=6", "hydra.sweeper.direction=maximize"]
    words += ["metric=val_accuracy", "optimizer.lr=choice(0.1,1000)", "trainer.max_steps=70"]
    code, text = sweep(tmp_path, data_cache, *words, "activation=relu", "hydra.sweeper.n_trials=8")
    assert code == 0, text
    assert set(states(tmp_path)) == {"finished", "diverged"}
    found = re.search(r"Best: val_accuracy (\S+) with optimizer.lr=0.1", text)
    assert found is not None, text
    best = max(
        summary["val_accuracy"] or 0 for summary in map(RunDirectory.summary, runs(tmp_path))
    )
    assert float(found[1]) == pytest.approx(best, abs=1e-3)


def test_a_search_without_a_metric_is_refused(tmp_path, data_cache):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    code, text = sweep(tmp_path, data_cache, *SEARCH, "optimizer.lr=choice(0.1,0.2)")
    assert code == 2
    assert "metric=null: a sweeper that searches needs one" in text
    assert not (tmp_path / "runs").exists()


def test_a_search_for_what_no_run_has_ends(tmp_path, data_cache):
    """Behind the first batch of trials, whose epochs end before a validation."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = [*SEARCH, "hydra.sweeper.n_trials=6", "hydra.sweeper.direction=maximize"]
    words += ["metric=val_accuracy", "optimizer.lr=choice(0.1,0.2,0.3)", "trainer.max_steps=3"]
    code, text = sweep(tmp_path, data_cache, *words)
    assert code == 2, text
    assert "metric=val_accuracy: no run has it" in text
    assert len(runs(tmp_path)) <= 2


def test_a_search_for_the_worst_accuracy_is_refused(tmp_path, data_cache):
    """Optuna's default minimizes."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = [*SEARCH, "metric=test_accuracy", "optimizer.lr=choice(0.1,0.2)"]
    code, text = sweep(tmp_path, data_cache, *words)
    assert code == 2
    assert "hydra.sweeper.direction=minimize: metric=test_accuracy is better" in text
    assert not (tmp_path / "runs").exists()


def test_a_sweep_leaves_nothing_where_it_was_typed(tmp_path, data_cache):
    """Hydra writes a multirun.yaml."""
    code, text = sweep(tmp_path, data_cache, "seed=0,1", "trainer.max_steps=2")
    assert code == 0, text
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_failing_job_does_not_stop_the_others(tmp_path, data_cache, monkeypatch):
    (tmp_path / "conf" / "callbacks").mkdir(parents=True)
    (tmp_path / "fails.py").write_text(FAILS)
    config = "defaults: [default]\nfails: {_target_: fails.Fails}\n"
    (tmp_path / "conf" / "callbacks" / "fails.yaml").write_text(config)
    monkeypatch.setenv("ISOMETRY_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ["data.batch_size=4,8", "callbacks=fails", "trainer.max_steps=2", "seed=0,1"]
    words.append("callbacks.signals.every_n_steps=10")
    code, text = sweep(tmp_path, data_cache, *words)
    assert code == 1
    assert states(tmp_path) == ["failed", "failed", "finished", "finished"]
    assert "2 done" in text
    assert "the machine is on fire" in text  # the end of the log, in the final table
    code, text = sweep(tmp_path, data_cache, *words, "rerun=failed")
    assert "4 jobs, 2 done already or elsewhere, 2 to run" in text


def test_jobs_are_fresh_processes_on_devices_of_their_own(tmp_path, data_cache):
    """Made-up devices: no two jobs share one, and none is free for long while a job waits."""
    code, text = sweep(
        tmp_path,
        data_cache,
        "seed=range(6)",
        "trainer.max_steps=30",
        "hydra.launcher.devices=[3,8]",
    )
    assert code == 0, text
    held: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if line.startswith("#") and words[1] == "running":
            assert words[2] not in held.values(), line
            held[words[0]] = words[2]
        elif line.startswith("#") and words[1] == "done":
            assert held.pop(words[0]) == words[2]
    assert not held
    assert "cpu:3" in text
    assert "cpu:8" in text


def test_two_sweeps_at_once_train_each_run_once(tmp_path, data_cache):
    words = ["seed=range(8)", "trainer.max_steps=60", "callbacks.signals.every_n_steps=1"]
    processes = [start(tmp_path, data_cache, *words) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=180)
    assert states(tmp_path) == ["finished"] * 8
    assert {(run.status() or {})["attempt"] for run in runs(tmp_path)} == {1}
    for run in runs(tmp_path):
        frame = pd.read_parquet(run.signals)
        assert not frame.duplicated(["step", "layer"]).any()


def test_a_job_that_takes_too_long_is_stopped(tmp_path, data_cache):
    code, text = sweep(
        tmp_path,
        data_cache,
        "seed=0",
        "trainer.max_epochs=100000",
        "hydra.launcher.timeout_minutes=0.05",
    )
    assert code == 1
    assert "stopped after 0.05 minutes" in text


@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGHUP, os.kill)])
def test_ctrl_c_marks_the_runs_and_says_how_to_go_on(tmp_path, data_cache, number, send):
    """So does a terminal that is gone."""
    process = start(tmp_path, data_cache, "seed=range(4)", "trainer.max_epochs=200")
    wait_for(lambda: sum(run.metrics.exists() for run in runs(tmp_path)) >= 1)
    send(process.pid, number)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 130
    assert "the same command goes on" in out + err
    assert "Traceback" not in err
    assert set(states(tmp_path)) == {"interrupted"}


def wait_for(condition, seconds: float = 150) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


WORDS = [
    "seed=range(4)",
    "trainer.max_epochs=4",
    "callbacks.checkpoints.every_n_steps=20",
    "callbacks.signals.every_n_steps=10",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_cache):
    folder = tmp_path_factory.mktemp("undisturbed")
    for seed in range(4):
        alone(folder, data_cache, *WORDS[1:], f"seed={seed}")
    return contents(folder)


def alone(folder: Path, data: Path, *words: str) -> None:
    """Train one job of a sweep in this process."""
    train(
        compose(
            "train",
            [*SMALL, f"paths.runs={folder}/runs", f"paths.data={data}", "study_name=s", *words],
        )
    )


def begun(folder: Path, process: subprocess.Popen[str]) -> bool:
    """Whether a run of the sweep is running, or the sweep is over."""
    return process.poll() is not None or any(
        (run.status() or {}).get("state") == "running" for run in runs(folder)
    )


def contents(folder: Path) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Signals and metrics of each run, without what measures time."""
    found = {}
    for run in runs(folder):
        signals = pd.read_parquet(run.signals).sort_values(["step", "layer"], ignore_index=True)
        metrics = pd.read_csv(run.metrics).drop(columns=["images_per_second"], errors="ignore")
        found[run.run_id] = (signals, metrics)
    return found


@pytest.mark.parametrize("victim", ["sweep", "job"])
def test_kill_nine_at_any_moment_and_the_same_command_again(
    tmp_path, data_cache, undisturbed, victim
):
    """Two moments each: every run finished once, equal to the undisturbed ones to the last bit,
    some of them resumed.
    """
    generator = random.Random(victim)
    resumed = 0
    for _ in range(2):
        process = start(tmp_path, data_cache, *WORDS)
        wait_for(functools.partial(begun, tmp_path, process))
        time.sleep(generator.uniform(0.0, 1.2))
        targets = [process.pid] if victim == "sweep" else owners(tmp_path)[:1]
        for pid in targets:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate(timeout=120)
        wait_for(lambda: not owners(tmp_path))  # the orphans of a killed sweep end by themselves
        resumed += sum(run.last_checkpoint.exists() and not run.summary() for run in runs(tmp_path))
        for run in runs(tmp_path):
            json.loads((run.path / "status.json").read_text())
            if run.signals.exists():
                pd.read_parquet(run.signals)
    code, text = sweep(tmp_path, data_cache, *WORDS)
    assert code == 0, text
    assert resumed > 0
    found = contents(tmp_path)
    assert found.keys() == undisturbed.keys()
    for run_id, (signals, metrics) in undisturbed.items():
        pd.testing.assert_frame_equal(found[run_id][0], signals, check_exact=True)
        pd.testing.assert_frame_equal(found[run_id][1], metrics, check_exact=True)


ACCUMULATED = ["trainer.max_epochs=20", "trainer.accumulate_grad_batches=3", "seed=range(2)"]


def test_a_sweep_that_is_terminated_goes_on_to_the_last_bit(tmp_path, data_cache):
    """Wherever in an accumulation window its jobs are."""
    for seed in range(2):
        alone(tmp_path / "whole", data_cache, *ACCUMULATED[:-1], f"seed={seed}")
    expected = contents(tmp_path / "whole")
    folder = tmp_path / "cut"
    folder.mkdir()
    process = start(folder, data_cache, *ACCUMULATED)
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs(folder)))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert "interrupted" in states(folder)
    code, text = sweep(folder, data_cache, *ACCUMULATED)
    assert code == 0, text
    found = contents(folder)
    assert found.keys() == expected.keys()
    for run_id, (signals, metrics) in expected.items():
        pd.testing.assert_frame_equal(found[run_id][0], signals, check_exact=True)
        pd.testing.assert_frame_equal(found[run_id][1], metrics, check_exact=True)


def owners(folder: Path) -> list[int]:
    """Processes that hold the lock of a run."""
    found = []
    for path in folder.glob("runs/s/*/lock.json"):
        try:
            pid = json.loads(path.read_text())["pid"]
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(pid)
    return found


def test_ddp_jobs_in_a_sweep(tmp_path, data_cache):
    """Two jobs of two processes each: two run directories, and the gradient norms of one process
    with the same global batch.
    """
    words = [
        "trainer.max_steps=3",
        "trainer.precision=64-true",
        "callbacks.signals.every_n_steps=1",
    ]
    for seed in range(2):
        alone(tmp_path / "one", data_cache, *words, f"seed={seed}")
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "logger=wandb"]
    code, text = sweep(tmp_path, data_cache, *words, *ddp, "seed=0,1")
    assert code == 0, text
    assert len(runs(tmp_path)) == 2
    assert len(list(tmp_path.glob("runs/s/*/wandb/offline-run-*"))) == 2
    for run in runs(tmp_path):
        seed = (run.summary() or {})["seed"]
        single = next(r for r in runs(tmp_path / "one") if (r.summary() or {})["seed"] == seed)
        frames = [
            pd.read_parquet(r.signals).sort_values(["step", "layer"], ignore_index=True)
            for r in (run, single)
        ]
        pd.testing.assert_frame_equal(*frames, rtol=1e-9, atol=1e-14)


def test_a_killed_rank_fails_its_job_within_seconds_and_the_queue_goes_on(tmp_path, data_cache):
    words = [
        "seed=0,1",
        "trainer.max_epochs=12",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
    ]
    process = start(tmp_path, data_cache, *words)
    wait_for(lambda: any(run.last_checkpoint.exists() for run in runs(tmp_path)))
    (owner,) = owners(tmp_path)
    wait_for(lambda: len(ranks_of(owner)) == 2)
    os.kill(ranks_of(owner)[1], signal.SIGKILL)
    began = time.time()
    wait_for(lambda: "failed" in states(tmp_path), 30)
    assert time.time() - began < 20
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1, out + err
    assert states(tmp_path) == ["failed", "finished"]
    # the other one loses its partner
    assert "rank 1 failed" in out + err or "rank 0 failed" in out + err
    code, text = sweep(tmp_path, data_cache, *words)
    assert code == 0, text
    assert "2 jobs, 1 done already or elsewhere, 1 to run" in text
    assert states(tmp_path) == ["finished", "finished"]
    assert {(run.status() or {})["attempt"] for run in runs(tmp_path)} == {1}  # it went on


def ranks_of(owner: int) -> list[int]:
    """The processes that torchrun's launcher has started for the run of this owner, in order."""
    found = subprocess.run(
        ["pgrep", "-P", str(owner), "-f", "spawn_main"], capture_output=True, text=True
    ).stdout.split()
    return sorted(int(pid) for pid in found)

"""A study on a real one-node Slurm (scripts/local_slurm.sh): array jobs, preemption with requeue, a
two-task srun job.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from commands import ISOMETRY, SMALL
from isometry.runs.directory import RunDirectory
from isometry.runs.table import runs_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "local_slurm.sh"
HAS_SLURM = (
    shutil.which("sbatch") is not None
    and shutil.which("munged", path="/usr/sbin:/usr/bin") is not None
)
HAS_SLURM = HAS_SLURM and hasattr(os, "geteuid") and os.geteuid() == 0
pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not HAS_SLURM, reason="needs root, slurm-wlm and munge (apt-get install slurm-wlm munge)"
    ),
    pytest.mark.xdist_group("slurm"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm") / "daemons"
    done = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    yield {"SLURM_CONF": done.stdout.strip().rpartition("=")[2]}
    subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)


def start(folder: Path, data: Path, slurm: dict[str, str], *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **slurm, "ISOMETRY_DATA": str(data), "OMP_NUM_THREADS": "1"}
    command = [
        ISOMETRY,
        "train",
        "-m",
        "hydra/launcher=slurm",
        *SMALL,
        f"paths.runs={folder}/runs",
        "study_name=s",
        *words,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


def runs(folder: Path) -> list[RunDirectory]:
    return runs_of(folder / "runs" / "s")


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.1)


def test_a_study_runs_as_an_array_and_is_skipped_the_second_time(tmp_path, data_cache, slurm):
    process = start(tmp_path, data_cache, slurm, "seed=0,1,2", "trainer.max_steps=5")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert [(run.status() or {})["state"] for run in runs(tmp_path)] == ["finished"] * 3
    assert "3 done" in err
    process = start(tmp_path, data_cache, slurm, "seed=0,1,2", "trainer.max_steps=5")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "3 jobs, 3 done already or elsewhere, 0 to run" in err


def test_what_only_building_shows_is_found_before_anything_is_submitted(
    tmp_path, data_cache, slurm
):
    words = ["initializer=glorot_normal,identity", "model=convnet", "trainer.max_steps=5"]
    process = start(tmp_path, data_cache, slurm, *words)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out + err
    assert "job #1 (initializer=identity): initializer=identity" in err
    assert "submitted" not in err
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_preempted_job_writes_a_checkpoint_is_requeued_and_resumed(tmp_path, data_cache, slurm):
    """Slurm's warning signal in the middle of training; the run goes on at a step above 0 and
    equals an undisturbed one.
    """
    words = ["seed=0", "trainer.max_epochs=150", "model.depth=8"]
    process = start(tmp_path, data_cache, slurm, *words)
    wait_for(lambda: any(run.signals.exists() and run.metrics.exists() for run in runs(tmp_path)))
    (run,) = runs(tmp_path)
    listed = subprocess.run(
        ["squeue", "-h", "-o", "%i"], env={**os.environ, **slurm}, capture_output=True, text=True
    )
    (job,) = listed.stdout.split()
    subprocess.run(["scancel", "--signal=USR2", job], env={**os.environ, **slurm}, check=True)
    wait_for(lambda: (run.status() or {})["state"] == "interrupted", 30)
    assert run.last_checkpoint.exists()
    steps = pd.read_parquet(run.signals).step.max()
    environment = {**os.environ, **slurm}
    wait_for(
        lambda: (
            b"BeginTime"
            in subprocess.run(
                ["squeue", "-h", "-o", "%r"], env=environment, capture_output=True
            ).stdout
        )
    )
    # Slurm lets a requeued job wait for two minutes; once its step has gone, this shortens them
    time.sleep(8)
    subprocess.run(
        ["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, check=True
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    status = run.status() or {}
    # one attempt: resumed, not begun again
    assert (status["state"], status["attempt"]) == (
        "finished",
        1,
    )
    frame = pd.read_parquet(run.signals)
    assert frame.step.max() > steps > 0
    assert not frame.duplicated(["step", "layer"]).any()


def test_two_tasks_of_srun_are_one_run(tmp_path, data_cache, slurm):
    """DDP over the processes that Slurm starts; the numbers of one process with the same global
    batch.
    """
    words = [
        "seed=0",
        "trainer.max_steps=3",
        "trainer.precision=64-true",
        "callbacks.signals.every_n_steps=1",
    ]
    ddp = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "hydra.launcher.tasks_per_node=2",
    ]
    process = start(tmp_path, data_cache, slurm, *words, *ddp)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    (run,) = runs(tmp_path)
    single = tmp_path / "single"
    single.mkdir()
    environment = {**os.environ, "ISOMETRY_DATA": str(data_cache), "OMP_NUM_THREADS": "1"}
    command = [ISOMETRY, "train", *SMALL, *words, f"paths.runs={single}", "study_name=s"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    (one,) = runs_of(single / "s")
    frames = [
        pd.read_parquet(r.signals).sort_values(["step", "layer"], ignore_index=True)
        for r in (run, one)
    ]
    pd.testing.assert_frame_equal(*frames, rtol=1e-9, atol=1e-14)
    assert json.loads((run.path / "status.json").read_text())["attempt"] == 1

"""Who is one of several processes, whatever surrounds it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from commands import ISOMETRY, SMALL
from isometry.training.processes import inside_launcher

ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4", "SLURM_NNODES": "1"}
SURROUNDINGS = {
    "a shell of salloc": {**ALLOCATION, "SLURM_JOB_NAME": "interactive"},
    "salloc's step": {
        **ALLOCATION,
        "SLURM_JOB_NAME": "interactive",
        "SLURM_STEP_ID": "4294967290",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_PROCID": "0",
    },
    "a batch script": {**ALLOCATION, "SLURM_JOB_NAME": "mine", "SLURM_PROCID": "0"},
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_an_allocation_for_several_tasks_is_no_launcher(name, typed, tmp_path, data_cache):
    words = [*SMALL, "trainer.max_steps=2", f"paths.data={data_cache}"]
    limits = ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    done = typed("train", *words, *limits, cwd=tmp_path, **SURROUNDINGS[name])
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("runs/*/*/summary.json")
    done = typed("eval", str(summary.parent), cwd=tmp_path, **SURROUNDINGS[name])
    assert done.returncode == 0, done.stderr


def test_srun_and_torchrun_are(monkeypatch):
    assert not inside_launcher()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert inside_launcher()
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert inside_launcher()


FOREIGN = [{"TORCHELASTIC_RUN_ID": "1"}, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}]


@pytest.mark.parametrize("surroundings", FOREIGN)
def test_processes_that_others_have_started_are_refused(typed, tmp_path, surroundings):
    """Nobody would have begun the run, nor hold its lock."""
    done = typed("train", *SMALL, cwd=tmp_path, **surroundings)
    assert done.returncode == 2, done.stderr
    assert "starts the processes of a run itself" in done.stderr
    assert not list(tmp_path.iterdir())


def test_several_machines_need_slurm(typed, tmp_path):
    done = typed("train", *SMALL, "trainer.num_nodes=2", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "trainer.num_nodes=2: several machines need Slurm" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tasks", ["", "x", "1"])
def test_a_number_of_tasks_that_is_none(monkeypatch, tasks):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    assert not inside_launcher()


RANKS = {"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "3", "JSM_NAMESPACE_RANK": "1"}


def test_a_rank_that_somebody_left_in_the_environment_is_nobodys(tmp_path, data_cache):
    """Lightning reads it when it is imported, and only rank 0 logs: in a process of its own."""
    words = [*SMALL, "trainer.max_steps=3", f"paths.data={data_cache}"]
    command = [ISOMETRY, "train", *words, "trainer.limit_val_batches=1"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **RANKS}, check=True, timeout=60)
    (run,) = tmp_path.glob("runs/*/*")
    assert (run / "metrics.csv").exists()
    assert json.loads((run / "summary.json").read_text())["gradient_rate_init"] > 0

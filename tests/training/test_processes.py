"""Who is one of several processes, whatever surrounds it."""

from __future__ import annotations

import pytest

from commands import SMALL
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

"""What only building shows, found before a sweep begins: here, and for other machines."""

from __future__ import annotations

import multiprocessing

import pytest

from isometry.config.compose import resolved
from isometry.errors import UserError
from isometry.launch.job import Job
from isometry.launch.rehearsal import rehearse
from isometry.runs.directory import RunDirectory


def rehearsed(make_config, tmp_path, *lines, elsewhere):
    """Rehearse jobs with these overrides."""
    configs = [resolved(make_config(*line.split())) for line in lines]
    run = RunDirectory(tmp_path / "s" / "r")
    jobs = [Job(k, lines[k], config, run, 1) for k, config in enumerate(configs)]
    rehearse(multiprocessing.get_context("fork"), jobs, elsewhere)


IDENTITY = "model=convnet initializer=identity"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_network_that_cannot_be_built(make_config, tmp_path, elsewhere):
    with pytest.raises(UserError, match=r"job #1 \(model=convnet .*: initializer=identity"):
        rehearsed(make_config, tmp_path, "seed=1", IDENTITY, elsewhere=elsewhere)
    rehearsed(make_config, tmp_path, "seed=1", "seed=2", "model.depth=4", elsewhere=elsewhere)


@pytest.mark.parametrize(
    "line", ["trainer.accelerator=gpu", "trainer.devices=64", "data=mnist data.raw_dir=/nowhere"]
)
def test_other_machines_have_their_own_devices_and_files(make_config, tmp_path, line):
    with pytest.raises(UserError, match="job #0"):
        rehearsed(make_config, tmp_path, line, elsewhere=False)
    rehearsed(make_config, tmp_path, line, elsewhere=True)


def test_a_batch_is_shared_equally_on_any_machine(make_config, tmp_path):
    line = "trainer.devices=64 data.batch_size=100"
    with pytest.raises(UserError, match=r"data.batch_size=100: must be a multiple of the 64"):
        rehearsed(make_config, tmp_path, line, elsewhere=True)

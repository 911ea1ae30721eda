"""An offline run that was cut short and resumed: two W&B directories, one W&B id, one curve over
our own step.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import Callback

import isometry.training.run as train_module
from isometry.runs.directory import RunDirectory
from isometry.training.loggers.wandb import offline_runs
from isometry.training.run import train
from wandb_files import records


def history(folder: Path, key: str) -> dict[int, float]:
    """Value by `trainer/global_step` of one key."""
    found = {}
    for record in records(folder):
        row = record.get("history", {}).get("item", {})
        if key in row:
            found[int(row["trainer/global_step"])] = row[key]
    return found


@pytest.mark.filterwarnings("default")
def test_the_steps_of_both_directories_are_one_curve(make_config, monkeypatch):
    class StopAtSix(Callback):
        def on_train_batch_start(self, trainer, *arguments):
            if trainer.global_step >= 6:
                raise KeyboardInterrupt

    original = train_module.build_trainer
    words = [
        "model.depth=3",
        "logger=wandb",
        "trainer.max_steps=12",
        "callbacks.checkpoints.every_n_steps=4",
    ]
    config = make_config(*words, "callbacks.signals.flush_every=2")
    monkeypatch.setattr(
        train_module, "build_trainer", lambda c, r, lo, cb: original(c, r, lo, [*cb, StopAtSix()])
    )
    with pytest.raises(SystemExit):
        train(config)
    monkeypatch.setattr(train_module, "build_trainer", original)
    summary = train(config)
    run = RunDirectory(Path(config.paths.runs) / summary["study"] / summary["run_id"])
    folders = offline_runs(run)
    assert len(folders) == 2
    ids = [
        next(record["run"]["run_id"] for record in records(folder) if "run" in record)
        for folder in folders
    ]
    assert ids[0] == ids[1]  # one id: `wandb sync` joins them
    first, second = (history(folder, "backprop_norm/layer_001") for folder in folders)
    assert min(first) == 0
    assert min(second) >= 4  # from the checkpoint on, not from 0 again
    assert max(second) == 11
    for step in first.keys() & second.keys():  # measured again after the resume: the same numbers
        assert first[step] == second[step]
    shown = {
        key for record in records(folders[1]) for key in record.get("summary", {}).get("update", {})
    }
    assert "gradient_rate_init" in shown
    # they would bury the keys by which runs are compared
    assert not [key for key in shown if "/layer_" in key]
    assert summary["steps"] == 12

"""A run that is taken away while it trains: by another process, or by `rm -rf`."""

import json
import shutil
from dataclasses import asdict

import pytest
from lightning.pytorch import Callback

from isometry.runs.directory import RunDirectory
from isometry.runs.lock import LockLost, Owner
from isometry.training import run as run_module
from isometry.training.run import plan, train


class At(Callback):
    """Does something after so many steps."""

    def __init__(self, step, action):
        self.step = step
        self.action = action

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action()


def interfere(monkeypatch, step, action):
    """`train` with one more callback."""
    build = run_module.build_trainer

    def built(*arguments):
        trainer = build(*arguments)
        trainer.callbacks.append(At(step, action))
        return trainer

    monkeypatch.setattr(run_module, "build_trainer", built)


LONG = ("model.depth=3", "trainer.max_steps=30", "callbacks.signals.flush_every=4")


def test_after_a_takeover_nothing_of_the_new_owners_is_touched(make_config, monkeypatch):
    config = make_config(*LONG)
    run = plan(config)[0]
    before = {}

    def take_over():
        theirs = Owner("theirs", "elsewhere", 7, "elsewhere", None)
        (run.path / "lock.json").unlink()
        (run.path / "lock.json").write_text(json.dumps(asdict(theirs)))
        before.update(content(run))

    interfere(monkeypatch, 10, take_over)
    with pytest.raises(LockLost, match="process 7 on elsewhere trains this run now"):
        train(config)
    assert content(run) == before
    assert run.status()["state"] == "running"


def content(run: RunDirectory):
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", [2, 10, 30])
def test_a_removed_run_ends_with_a_message_and_stays_removed(make_config, monkeypatch, step):
    config = make_config(*LONG)
    run = plan(config)[0]
    interfere(monkeypatch, step, lambda: shutil.rmtree(run.path))
    with pytest.raises(LockLost, match="was removed while it trained"):
        train(config)
    assert not run.path.exists()
    monkeypatch.undo()
    assert train(config)["state"] == "finished"

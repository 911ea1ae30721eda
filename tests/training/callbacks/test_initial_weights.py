"""The weights at step 0 are written once; a resume takes displacement from them."""

import pandas as pd
import pytest
import torch

from builders import map_of, mlp
from isometry import activations
from isometry.runs.directory import RunDirectory
from isometry.signals.recorder import Recorder
from isometry.training.callbacks import Signals
from isometry.training.callbacks.checkpoints import LastCheckpoint
from isometry.training.callbacks.initial_weights import read_initial
from isometry.training.run import train

SHORT = [
    "model.depth=3",
    "model.width=5",
    "trainer.max_steps=4",
    "callbacks.signals.every_n_steps=1",
]


@pytest.fixture
def cut_short(make_config, tmp_path, monkeypatch):
    """The config and the directory of a run of four steps whose last checkpoint is of the third."""
    config = make_config(*SHORT, "callbacks.checkpoints.every_n_steps=3")
    with monkeypatch.context() as patch:
        for hook in ("on_train_epoch_end", "on_train_end"):
            patch.setattr(LastCheckpoint, hook, lambda *_: None)
        summary = train(config)
    run = RunDirectory(tmp_path / "runs" / summary["study"] / summary["run_id"])
    run.end("interrupted")
    return config, run


def displacement(run):
    return pd.read_parquet(run.signals).set_index(["step", "layer"])["displacement"].unstack()


def test_checkpoints_do_not_carry_them(cut_short):
    _, run = cut_short
    assert set(
        torch.load(run.last_checkpoint, weights_only=True)["callbacks"]["CallbackGroup"]["Signals"]
    ) == {"alarm", "alarm_step"}
    initial = read_initial(run.initial_weights)
    assert [weight.shape for weight in initial] == [(5, 28 * 28), (5, 5), (10, 5)]


def test_a_resume_does_not_write_them_again(cut_short):
    config, run = cut_short
    before = run.initial_weights.stat().st_mtime_ns
    rows = displacement(run)
    train(config)
    assert run.initial_weights.stat().st_mtime_ns == before
    assert displacement(run).equals(rows)


def test_without_them_a_resume_goes_on_and_displacement_is_null(cut_short):
    config, run = cut_short
    run.initial_weights.unlink()
    with pytest.warns(UserWarning, match=r"initial_weights\.pt.*displacement is null"):
        assert train(config)["state"] == "finished"
    assert displacement(run).isna().all(axis=1).tolist() == [False] * 3 + [True] * 2
    assert not run.initial_weights.exists()  # nothing that is not W_0 takes their place


def test_without_a_file_they_are_in_the_checkpoint():
    network = mlp((1, 3, 3), 2, activations.tanh())
    layers = map_of(network)
    signals = Signals()
    signals.recorder = Recorder(network, layers)
    state = signals.state_dict()
    for weight, spec in zip(state["initial"], layers, strict=True):
        assert torch.equal(weight, spec.weights[0])
    resumed = Signals()
    resumed.load_state_dict(state)
    assert "initial" not in resumed.state_dict()  # until it has a recorder, which takes them over
    assert resumed._known_initial(None) is state["initial"]

"""What comparing needs of a run: its end in the summary, its rate over steps, factors in W&B."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from commands import run_of
from isometry.gradient_rate import gradient_rate
from isometry.runs.directory import RunDirectory
from isometry.runs.signal_store import read_signals
from isometry.training.callbacks import ViewsMeanwhile
from isometry.training.callbacks import views as views_module
from isometry.training.loggers.wandb import make_wandb, shown_config
from isometry.training.run import train
from isometry.training.views import wandb_table
from wandb_files import records

LABEL = "activation=relu initializer.sigma_w=0.5"


def trained(config):
    summary = train(config)
    run = run_of(summary, config)
    return summary, run, read_signals(run.signals)


def test_the_summary_tells_the_end(make_config):
    summary, _, rows = trained(make_config("model.depth=4", "activation=relu"))
    hidden = rows[rows["kind"] == "hidden"]
    first = hidden[hidden["layer"] == 1]
    assert summary["displacement_layer_1"] == first["displacement"].dropna().iloc[-1] > 0
    assert summary["saturation_layer_1"] == first["saturation"].dropna().iloc[-1]
    assert summary["update_ratio_largest"] == rows["update_ratio"].max()
    last = hidden[hidden["step"] == 2]  # the row behind it holds the weights only
    assert summary["dead_largest"] == last["dead"].max()
    assert summary["lambda_max"] is None
    assert summary["alarm_step"] is None


def test_the_rate_is_a_curve(make_config):
    _, run, rows = trained(make_config("model.depth=5"))
    curve = pd.read_csv(run.metrics).set_index("step")["gradient_rate"].dropna()
    assert curve.index.tolist() == [0, 1, 2]
    for step, rate in curve.items():
        profile = rows[(rows["step"] == step) & (rows["kind"] == "hidden")]["backprop_norm"]
        assert rate == pytest.approx(gradient_rate(profile.to_numpy()).rate)


def test_lambda_max_is_that_of_a_dense_hessian_and_changes_no_training(make_config):
    """The same weights with and without: it draws no number, and works on a copy."""
    plain, _, without = trained(make_config("model.depth=3", "study_name=a"))
    found, _, rows = trained(make_config("model.depth=3", "study_name=b", "curvature=true"))
    assert found["run_id"] == plain["run_id"]
    assert found["train_loss"] == plain["train_loss"]
    pd.testing.assert_frame_equal(rows, without)
    assert 0.1 < found["lambda_max"] < 1e3


def test_the_alarm_step_is_in_the_summary(make_config):
    rising = ["optimizer.lr=0.3", "activation=relu", "initializer=gaussian"]
    rising += ["initializer.sigma_w=2.5", "model.depth=10", "trainer.max_steps=4"]
    config = make_config(
        *rising, "callbacks.signals.alarm_factor=1.01", "callbacks.signals.alarm_steps=1"
    )
    with pytest.warns(UserWarning, match="running median"):
        summary, _, _ = trained(config)
    assert summary["alarm_step"] >= 1


# ---- Weights & Biases ----------------------------------------------------------------------------


def test_wandbs_config_is_what_can_change_the_result_and_the_factors(tmp_path):
    run = RunDirectory(tmp_path / "mine" / "run")
    config = {"paths": {"runs": "x"}, "print_config": False, "model": {"depth": 3}, "label": LABEL}
    found = shown_config(config, run)
    assert found["factors"] == {"activation": "relu", "initializer_sigma_w": 0.5}
    assert found["model"] == {"depth": 3}
    assert found["study"] == "mine"
    assert {"paths", "print_config", "label"}.isdisjoint(found)


def test_a_name_says_what_differs(tmp_path):
    run = RunDirectory(tmp_path / "mine" / "run")
    arguments = ("isometry", None, True, 1.0)
    assert make_wandb(run, 1, {"label": LABEL}, *arguments)._wandb_init["name"] == LABEL
    assert make_wandb(run, 1, {}, *arguments)._wandb_init["name"] == "run"


def test_under_an_agent_id_and_group_are_the_agents(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "mine" / "run")
    arguments = ("isometry", None, True, 1.0)
    assert make_wandb(run, 2, {}, *arguments)._wandb_init["id"] == "mine-run-2"
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")  # without a sweep somebody's shell has it
    assert make_wandb(run, 2, {}, *arguments)._wandb_init["id"] == "mine-run-2"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_GROUP", "group")
    found = make_wandb(run, 2, {}, *arguments)._wandb_init
    assert (found["id"], found["group"]) == ("theirs", "group")


def test_an_agents_names_are_said(make_config, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    config = make_config("model.depth=3", "logger=wandb")
    _, run, _ = trained(config)
    assert "the agent of sweep abc names this run: theirs" in capsys.readouterr().err
    assert list(run.path.glob("wandb/offline-run-*-theirs"))


def test_the_table_of_the_charts_has_every_recorded_layer(make_config):
    _, run, rows = trained(make_config("model.depth=4", "logger=wandb", "pictures=true"))
    table = wandb_table(rows).get_dataframe()
    assert list(table) == ["step", "layer", "value", "status"]
    assert len(table) == 3 * 3  # steps and hidden layers
    one = rows[(rows["step"] == 1) & (rows["layer"] == 2)]["backprop_norm"].item()
    value = table[(table["step"] == 1) & (table["layer"] == 2)]["value"].item()
    assert value == pytest.approx(math.log10(one))
    (folder,) = run.path.glob("wandb/offline-run-*")
    text = str(records(folder))
    for words in ("signals/backprop_norm", "gradient_rate", "heatmap/backprop_norm"):
        assert words in text


# ---- while it goes on ----------------------------------------------------------------------------


class Trainer:
    sanity_checking = False


def test_views_are_shown_behind_a_validation_and_not_too_often(tmp_path, monkeypatch):
    shown = []
    now = [100.0]
    monkeypatch.setattr(views_module, "show_views", lambda *_: shown.append(now[0]))
    monkeypatch.setattr(views_module.time, "perf_counter", lambda: now[0])
    callback = ViewsMeanwhile(RunDirectory(tmp_path), [], every=60.0)
    trainer = Trainer()
    for now[0] in (110.0, 159.0, 161.0, 200.0, 222.0):
        callback.on_validation_end(trainer, None)
    assert shown == [161.0, 222.0]
    trainer.sanity_checking = True
    now[0] = 900.0
    callback.on_validation_end(trainer, None)
    assert len(shown) == 2


def test_a_running_training_has_pictures(make_config, monkeypatch):
    seen = []
    real = views_module.show_views

    def show(run, rows, loggers):
        real(run, rows, loggers)
        seen.append((run.path / "heatmap.png").exists())

    monkeypatch.setattr(views_module, "show_views", show)
    monkeypatch.setattr(ViewsMeanwhile.__init__, "__defaults__", (0.0,))
    config = make_config(
        *("model.depth=3", "pictures=true", "trainer.max_steps=70", "trainer.max_epochs=2"),
        *("callbacks.signals.every_n_steps=10", "callbacks.signals.flush_every=2"),
    )
    trained(config)
    assert seen
    assert all(seen)

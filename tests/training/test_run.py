"""`train` by its results: run directory, summary, states."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from commands import run_of
from isometry.errors import UserError
from isometry.plots.profiles import PROFILES, draw_profiles
from isometry.runs.signal_store import read_signals
from isometry.training.run import train

SUMMARY_KEYS = [
    "state",
    "outcome",
    "test_accuracy",
    "val_accuracy",
    "train_loss",
    "gradient_rate_init",
    "gradient_rate_final",
    "gradient_rate_predicted",
    "gradient_ratio_init",
    "gradient_rate_time_init",
    "gradient_ratio_time_init",
    "verdict_init",
    "saturation_init",
    "clipped_share",
    "displacement_layer_1",
    "saturation_layer_1",
    "update_ratio_largest",
    "dead_largest",
    "lambda_max",
    "alarm_step",
    "first_nonfinite_kind",
    "first_nonfinite_layer",
    "first_nonfinite_step",
    "steps",
    "wall_seconds",
    "images_per_second",
    "run_id",
    "study",
    "seed",
    "git_commit",
]


def test_a_short_training_learns_and_leaves_a_whole_run_directory(make_config):
    config = make_config(
        "model.depth=3",
        "activation=relu",
        "initializer=he_normal",
        "trainer.max_steps=-1",
        "trainer.max_epochs=3",
    )
    summary = train(config)
    run = run_of(summary, config)
    assert list(summary) == SUMMARY_KEYS
    assert summary == run.summary()
    assert summary["state"] == run.status()["state"] == "finished"
    assert summary["test_accuracy"] > 0.85  # 3 epochs reach 0.90 to 0.92 on seeds 0 to 4
    assert summary["steps"] == 3 * 62
    assert yaml.safe_load(run.config.read_text())["model"]["depth"] == 3
    metrics = pd.read_csv(run.metrics)
    assert {"train_loss", "val_accuracy", "test_accuracy", "lr", "images_per_second"} <= set(
        metrics
    )
    assert metrics["lr"].dropna().unique().tolist() == [0.05]


def test_checkpoints_load_with_weights_only(make_config):
    config = make_config("model.depth=3", "trainer.max_steps=-1", "trainer.max_epochs=1")
    run = run_of(train(config), config)
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(run.checkpoints / name, weights_only=True)
        assert checkpoint["global_step"] == 62
    files = sorted(path.name for path in run.checkpoints.iterdir())
    assert files == ["best.ckpt", "initial_weights.pt", "last.ckpt"]


def test_an_explosion_is_a_result(make_config):
    config = make_config(
        "model.depth=20", "activation=relu", "initializer=normal", "trainer.max_steps=60"
    )
    summary = train(config)
    assert summary["state"] == "diverged"
    assert summary["verdict_init"] == "exploding"
    # sqrt(width/2) in the mean-field limit
    assert summary["gradient_rate_init"] == pytest.approx(50**0.5, rel=0.1)
    assert summary["first_nonfinite_kind"] == "forward"
    assert 0 < summary["first_nonfinite_step"] < 10
    assert summary["test_accuracy"] is None
    rows = pd.read_parquet(run_of(summary, config).signals)
    assert rows["step"].max() == summary["first_nonfinite_step"]
    assert rows.query("step == 0")["update_ratio"].max() > 1e10
    account = json.loads((run_of(summary, config).path / "divergence.json").read_text())
    step = summary["first_nonfinite_step"]
    # one batch a step, every step recorded
    assert (account["batch"], account["last_finite_step"]) == (
        step,
        step - 1,
    )
    assert account["forward_layer"] == summary["first_nonfinite_layer"]
    profile = [row["backprop_norm"] for row in account["last_finite_profile"]]
    expected = rows[rows["step"] == step - 1].sort_values("layer")["backprop_norm"]
    assert profile == expected.to_list()
    status = json.loads((run_of(summary, config).path / "status.json").read_text())
    assert (
        f"layer {summary['first_nonfinite_layer']} at step {step}, batch {step}" in status["reason"]
    )


def test_the_share_of_clipped_steps(make_config):
    overrides = ("model.depth=3", "activation=tanh", "trainer.max_steps=6")
    free = train(make_config(*overrides))
    always = train(make_config(*overrides, "trainer.gradient_clip_val=1e-3"))
    never = train(
        make_config(
            *overrides, "trainer.gradient_clip_val=1e3", "trainer.gradient_clip_algorithm=value"
        )
    )
    assert (free["clipped_share"], always["clipped_share"], never["clipped_share"]) == (
        0.0,
        1.0,
        0.0,
    )


def test_a_growing_gradient_is_announced(make_config):
    alarm = ("callbacks.signals.alarm_factor=1.01", "callbacks.signals.alarm_steps=1")
    with pytest.warns(UserWarning, match="over 1.01 times its running median for 1 steps"):
        train(make_config("model.depth=3", "optimizer.lr=5", "trainer.max_steps=20", *alarm))


@pytest.mark.parametrize("initializer", ["normal", "normal_small", "he_normal"])
def test_every_run_gets_its_two_pictures(make_config, initializer):
    config = make_config(
        "model.depth=20", "activation=relu", f"initializer={initializer}", "pictures=true"
    )
    run = run_of(train(config), config)
    for name in ("profile.png", "heatmap.png"):
        assert (run.path / name).read_bytes().startswith(b"\x89PNG")


def test_the_profile_has_a_panel_of_each_column_that_was_measured(make_config):
    config = make_config("model.depth=4", "activation=sigmoid")
    run = run_of(train(config), config)
    rows = read_signals(run.signals)
    drawing = draw_profiles(rows, "t", run.prediction())
    panels = {axis.get_ylabel(): axis for axis in drawing.axes}
    assert list(panels) == list(PROFILES.values())
    saturation = panels[PROFILES["saturation"]]
    assert saturation.get_yscale() == "linear"
    shown = rows[rows["step"] == 0]["saturation"].dropna().to_numpy()
    np.testing.assert_array_equal(saturation.get_lines()[0].get_ydata(), shown)
    without = draw_profiles(rows.assign(saturation=np.nan), "t")
    assert [axis.get_ylabel() for axis in without.axes] == list(PROFILES.values())[:-1]


def test_layers_that_do_not_move_are_marked(make_config):
    """A zero has no place on a logarithmic axis."""
    config = make_config("model.depth=20", "activation=sigmoid")
    rows = read_signals(run_of(train(config), config).signals)
    still = rows[(rows["step"] == 0) & (rows["update_ratio"] == 0)]["layer"].tolist()
    assert still[:3] == [1, 2, 3]  # and not the last
    drawing = draw_profiles(rows, "t")
    (axis,) = [a for a in drawing.axes if a.get_ylabel() == PROFILES["update_ratio"]]
    marks = [line for line in axis.get_lines() if line.get_linestyle() == "None"]
    assert list(marks[0].get_xdata()) == still
    assert "zero" in [text.get_text() for text in drawing.legends[0].get_texts()]


def test_where_there_is_no_verdict_it_is_said(make_config, capsys):
    """ReZero's branches are switched off at the start."""
    words = ["model=residual_mlp", "remedy=rezero", "model.depth=8"]
    summary = train(make_config(*words))
    assert summary["verdict_init"] is None
    assert "at step 0: no verdict (backprop_norm" in capsys.readouterr().err


def test_the_heatmap_shows_the_step_at_which_numbers_stopped(make_config):
    from isometry.plots.profiles import draw_heatmap

    config = make_config("model.depth=20", "activation=relu", "initializer=normal")
    summary = train(config)
    rows = read_signals(run_of(summary, config).signals)
    axis = draw_heatmap(rows, "x").axes[0]
    assert summary["state"] == "diverged"
    red, _ = axis.get_images()
    marked = ~red.get_array().mask
    assert marked.shape == (20, summary["first_nonfinite_step"] + 1)
    assert marked[:, -1].any()
    assert not marked[:, 0].any()


def test_a_vanishing_gradient_leaves_the_first_layer_unmoved(make_config):
    config = make_config("model.depth=20", "activation=sigmoid", "trainer.max_steps=60")
    summary = train(config)
    assert summary["verdict_init"] == "vanishing"
    # the prediction of this very network, ± finite width
    assert summary["gradient_rate_predicted"] == pytest.approx(
        summary["gradient_rate_init"], rel=0.03
    )
    # χ₁ = 0.0557 at the fixed point of sigmoid under Glorot's scale: rate 0.236 (closed form by
    # quadrature), ± finite width
    assert summary["gradient_rate_init"] == pytest.approx(0.236, rel=0.05)
    rows = pd.read_parquet(run_of(summary, config).signals).query("step == 60").set_index("layer")
    assert rows.loc[1, "displacement"] < 1e-6 < 1e-3 < rows.loc[20, "displacement"]


def test_a_run_that_is_over_is_not_trained_again(make_config):
    config = make_config("model.depth=3")
    first = train(config)
    status = run_of(first, config).status()
    assert train(config) == first
    assert run_of(first, config).status() == status
    again = make_config("model.depth=3", "rerun=all")
    assert train(again)["steps"] == first["steps"]
    assert run_of(first, config).status()["attempt"] == 2


def test_a_failure_is_recorded_with_its_reason(make_config, monkeypatch):
    from isometry.training.classifier import Classifier

    def break_down(self, batch, batch_idx):
        raise RuntimeError("the machine is on fire")

    monkeypatch.setattr(Classifier, "training_step", break_down)
    config = make_config("model.depth=3")
    with pytest.raises(RuntimeError, match="on fire"):
        train(config)
    (status,) = Path(config.paths.runs).glob("*/*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"
    assert "on fire" in json.loads(status.read_text())["reason"]
    # the theory was asked before anything happened
    assert (
        json.loads((status.parent / "prediction.json").read_text())["gradient_rate_predicted"] > 0
    )


@pytest.mark.parametrize("initializer", ["glorot_normal", "normal"])
def test_signals_are_read_once_at_the_end(make_config, monkeypatch, initializer):
    read = []
    whole = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, **_: read.append(path) or whole(path, **_))
    train(make_config("model.depth=20", f"initializer={initializer}", "pictures=true"))
    assert len(read) == len(set(read)) > 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.depth=0", "model.depth=0: must be a whole number from 1 to 100000"),
        ("optimizer.lr=nan", "optimizer.lr=nan"),
        ("initializer=delta_orthogonal", "model=convnet"),
        ("data.batch_size=5000", "data.batch_size=5000: is larger than the training set of 4000"),
        ("loss=hinge", "loss=hinge: allowed are cross_entropy, mse"),
        ("data.raw_dir=/nowhere", "data.raw_dir=/nowhere"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(make_config, override, words):
    config = make_config(override)
    with pytest.raises(UserError, match=words):
        train(config)
    assert not Path(config.paths.runs).exists()


def inspect(folder):
    """The records of a W&B offline run as the SDK's own tool reads them."""
    (path,) = folder.glob("*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


@pytest.mark.filterwarnings("default")
def test_wandb_gets_values_summary_config_and_group(make_config):
    config = make_config("model.depth=4", "logger=wandb", "trainer.max_steps=3")
    summary = train(config)
    run = run_of(summary, config)
    (folder,) = run.path.glob("wandb/offline-run-*")
    text = json.dumps(inspect(folder))
    signals = pd.read_parquet(run.signals).set_index(["step", "layer"])
    for layer in (1, 4):
        assert f"backprop_norm/layer_{layer:03d}" in text
        assert repr(float(signals.loc[(2, layer), "backprop_norm"])) in text
    for words in (run.run_id, "gradient_rate_init", "verdict_init", '\\"initializer\\"', "single"):
        assert words in text or words.replace("\\", "") in text, words

"""Values and compositions drawn by chance: finished with finite weights, diverged by name, or one
message and nothing left behind. Nothing else.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from isometry.config.compose import conf_dir
from isometry.config.keys import KEYS

BASE = ["model.depth=3", "model.width=16", "trainer=cpu", "logger=csv", "pictures=false"]
BASE += ["trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]

PLAUSIBLE = ("0", "1", "2", "3", "0.5", "0.1", "1.5", "10", "100", "null", "true", "false", "auto")
ODD = ("x", "null", "true", "-1", "0", "1", "2", "1.5", "0.5", "1e-320", "1e308", "-1e39", "nan")
ODD += ("inf", "99999999999999999999", "4294967296", "[]", "[1,2]", "[0.1,0.9]", "[x]", "{a:1}")
ODD += ("''", "' '", "1e400", "0x10", "l" * 5000, "ü", "../..", "a/b", "é[/red]")
DRAWS = 200
PARTS = 10

UNLIKE_TRAINING = ("batches", "input", "vocabulary", "tries", "plot", "phase_diagram", "reach")
UNLIKE_TRAINING += ("network", "run", "checkpoint", "split", "preset", "first_seed", "draw_only")
UNLIKE_TRAINING += ("sigma_b", "sigma_b_max", "sigma_w_max")
ELSEWHERE = ("paths.runs", "paths.data", "data.cache_dir")
"""Keys of other verbs, and places that the test needs to look at."""


def drawn_values():
    rng = np.random.default_rng(0)
    keys = [key for key in KEYS if key not in (*UNLIKE_TRAINING, *ELSEWHERE)]
    pools = (ODD, PLAUSIBLE)
    return [(str(rng.choice(keys)), str(rng.choice(pools[k % 2]))) for k in range(DRAWS)]


OWN = {
    "model.channels": "model=convnet",
    "model.stages": "model=convnet",
    "model.kernel_size": "model=convnet",
    "model.padding": "model=convnet",
    "model.channel_multiplier": "model=convnet",
    "activation.alpha": "activation=elu",
    "activation.beta": "activation=swish",
    "activation.negative_slope": "activation=leaky_relu",
    "activation.initial_slope": "activation=prelu",
    "activation.module": "activation=torch_nn",
    "activation.kinks": "activation=torch_nn",
    "initializer.std": "initializer=normal",
    "initializer.sigma_w": "initializer=gaussian",
    "initializer.a": "initializer=uniform",
    "initializer.connections": "initializer=sparse",
    "initializer.distribution": "initializer=critical",
    "initializer.readout": "initializer=identity",
    "optimizer.betas": "optimizer=adam",
    "optimizer.eps": "optimizer=adam",
    "optimizer.lr_decay": "optimizer=adagrad",
    "optimizer.alpha": "optimizer=rmsprop",
    "optimizer.nesterov": "optimizer=nesterov",
    "scheduler.final": "scheduler=cosine",
    "scheduler.warmup": "scheduler=warmup_cosine",
    "scheduler.gamma": "scheduler=step",
    "scheduler.milestones": "scheduler=step",
}
"""The option that has the key."""


def assert_nothing_else(done, folder):
    """Of `isometry train`: one of the three ends."""
    statuses = [json.loads(path.read_text()) for path in folder.glob("runs/*/*/status.json")]
    assert "Traceback (most" not in done.stderr, (
        done.stderr
    )  # anomaly detection shows a forward call
    if done.returncode == 2:
        lines = [line for line in done.stderr.splitlines() if line.startswith("isometry: ")]
        assert len(lines) == 1, done.stderr
        assert not list(folder.glob("runs/*/*")), done.stderr
        return
    assert done.returncode == 0, done.stderr
    (status,) = statuses
    assert status["state"] in ("finished", "diverged"), done.stderr
    if status["state"] == "diverged":
        assert "step" in status["reason"]
        return
    (path,) = folder.glob("runs/*/*/checkpoints/last.ckpt")
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_drawn_values(typed, tmp_path, data_cache, part):
    for index, (key, value) in enumerate(drawn_values()[part::PARTS]):
        folder = tmp_path / str(index)
        folder.mkdir()
        own = [OWN[key]] if key in OWN else []
        base = [word for word in BASE if not own or "convnet" not in own[0] or "width" not in word]
        places = [f"paths.runs={folder}/runs", f"paths.data={data_cache}"]
        line = [*base, *own, *places, f"{key}={value}"]
        try:
            done = typed("train", *line, cwd=folder, timeout=60)
            assert_nothing_else(done, folder)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"isometry train {' '.join(line)}\n{error}") from error
        assert not [path for path in folder.iterdir() if path.name != "runs"], line


REMEDIES = sorted(path.stem for path in (conf_dir() / "remedy").glob("*.yaml"))

CHOICES = {
    "model": ["mlp", "mlp", "residual_mlp", "highway", "convnet"],
    "activation": None,
    "initializer": None,
    "normalization": None,
    "remedy": [*["none"] * 8, *REMEDIES],
    "data": ["mnist_5k", "mnist_5k", "unit_vectors"],
    "optimizer": None,
    "scheduler": None,
    "loss": ["cross_entropy", "mse"],
    "logger": ["csv", "none", "tensorboard"],
    "model.depth": [1, 2, 3, 5, 12],
    "data.batch_size": [1, 2, 7, 64],
    "data.eval_batch_size": [1, 33, 500],
    "data.val_size": [1, 60],
    "data.train_size": ["null", 100],
    "data.augmentation": ["none", "none", "crop_flip"],
    "seed": [0, 1, 4294967295],
    "trainer.precision": ["32-true", "32-true", "64-true", "bf16-mixed", "16-mixed"],
    "trainer.accumulate_grad_batches": [1, 1, 2, 5],
    "trainer.gradient_clip_val": ["null", 0.1],
    "trainer.gradient_clip_algorithm": ["norm", "value"],
    "trainer.limit_train_batches": [1.0, 0.5, 0.1, 1, 3],
    "trainer.limit_val_batches": [1.0, 0.5, 1],
    "trainer.limit_test_batches": [1.0, 0.5, 1],
    "trainer.check_val_every_n_epoch": [1, 2],
    "trainer.max_epochs": [1, 2],
    "trainer.max_steps": [1, 3, 6],
    "trainer.detect_anomaly": [False, False, True],
    "callbacks.signals.every_n_steps": [1, 2, "null"],
    "callbacks.signals.flush_every": [1, 3, 200],
    "callbacks.checkpoints.every_n_steps": ["null", 2],
    "callbacks.early_stopping.patience": ["null", "null", 1],
    "optimizer.lr": [0.01, 1.0, 1e5, 1e-30, 1e38],
    "lr_scaling.rule": ["none", "linear", "sqrt"],
    "activation_checkpointing": [False, False, True],
}


def drawn_compositions():
    from isometry.config.messages import options

    rng = np.random.default_rng(1)
    lines = []
    for _ in range(DRAWS):
        chosen = {
            key: str(rng.choice(options(key) if values is None else list(map(str, values))))
            for key, values in CHOICES.items()
        }
        size = "model.channels=8" if chosen["model"] == "convnet" else "model.width=16"
        lines.append([*(f"{key}={value}" for key, value in chosen.items()), size])
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_drawn_compositions(typed, tmp_path, data_cache, part):
    for index, line in enumerate(drawn_compositions()[part::PARTS]):
        folder = tmp_path / str(index)
        folder.mkdir()
        places = [f"paths.runs={folder}/runs", f"paths.data={data_cache}", "pictures=false"]
        line = [*line, *places, "trainer.accelerator=cpu"]
        try:
            assert_nothing_else(typed("train", *line, cwd=folder, timeout=60), folder)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"isometry train {' '.join(line)}\n{error}") from error

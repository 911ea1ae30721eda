"""Values and compositions drawn by chance: finished with finite weights, diverged by name, or one
message and nothing left behind. Nothing else.
"""

from __future__ import annotations

import functools
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from commands import composed
from forked import Forked
from isometry.config.checks import has
from isometry.config.compose import compose, conf_dir, resolved
from isometry.config.keys import KEYS
from isometry.config.messages import options

BASE = ["model.depth=3", "model.width=16", "trainer=cpu", "logger=csv", "pictures=false"]
BASE += ["trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]

PLAUSIBLE = ("0", "1", "2", "3", "0.5", "0.1", "1.5", "10", "100", "null", "true", "false", "auto")
ODD = ("x", "null", "true", "-1", "0", "1", "2", "1.5", "0.5", "1e-320", "1e308", "-1e39", "nan")
ODD += ("inf", "99999999999999999999", "4294967296", "[]", "[1,2]", "[0.1,0.9]", "[x]", "{a:1}")
ODD += ("''", "' '", "1e400", "0x10", "l" * 5000, "ü", "../..", "a/b", "é[/red]")
DRAWS = 200
PARTS = 10

ELSEWHERE = ("paths.runs", "paths.data", "data.cache_dir")
"""Places that the test needs to look at."""
TEXTS = ("copy", "reverse", "addition")
"""Data that only one network reads."""


@functools.cache
def values_of(verb: str) -> dict[str, Any]:
    """The resolved config of a verb."""
    run = ["run=x"] if verb == "eval" else []
    return resolved(compose(verb, run))


@functools.cache
def having(key: str) -> list[str] | None:
    """The option that has a key which a plain training has not; None for a key of another verb."""
    section = key.partition(".")[0]
    if has(values_of("train"), key):
        return []
    for option in options(section):
        if has(composed(f"{section}={option}"), key):
            return [f"{section}={option}"] + ["model=decoder"] * (option in TEXTS)
    return None


def base_of(chosen: list[str]) -> list[str]:
    """`BASE`, without the sizes that the chosen model has not."""
    models = [word.partition("=")[2] for word in chosen if word.startswith("model=")]
    if not models:
        return BASE
    config = composed(f"model={models[0]}")
    sizes = [word for word in BASE if word.startswith("model.")]
    return [word for word in BASE if word not in sizes or has(config, word.partition("=")[0])]


def drawn_values() -> list[tuple[str, str]]:
    """Each key of a training at least once."""
    rng = np.random.default_rng(0)
    keys = [key for key in KEYS if key not in ELSEWHERE and having(key) is not None]
    assert len(keys) <= DRAWS
    order = rng.permutation(keys)
    pools = (ODD, PLAUSIBLE)
    return [(str(order[k % len(keys)]), str(rng.choice(pools[k % 2]))) for k in range(DRAWS)]


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
        own = having(key) or []
        places = [f"paths.runs={folder}/runs", f"paths.data={data_cache}"]
        line = [*base_of(own), *own, *places, f"{key}={value}"]
        try:
            done = typed("train", *line, cwd=folder, timeout=60)
            assert_nothing_else(done, folder)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"isometry train {' '.join(line)}\n{error}") from error
        assert not [path for path in folder.iterdir() if path.name != "runs"], line


OTHERS = {
    "diagnose": ["model.depth=3", "model.width=8", "trial=false", "curvature=false", "trainer=cpu"],
    "plot": ["relu"],
    "theory": ["relu"],
    "eval": ["RUN"],
    "compare": ["s"],
    "wandb": ["setup"],
    "figure": ["seed-sigmoid", "draw_only=true"],
}
"""The other verbs, and words with which each does something."""


@pytest.fixture(scope="module")
def study(tmp_path_factory, data_cache):
    """One finished run, in a study that is called s."""
    folder = tmp_path_factory.mktemp("study")
    places = [f"paths.runs={folder}/runs", f"paths.data={data_cache}", "study_name=s"]
    done = Forked("train", *BASE, *places, cwd=folder).finish(60)
    assert done.returncode == 0, done.stderr
    return folder / "runs"


def drawn_for(verb: str) -> list[tuple[str, str]]:
    """Two odd values and a plausible one for each key that training has not."""
    rng = np.random.default_rng(2)
    own = [key for key in KEYS if has(values_of(verb), key) and not has(values_of("train"), key)]
    pools = (ODD, PLAUSIBLE, ODD)
    return [(key, str(rng.choice(pool))) for key in own for pool in pools]


@pytest.mark.slow
@pytest.mark.parametrize("verb", OTHERS)
def test_drawn_values_of_other_verbs(typed, tmp_path, data_cache, study, verb):
    """Done, or one message and nothing left behind."""
    (run,) = (study / "s").glob("*/status.json")
    words = [str(run.parent) if word == "RUN" else word for word in OTHERS[verb]]
    for index, (key, value) in enumerate(drawn_for(verb)):
        folder = tmp_path / str(index)
        folder.mkdir()
        shutil.copytree(study, folder / "runs")
        before = sorted(folder.rglob("*"))
        line = [*words, f"paths.runs={folder}/runs", f"paths.data={data_cache}", f"{key}={value}"]
        try:
            done = typed(verb, *line, cwd=folder, timeout=60)
            assert done.returncode in (0, 2), done.stderr
            assert "Traceback (most" not in done.stderr, done.stderr
            if done.returncode == 2:
                lines = [text for text in done.stderr.splitlines() if text.startswith("isometry: ")]
                assert len(lines) == 1, done.stderr
                assert sorted(folder.rglob("*")) == before, done.stderr
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"isometry {verb} {' '.join(line)}\n{error}") from error


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

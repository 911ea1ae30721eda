"""The README's ways to extend: each file and config as printed there, run as a user would, outside
of the checkout and in a fork of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from commands import ROOT

CHOICES = {
    "activation": "snake",
    "initializer": "bimodal",
    "model": "hourglass",
    "data": "stripes",
    "callbacks": "spectral",
    "statistic": "sparsity",
    "classifier": "smoothed",
}
WORDS = [f"{group}={option}" for group, option in CHOICES.items()]
SHORT = ["logger=csv", "pictures=false", "trainer.max_epochs=1", "trainer=cpu", "optimizer=adam"]


def blocks():
    """The README's code blocks that begin with a comment naming their file, as they are printed."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL)
    named = [(re.match(r"(?:# @.*\n)?# (\S+)\n", block), block) for block in found]
    return {match[1]: block for match, block in named if match is not None}


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def summaries(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/*/summary.json"))]


def check(folder):
    """Everything that was chosen has left its trace."""
    (summary,) = summaries(folder)
    assert summary["run_id"].startswith("hourglass-d6-snake-bimodal-")
    assert summary["gradient_rate_init"] > 0
    assert summary["gradient_rate_predicted"] > 0  # bimodal weights are as good as Gaussian ones
    assert summary["test_accuracy"] > 0.9  # stripes are easily told apart
    (run,) = folder.glob("runs/single/*-*")
    last = pd.read_csv(run / "metrics.csv").ffill().iloc[-1]
    assert last["spectral_norm"] > 0
    first = pd.read_parquet(run / "signals.parquet").query("step == 0")
    assert first["sparsity"].between(0, 1).all()
    assert first["sparsity"].nunique() > 1
    # entropy of labels of two classes smoothed by 0.1; without smoothing it would be nearly 0
    assert 0.198 < last["test_loss"] < 0.3
    assert yaml.safe_load((run / "config.yaml").read_text())["classifier"]["smoothing"] == 0.1
    return summary


def test_every_group_has_its_example():
    configs = {name for name in blocks() if name.startswith("conf/")}
    assert configs == {f"conf/{group}/{option}.yaml" for group, option in CHOICES.items()}


def test_outside_of_the_checkout(typed, tmp_path):
    for name, content in blocks().items():
        write(tmp_path, name, content)
    fork = {"ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = typed("train", *WORDS, *SHORT, cwd=tmp_path, **fork)
    assert done.returncode == 0, done.stderr
    summary = check(tmp_path)
    (run,) = tmp_path.glob("runs/single/*-*")
    done = typed("eval", str(run), cwd=tmp_path, **fork)
    assert json.loads(done.stdout)["test_accuracy"] == summary["test_accuracy"], done.stderr


def test_in_a_fork(tmp_path):
    for folder in ("src", "conf"):
        clean = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=clean)
    for name, content in blocks().items():
        if name.endswith(".py"):
            write(tmp_path / "src" / "isometry" / "mine", name, content)
        else:
            write(tmp_path, name, content.replace("_target_: ", "_target_: isometry.mine."))
    command = [sys.executable, "-c", "from isometry.cli import main; main()", "train"]
    # PYTHONPATH comes before the editable install, so this is the fork's package
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *WORDS, *SHORT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path)


UNUSED = {
    "knife: {_target_: snake.snake}": "knife._target_=snake.snake: nothing is built from knife",
    "callbacks: {mine: {every: 3}}": "callbacks.mine={'every': 3}: needs a _target_",
    "callbacks: {mine: {_target_: snake.snake}}": "builds no Lightning callback",
    "classifier: {_target_: snake.snake}": "snake.snake refuses what it is given",
    "data: {_target_: snake.snake}": "snake.snake refuses source=mnist_5k, batch_size=64",
}


@pytest.mark.parametrize("lines", UNUSED)
def test_what_is_composed_is_used_or_refused_by_name(typed, tmp_path, lines):
    write(tmp_path, "snake.py", blocks()["snake.py"])
    write(tmp_path, "conf/experiment/mine.yaml", f"# @package _global_\n{lines}\n")
    fork = {"ISOMETRY_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = typed("train", "experiment=mine", *SHORT, cwd=tmp_path, **fork)
    assert done.returncode == 2, done.stderr
    assert UNUSED[lines] in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()

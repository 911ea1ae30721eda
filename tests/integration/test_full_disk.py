"""A disk that is full: nothing is torn, one message says so, and with room again the same command
goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow
WORDS = [
    "trainer=cpu",
    "model.depth=8",
    "model.width=150",
    "trainer.max_steps=400",
    "trainer.max_epochs=100",
    "study_name=s",
]
WORDS += [
    "callbacks.signals.every_n_steps=1",
    "callbacks.signals.flush_every=20",
    "callbacks.checkpoints.every_n_steps=20",
]
SMALL = "4m"
LARGE = "64m"


def mount(folder: Path, *options: str) -> bool:
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], capture_output=True
        ).returncode
        == 0
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or not mount(folder, f"size={SMALL}"):
        pytest.skip("a small tmpfs needs Linux and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def train(typed, data_cache):
    def call(folder: Path, logger: str, *words: str) -> subprocess.CompletedProcess[str]:
        places = {"ISOMETRY_DATA": str(data_cache), "ISOMETRY_RUNS": str(folder)}
        return typed(
            "train",
            *words,
            *WORDS,
            f"logger={logger}",
            "pictures=false",
            cwd=folder.parent,
            **places,
        )

    return call


@pytest.mark.parametrize("logger", ["csv", "wandb"])
def test_a_full_disk(train, disk, tmp_path, logger):
    done = train(disk, logger)
    (run,) = disk.glob("s/*")
    assert done.returncode == 2, done.stderr
    assert "No space left on device; make room there, and the same command goes on" in done.stderr
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["reason"].split(":")[0]) == ("interrupted", "DiskFull")
    steps = pd.read_parquet(run / "signals.parquet").step
    assert 0 < steps.max() < 400
    assert not [path for path in run.rglob(".*") if path.is_file()]  # no half-written file is left

    subprocess.run(["mount", "-o", f"remount,size={LARGE}", disk], check=True)
    done = train(disk, logger)
    assert done.returncode == 0, done.stderr
    assert "goes on from its last checkpoint" in done.stderr
    whole = tmp_path / "whole"
    train(whole, "csv")
    (reference,) = whole.glob("s/*")
    pd.testing.assert_frame_equal(
        pd.read_parquet(run / "signals.parquet"),
        pd.read_parquet(reference / "signals.parquet"),
        check_exact=True,
    )
    resumed, undisturbed = (pd.read_csv(path / "metrics.csv") for path in (run, reference))
    losses = ["step", "train_loss", "val_loss", "val_accuracy", "test_accuracy"]
    pd.testing.assert_frame_equal(resumed[losses], undisturbed[losses], check_exact=True)


def test_a_sweep_on_a_full_disk(disk, data_cache):
    """Its jobs fail one by one with the message; with room again the same command finishes them."""
    command = [str(Path(sys.executable).parent / "isometry"), "train", "-m", "seed=0,1,2", *WORDS]
    places = {"ISOMETRY_DATA": str(data_cache), "ISOMETRY_RUNS": str(disk), "OMP_NUM_THREADS": "1"}
    sweep = partial(
        subprocess.run,
        [*command, "logger=csv", "pictures=false"],
        cwd=disk.parent,
        env={**os.environ, **places},
    )
    done = sweep(capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", disk], check=True)
    done = sweep(capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [json.loads(path.read_text())["state"] for path in disk.glob("s/*/status.json")] == [
        "finished"
    ] * 3

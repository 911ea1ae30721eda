"""An installed `isometry` works outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_carries_its_configs_and_runs_from_an_empty_folder(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("isometry-*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
    )
    assert (site / "isometry" / "conf" / "train.yaml").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    # PYTHONPATH comes before the editable install, so this is the wheel's package
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import isometry.cli as c; print(c.__file__); c.main()"]
    arguments = ["train", "model.depth=3", "trainer.max_steps=3", "logger=csv"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    assert list((empty / "runs" / "single").glob("*/summary.json"))

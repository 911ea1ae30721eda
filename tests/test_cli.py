"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from commands import ISOMETRY


def isometry(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [ISOMETRY, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def test_help_fits_one_screen_and_has_three_examples(tmp_path):
    text = isometry("train", "--help", cwd=tmp_path).stdout
    assert len(text.splitlines()) <= 40
    assert text.count("  isometry train ") >= 3
    for group in ("activation:", "initializer:", "model:", "study:"):
        assert group in text
    assert not list(tmp_path.iterdir())


def test_bare_command_lists_the_verbs(tmp_path):
    done = isometry(cwd=tmp_path)
    assert done.returncode == 0
    for verb in ("train", "plot", "report"):
        assert f"  {verb}" in done.stdout


def test_a_terminal_without_greek_letters_gets_others(tmp_path):
    done = isometry("theory", "activation=gelu", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "initializer.gain" in done.stdout


def test_plot_activation_draws_and_names_the_saturation(typed, tmp_path):
    done = typed("plot", "activation=sigmoid", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "largest slope 0.25; saturated on [-inf, -4.357], [4.357, inf]" in done.stdout
    picture = tmp_path / done.stdout.splitlines()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_multirun_ends_with_table_figure_and_runs(typed, tmp_path):
    grid = [
        "activation=tanh,relu",
        "initializer=normal_small,critical",
        "model.depth=6",
        "trainer.max_steps=5",
        "logger=csv",
    ]
    done = isometry("train", "-m", *grid, "study_name=grid", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "tanh",
        "relu",
        "normal_small",
        "critical",
        "vanishing",
        "healthy",
        "gradient_against_depth.png",
    ):
        assert words in done.stdout
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("runs/grid/*/summary.json")]
    assert len(summaries) == 4
    assert {summary["study"] for summary in summaries} == {"grid"}
    assert (tmp_path / "runs/grid/gradient_against_depth.png").exists()
    again = typed("report", "study_name=grid", cwd=tmp_path)
    assert "vanishing" in again.stdout

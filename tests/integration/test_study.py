"""The main job: what each row of the study `vanishing_exploding` is expected to do, on real
digits.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from commands import ISOMETRY
from isometry.compare.collect import collect
from isometry.compare.table import run_frame
from isometry.runs.signal_store import read_signals


@pytest.mark.slow
def test_the_study(tmp_path):
    """One test: the study takes a minute or more, and every process of a parallel test run would
    run it again.
    """
    command = [ISOMETRY, "train", "-m", "study=vanishing_exploding", "seed=11"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = collect(["vanishing_exploding"], tmp_path / "runs")
    table = run_frame(found, {}, []).set_index(["activation", "initializer"])
    assert len(table) == 12
    states_and_verdicts(table)
    rates_are_the_theorys(table["gradient_rate_init"])
    the_cure_learns_and_the_naive_stays_at_chance(table["test_accuracy"])
    the_users_four_phenomena_are_in_the_columns(table["path"])
    what_the_study_prints(done.stdout, table["path"])


def states_and_verdicts(table):
    diverged = table[table.state == "diverged"]
    assert diverged.index.tolist() == [("relu", "normal")]
    verdicts = table["verdict_init"]
    for activation in ("sigmoid", "tanh", "relu"):
        assert verdicts[activation, "normal_small"] == "vanishing"
        assert verdicts[activation, "critical"] == "healthy"
    assert verdicts["sigmoid", "glorot_normal"] == verdicts["relu", "glorot_normal"] == "vanishing"
    assert verdicts["tanh", "normal"] == verdicts["relu", "normal"] == "exploding"
    assert verdicts["sigmoid", "normal"] == "healthy"  # by accident, near σ_w² = 103


def rates_are_the_theorys(rate):
    """Closed forms; one network of width 100 scatters by a few percent a layer."""
    assert rate["sigmoid", "glorot_normal"] == pytest.approx(0.236, rel=0.06)  # √0.0557
    assert rate["relu", "glorot_normal"] == pytest.approx(0.5**0.5, rel=0.06)
    assert rate["relu", "normal"] == pytest.approx(50**0.5, rel=0.06)
    assert rate["relu", "normal_small"] == pytest.approx(0.005**0.5, rel=0.06)
    assert rate["tanh", "normal_small"] == pytest.approx(0.1, rel=0.06)
    assert rate["relu", "critical"] == pytest.approx(1.0, rel=0.06)
    assert 1.8 < rate["tanh", "normal"] < 2.6


def the_cure_learns_and_the_naive_stays_at_chance(accuracy):
    for activation in ("tanh", "relu"):
        assert accuracy[activation, "critical"] > 0.9
    assert accuracy["sigmoid", "critical"] > 0.3
    for cell in [
        ("sigmoid", "glorot_normal"),
        *((a, "normal_small") for a in ("sigmoid", "tanh", "relu")),
    ]:
        assert accuracy[cell] < 0.15


def the_users_four_phenomena_are_in_the_columns(paths):
    def signals(*cell):
        return read_signals(Path(paths[cell]) / "signals.parquet").set_index(["step", "layer"])

    vanishing = signals("sigmoid", "glorot_normal")
    last = vanishing.index.get_level_values("step").max()
    assert (
        vanishing.loc[(last, 1), "displacement"] < 1e-6 < vanishing.loc[(last, 20), "displacement"]
    )
    # squashed
    assert (
        vanishing.loc[(0, 10), "activation_var"] < 0.1 * vanishing.loc[(0, 10), "preactivation_var"]
    )
    assert signals("relu", "normal").loc[0, "update_norm"].max() > 1e10  # very large updates
    assert signals("tanh", "normal").loc[(0, 10), "saturation"] > 0.5  # a derivative near zero


def what_the_study_prints(text, paths):
    for words in (
        "gradient_against_depth.png",
        "wandb sync",
        "wandb leet",
        "diverged",
        "offline-run-",
    ):
        assert words in text
    assert len(list(Path(paths.iloc[0]).glob("wandb/offline-run-*"))) == 1


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(
    not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_through_raw_dir_reaches_85_percent(tmp_path):
    arguments = [
        "data=fashion_mnist",
        f"data.raw_dir={FASHION}",
        "model.depth=5",
        "activation=relu",
        "initializer=he_normal",
    ]
    more = ["optimizer.lr=0.1", "trainer.max_epochs=3", "logger=csv", "study_name=fashion"]
    done = subprocess.run(
        [ISOMETRY, "train", *arguments, *more], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (record,) = collect(["fashion"], tmp_path / "runs").records
    assert record.summary["test_accuracy"] > 0.85

"""The profile of a recurrence over time, and which of two ratios a verdict follows."""

import math

import numpy as np
import pandas as pd
import pytest

from isometry.training.run import train
from isometry.training.through_time import farthest, profile_over_time


def test_the_norm_over_gates_together():
    rows = pd.DataFrame(
        {
            "step": [0, 0, 0, 0, 5],
            "layer": [1, 1, 1, 1, 1],
            "gate": ["i", "f", "i", "f", "i"],
            "time": [0, 0, 1, 1, 0],
            "backprop_norm": [3.0, 4.0, 1.0, 0.0, 9.0],
        }
    )
    assert profile_over_time(rows) == pytest.approx([5.0, 1.0])
    assert len(profile_over_time(rows[:0])) == 0


def test_a_time_without_a_measurement_is_left_out():
    rows = pd.DataFrame({"step": 0, "layer": 1, "time": [0, 1], "backprop_norm": [np.nan, 2.0]})
    assert profile_over_time(rows) == pytest.approx([2.0])


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((1.0, 1e-3), 1e-3),
        ((1e4, 1e-3), 1e4),
        ((math.nan, 2.0), 2.0),
        ((0.0, 1e9), 0.0),
        ((math.inf, 1.0), math.inf),
    ],
)
def test_the_ratio_that_says_most(ratios, expected):
    assert farthest(*ratios) == expected


def test_no_ratio_is_none():
    assert math.isnan(farthest(math.nan, math.nan))


def test_the_verdict_of_a_recurrence_is_that_over_time(make_config):
    """torch's own start: over 28 rows the gradient vanishes, though there is one layer only."""
    words = ["model=rnn", "model.start=torch", "model.width=32"]
    config = make_config(*words, "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
    summary = train(config)
    assert summary["verdict_init"] == "vanishing"
    assert summary["gradient_ratio_init"] == pytest.approx(1.0)
    assert summary["gradient_ratio_time_init"] < 1e-4
    rate = summary["gradient_rate_time_init"]
    assert rate**27 == pytest.approx(summary["gradient_ratio_time_init"], rel=1e-6)

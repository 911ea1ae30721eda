"""The figures of a study: a panel and a line for each value, seeds as a band, nothing dropped."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from isometry.compare.collect import collect
from isometry.compare.comparison import compare
from isometry.compare.metrics import metric
from isometry.compare.pictures import GRADIENT, divergences, draw_against, draw_study, profiles
from isometry.compare.table import Choices
from isometry.errors import UserError
from isometry.plots.depth import against_depth
from studies import signals_of, write_study

GRID = {"initializer.sigma_w": [2, 0.5, 1], "model.width": [64, 32], "seed": [0, 1]}


def measure(values):
    scale = values["initializer.sigma_w"] * (1 + 0.1 * values["seed"])
    rows = signals_of([0, 10], 4, lambda step, layer: scale ** (4 - layer), activation_var=0.3)
    rows["displacement"] = 0.01 * rows["step"]
    if values["initializer.sigma_w"] == 2 and values["seed"] == 1:
        known = {"first_nonfinite_step": 7, "first_nonfinite_layer": 3}
        return {"state": "diverged", **known}, rows
    return {"test_accuracy": 0.5 + 0.01 * values["seed"]}, rows


@pytest.fixture
def found(tmp_path):
    write_study(tmp_path / "mine", GRID, measure)
    return compare(collect(["mine"], tmp_path), [metric("test_accuracy")], Choices(), "t")


def test_a_sweep_over_values_is_six_lines(found):
    """One a (panel, label) with its seeds in it, panels and lines in the order typed."""
    frame = profiles(found)
    lines = frame.groupby(["panel", "label"], sort=False)["seed"].nunique()
    assert len(lines) == 6
    assert (lines == 2).all()
    assert list(dict.fromkeys(frame["panel"])) == [
        *("initializer.sigma_w=2", "initializer.sigma_w=0.5", "initializer.sigma_w=1")
    ]
    assert list(dict.fromkeys(frame["label"])) == ["model.width=64", "model.width=32"]
    axes = against_depth(frame, GRADIENT).axes
    assert [axis.get_title() for axis in axes] == list(dict.fromkeys(frame["panel"]))
    assert [len(axis.get_lines()) for axis in axes] == [2, 2, 2]
    first = axes[0].get_lines()[0]
    geometric = math.sqrt(2 * 2.2)
    assert first.get_ydata() == pytest.approx([geometric**3, geometric**2, geometric])


def test_quantities_are_of_their_step(found):
    frame = profiles(found)
    assert (frame["displacement"].dropna() == 0.1).all()  # the last
    assert frame["displacement"].isna().sum() == 2 * 3  # of two runs that diverged there is none
    assert (frame["activation_var"] == 0.3).all()
    assert set(frame["layer"]) == {1, 2, 3}  # the readout is none of them


def test_a_divergence_is_written_above_its_panel(found):
    notes = divergences(found)
    assert "width=64: 1 of 2 diverged at step 7, layer 3" in notes["initializer.sigma_w=2"]
    assert notes["initializer.sigma_w=1"] == ""


def test_zeros_and_what_is_not_finite_are_marked():
    values = [1.0, 0.0, np.inf, 2.0]
    frame = pd.DataFrame({"layer": [1, 2, 3, 4], "backprop_norm": values})
    drawing = against_depth(frame.assign(panel="p", label="l", seed=0), GRADIENT)
    curve, zero, infinite = drawing.axes[0].get_lines()
    assert curve.get_xdata().tolist() == [1, 4]
    assert (zero.get_marker(), zero.get_xdata().tolist()) == ("v", [2])
    assert (infinite.get_marker(), infinite.get_xdata().tolist()) == ("x", [3])
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == ["l", "zero", "not finite"]


def test_a_gradient_that_was_lost_is_marked_where_its_step_was_measured():
    """pandas reads NaN and null alike: the count of what is not finite tells them apart."""
    frame = pd.DataFrame({"layer": [1, 2], "backprop_norm": [np.nan, 1.0], "measured": [True] * 2})
    drawing = against_depth(frame.assign(panel="p", label="l", seed=0), GRADIENT)
    assert drawing.axes[0].get_lines()[1].get_xdata().tolist() == [1]


def test_a_quantity_that_no_run_has_is_drawn_as_none(found, tmp_path):
    """Without activation_var a logarithmic axis has nothing to stand on."""
    for rows in found.signals.values():
        rows["activation_var"] = np.nan
    assert len(draw_study(tmp_path, found)) == 2


def test_nothing_is_clipped_and_all_is_drawn(found, tmp_path):
    pictures = draw_study(tmp_path / "out", found)
    assert [path.name for path in pictures] == [
        *("gradient_against_depth.png", "signals_against_depth.png")
    ]
    assert all(path.stat().st_size > 10_000 for path in pictures)


def test_a_metric_against_a_number(found, tmp_path):
    path = draw_against(tmp_path, found, "initializer.sigma_w")
    assert path.name == "test_accuracy_against_initializer_sigma_w.png"
    with pytest.raises(UserError, match="x=activation: is no factor"):
        draw_against(tmp_path, found, "activation")


def test_a_metric_against_words_is_a_message(tmp_path):
    grid = {"activation.name": ["tanh", "relu"]}
    write_study(tmp_path / "mine", grid, lambda values: ({"test_accuracy": 0.1}, None))
    found = compare(collect(["mine"], tmp_path), [metric("test_accuracy")], Choices(), "t")
    with pytest.raises(UserError, match="x=activation: must be a factor of numbers"):
        draw_against(tmp_path, found, "activation")

"""Rows, their intervals and marks, which runs, in which order."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from isometry.compare.collect import collect
from isometry.compare.comparison import compare
from isometry.compare.documents import cells, latex, numbers, uniform, write_documents
from isometry.compare.explain import explain, sentences
from isometry.compare.metrics import metric, usual
from isometry.compare.statistics import mean_of
from isometry.compare.table import Choices
from isometry.compare.terminal import show
from isometry.compare.words import counted, legend
from isometry.errors import UserError
from studies import signals_of, write_run, write_study

GRID = {
    "initializer.sigma_w": [2, 0.5, 1],
    "model.width": [64, 32],
    "seed": [0, 1, 2, 3],
}


def measure(values):
    """Accuracy 0.9 at σ_w = 1, 0.5 at 2, less where narrow; 0.5 diverges for two of four seeds."""
    seed = values["seed"]
    rate = {1: 1.0, 2: 1.5, 0.5: 0.4}[values["initializer.sigma_w"]]
    rows = signals_of([0, 10], 4, lambda step, layer: rate ** (4 - layer), displacement=rate / 100)
    rows["update_ratio"] = 1e-3 * rows["layer"] * (1 + rows["step"])
    known = {"gradient_rate_init": rate, "verdict_init": "healthy"}
    if rate == 0.4 and seed > 1:
        known |= {"state": "diverged", "first_nonfinite_step": 3.0 + seed}
        return {**known, "first_nonfinite_layer": 2.0}, rows
    accuracy = {1.0: 0.9, 1.5: 0.5, 0.4: 0.1}[rate] + 0.001 * seed
    wide = 0.02 if values["model.width"] == 64 else 0.0
    return {**known, "test_accuracy": accuracy + wide}, rows


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path / "runs" / "mine", GRID, measure)
    return tmp_path / "runs"


def table_of(runs, words=("mine",), metrics=("test_accuracy",), **choices):
    found = collect(words, runs, [*(choices.get("by") or ()), *choices.get("over", ())])
    return compare(found, list(map(metric, metrics)), Choices(**choices), "t").table


# ---- the two commands that were broken -----------------------------------------------------------


def test_a_sweep_over_values_is_one_row_a_configuration_in_the_order_typed(study):
    table = table_of(study)
    assert table.factors == ["initializer.sigma_w", "model.width"]
    pairs = [tuple(row.levels.values()) for row in table.rows]
    assert pairs == [(2, 64), (2, 32), (0.5, 64), (0.5, 32), (1, 64), (1, 32)]
    assert [len(row.runs) for row in table.rows] == [4] * 6


def test_means_and_intervals_are_over_the_seeds(study):
    row = table_of(study).rows[4]
    expected = mean_of([0.92, 0.921, 0.922, 0.923])
    found = row.means["test_accuracy"]
    assert (found.value, found.low, found.n) == pytest.approx((expected.value, expected.low, 4))


def test_the_best_is_marked_and_what_cannot_be_told_from_it(study):
    table = table_of(study)
    assert [row.best for row in table.rows] == [False] * 4 + [True, False]
    assert not any(row.tied for row in table.rows[:4])
    alike = table_of(study, by=["initializer.sigma_w"])
    assert [row.best for row in alike.rows] == [False, False, True]
    assert alike.averaged == ["model.width"]
    assert [len(row.runs) for row in alike.rows] == [8] * 3


def test_a_row_whose_runs_diverged_is_not_the_best_for_what_is_left(tmp_path):
    def lucky(values):
        if values["seed"] and values["model.width"] == 64:
            return {"state": "diverged"}, None
        return {"test_accuracy": 0.9 if values["model.width"] == 64 else 0.5}, None

    write_study(tmp_path / "mine", {"model.width": [64, 32], "seed": [0, 1]}, lucky)
    wide, narrow = table_of(tmp_path).rows
    assert (wide.best, narrow.best) == (False, True)


def test_one_seed_tells_nothing_from_the_best(tmp_path):
    write_study(
        tmp_path / "mine",
        {"model.width": [64, 32]},
        lambda values: ({"test_accuracy": values["model.width"] / 100}, None),
    )
    assert [row.tied for row in table_of(tmp_path).rows] == [True, False]
    assert math.isnan(table_of(tmp_path).rows[0].means["test_accuracy"].low)


# ---- metrics -------------------------------------------------------------------------------------


def test_numbers_of_the_signals(study):
    words = ("displacement.layer_1", "update_ratio.largest", "backprop_norm.layer_2")
    row = table_of(study, metrics=words).rows[0]
    assert row.means["displacement.layer_1"].value == pytest.approx(0.015)
    assert row.means["update_ratio.largest"].value == pytest.approx(4e-3 * 11)
    assert row.means["backprop_norm.layer_2"].value == pytest.approx(1.5**2)


@pytest.mark.parametrize("word", ["test_acuracy", "displacment.layer_1", "displacement.layer_x"])
def test_a_metric_that_is_none_is_a_message(word):
    with pytest.raises(UserError, match=r"metric=.*no such number"):
        metric(word)


def test_the_lowest_loss_is_the_best(tmp_path):
    write_study(
        tmp_path / "mine",
        {"model.width": [64, 32]},
        lambda values: ({"train_loss": values["model.width"] / 100}, None),
    )
    rows = table_of(tmp_path, metrics=["train_loss"], sort="train_loss").rows
    assert [row.levels["model.width"] for row in rows] == [32, 64]
    assert rows[0].best


# ---- which runs, which rows ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("activation.name == 'tanh' and model.width >= 64", 12),
        ("activation == 'tanh' and model.width >= 64", 12),  # one option, and no factor here
        ("initializer.sigma_w == 0.5 and state == 'diverged'", 4),
        ("test_accuracy > 0.8", 8),
        ("seed in [0, 1]", 12),
        ("`model.width` == 32", 12),
    ],
)
def test_where_is_pandas_query_over_every_key(study, where, count):
    assert len(table_of(study, where=where).runs) == count


@pytest.mark.parametrize(
    "where", ["model.width = 3", "nosuch > 1", "model.width > 'a'", "((", "", "model.width"]
)
def test_a_where_that_is_none_is_a_message(study, where):
    with pytest.raises(UserError, match=r"^where="):
        table_of(study, where=where)


def test_a_where_that_leaves_nothing_is_a_message(study):
    with pytest.raises(UserError, match="holds for none of the 24 runs"):
        table_of(study, where="model.width == 3")


def test_sort_and_top(study):
    rows = table_of(study, sort="test_accuracy", top=2)
    assert [row.levels["model.width"] for row in rows.rows] == [64, 32]
    assert rows.cut == 4
    by_factor = table_of(study, sort="model.width").rows
    assert [row.levels["model.width"] for row in by_factor] == [64] * 3 + [32] * 3
    with pytest.raises(UserError, match="sort=lr"):
        table_of(study, sort="lr")


def test_over_averages_like_seeds_do(study):
    table = table_of(study, over=["model.width"])
    assert table.factors == ["initializer.sigma_w"]
    with pytest.raises(UserError, match=r"over=activation: does not vary|activation"):
        table_of(study, over=["activation.alpha"])


def test_studies_directories_and_patterns_are_joined_and_runs_count_once(study):
    write_study(study / "other", {**GRID, "initializer.sigma_w": [1, 4]}, lambda v: ({}, None))
    one = next((study / "mine").glob("mlp-*"))
    assert len(collect(["mine", str(one)], study).records) == 24
    both = collect(["mine", "oth*"], study)
    assert len(both.records) == 24 + 8
    assert both.left_out == ["8 runs that stand in another study, too"]
    with pytest.raises(UserError, match="studies=mien: no runs there; did you mean mine"):
        collect(["mien"], study)


def test_a_damaged_run_is_named_and_the_others_are_compared(study):
    one = next((study / "mine").glob("mlp-*"))
    (one / "summary.json").write_text("{")
    table = table_of(study)
    assert len(table.runs) == 23
    assert "summary.json" in table.left_out[0]


def test_of_nothing_but_damaged_runs_there_is_an_empty_table(tmp_path):
    run = write_run(tmp_path / "mine", {}, lambda values: ({}, None))
    (run.path / "status.json").write_text("{")
    table = table_of(tmp_path)
    assert list(table.rows) == []
    assert sentences(explain(table)) == []


# ---- what explains it ----------------------------------------------------------------------------


def test_the_factor_that_matters_explains_the_metric(study):
    found = explain(table_of(study))
    assert found.ranks  # two of each four runs diverged: they are the worst
    assert found.diverged == 4
    by_name = {share.source: share.value for share in found.shares}
    assert by_name["initializer.sigma_w"] > 0.7 > 0.2 > by_name["model.width"]
    assert sum(by_name.values()) == pytest.approx(1)
    rho = dict(found.correlations)["gradient_rate_init"]
    assert rho.value < -0.9  # the farther from 1, the worse
    text = "\n".join(sentences(found))
    assert "over 24 runs of 6 configurations" in text
    assert "4 diverged runs without a value count as the worst" in text


def test_a_metric_that_is_the_same_everywhere_is_explained_by_nothing(tmp_path):
    write_study(tmp_path / "mine", GRID, lambda values: ({"test_accuracy": 0.1}, None))
    assert all(math.isnan(share.value) for share in explain(table_of(tmp_path)).shares)


# ---- documents -----------------------------------------------------------------------------------


def test_csv_and_parquet_hold_the_numbers(study, tmp_path):
    found = compare(collect(["mine"], study), [metric("test_accuracy")], Choices(), "t")
    csv, parquet, *_, runs = write_documents(found, tmp_path / "out")
    read = pd.read_csv(csv)
    pd.testing.assert_frame_equal(read, pd.read_parquet(parquet), check_dtype=False)
    assert read["finished"].tolist() == [4, 4, 2, 2, 4, 4]
    assert read["diverged"].tolist() == [0, 0, 2, 2, 0, 0]
    assert read["test_accuracy_n"].tolist() == [4, 4, 2, 2, 4, 4]
    row = read.iloc[4]
    assert row["test_accuracy_low"] < row["test_accuracy"] < row["test_accuracy_high"]
    assert len(pd.read_csv(runs)) == 24


def test_a_mixed_column_is_text_in_parquet():
    frame = uniform(pd.DataFrame({"a": ["-", 0.5], "b": [1, 2]}))
    assert frame["a"].tolist() == ["-", "0.5"]
    assert frame["b"].tolist() == [1, 2]


def test_latex_has_booktabs_rules_and_escapes(study):
    text = latex(table_of(study))
    for words in (r"\toprule", r"\midrule", r"\bottomrule", r"initializer.sigma\_w", r"$\pm$"):
        assert words in text
    assert r"\textbf{1} & \textbf{64}" in text
    assert "2 diverged at step 5-6, layer 2" in text
    assert "_w" not in text.replace(r"\_w", "").split(r"\toprule")[1]


def test_the_cells_are_read_as_they_are_meant(study):
    frame = cells(table_of(study, metrics=["test_accuracy", "gradient_rate_init"]))
    assert frame["test_accuracy"].iloc[4] == "0.922 ± 0.002 *"
    assert frame["test_accuracy"].iloc[2] == "0.121 ± 0.006 (2)"
    assert frame["gradient_rate_init"].iloc[0] == "1.500 ×÷ 1.00"


def test_zeros_are_said(tmp_path):
    """A displacement of 0 is a result: the first layer did not move."""

    def still(values):
        moved = 0.0 if values["model.width"] == 32 or values["seed"] == 0 else 1e-9
        return {}, signals_of([0], 4, lambda step, layer: 1.0, displacement=moved)

    write_study(tmp_path / "mine", {"model.width": [64, 32], "seed": [0, 1]}, still)
    frame = cells(table_of(tmp_path, metrics=["displacement.layer_1"]))
    assert frame["displacement.layer_1"].tolist() == ["1.0e-09 (1, 1 zero)", "0"]


def test_numbers_of_a_table_with_no_value(tmp_path):
    write_study(tmp_path / "mine", {"model.width": [64, 32]}, lambda values: ({}, None))
    frame = numbers(table_of(tmp_path))
    assert np.isnan(frame["test_accuracy"]).all()


def test_healthy_is_not_said_without_the_saturation_beside_it():
    runs = pd.DataFrame({"verdict_init": ["healthy"] * 2, "saturation_init": [0.95, 0.5]})
    assert counted(runs, "verdict_init") == [("healthy", "healthy at 95% saturation")]
    runs["saturation_init"] = [0.6, math.nan]
    assert counted(runs, "verdict_init") == [("healthy", "healthy")]
    assert counted(runs[["verdict_init"]], "verdict_init") == [("healthy", "healthy")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([0.01], "is under 1e-2 of the last hidden"),
        ([0.05], "is under 5e-2 of the last hidden"),
        ([0.01, 2e-4], "is under 1e-2 or 2e-4 of the last hidden"),
    ],
)
def test_the_legend_has_the_bounds_of_the_runs(tmp_path, given, said):
    grid = {"verdict.vanishing_below": given, "seed": [0, 1]}
    write_study(tmp_path / "mine", grid, lambda values: ({"test_accuracy": 0.5}, None))
    text = legend(table_of(tmp_path), [metric("test_accuracy")])
    assert said in text
    assert "exploding over 1e2 (" in text


def test_runs_that_failed_are_rows(tmp_path):
    def measure(values):
        if values["initializer.sigma_w"] == 2:
            return {"state": "failed"}, None
        return {"test_accuracy": 0.5}, None

    write_study(tmp_path / "mine", {"initializer.sigma_w": [2, 1], "seed": [0, 1]}, measure)
    table = table_of(tmp_path)
    assert [counted(row.runs, "state") for row in table.rows] == [
        [("failed", "failed")],
        [("finished", "finished")],
    ]
    console = Console(width=120, record=True)
    show(table, "t", console)
    (line,) = [line for line in console.export_text().splitlines() if "failed" in line]
    assert line.split("│")[1].split() == ["2"]


def test_a_run_that_was_taken_further_elsewhere_is_named(tmp_path):
    """It has the id of the shorter one, and its numbers are others."""
    grid = {"model.width": [8, 16], "seed": [0, 1]}
    write_study(tmp_path / "mine", grid, lambda _: ({"test_accuracy": 0.5}, None))
    shutil.copytree(tmp_path / "mine", tmp_path / "further")
    run = sorted((tmp_path / "further").glob("*/config.yaml"))[0]
    config = json.loads(run.read_text())
    config["trainer"]["max_epochs"] = 9
    run.write_text(json.dumps(config))
    (named, others) = table_of(tmp_path, words=("further", "mine")).left_out
    assert named.startswith(str(tmp_path / "mine" / run.parent.name))
    assert named.endswith("is the same run, taken to other limits")
    assert others == "3 runs that stand in another study, too"


def test_a_recurrences_verdict_stands_beside_its_ratio():
    assert "gradient_ratio_time_init" not in usual([{"gradient_ratio_time_init": None}, {}])
    found = usual([{}, {"gradient_ratio_time_init": 1e-9}])
    assert found.index("gradient_ratio_time_init") == found.index("gradient_ratio_init") + 1


@pytest.mark.parametrize("state", ["failed", "interrupted", "diverged"])
def test_a_run_that_has_not_finished_has_no_last_value(state):
    """Of layer 1 at step 0 nothing has moved yet, which says nothing of the end."""
    rows = signals_of([0], 4, lambda step, layer: 1.0, displacement=0.0)
    assert math.isnan(metric("displacement.layer_1").of({"state": state}, rows))
    assert metric("displacement.layer_1").of({"state": "finished"}, rows) == 0.0

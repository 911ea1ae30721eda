"""What a reviewer of the comparison found: each of these was wrong."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from isometry.compare.collect import collect
from isometry.compare.comparison import compare
from isometry.compare.documents import in_markdown, latex, write_documents
from isometry.compare.explain import explain, sentences
from isometry.compare.metrics import USUAL, metric
from isometry.compare.page import page
from isometry.compare.page_data import as_csv, page_data
from isometry.compare.pictures import draw_study, profiles
from isometry.compare.statistics import mean_of
from isometry.compare.table import Choices
from isometry.compare.terminal import fitting, show
from isometry.config.compose import compose
from isometry.errors import UserError
from isometry.verbs.compare import compare_runs
from studies import signals_of, write_run, write_study

WIDTHS = {"model.width": [1, 2, 3], "seed": [0, 1, 2]}


def compared(runs, words=("mine",), metrics=USUAL, **choices):
    always = [*(choices.get("by") or ()), *choices.get("over", ())]
    found = collect(words, runs, [name for name in always if name != "seed"])
    return compare(found, list(map(metric, metrics)), Choices(**choices), "t")


def test_a_missing_value_is_no_divergence_and_never_the_best(tmp_path):
    write_study(tmp_path / "mine", WIDTHS, lambda values: ({}, None))
    found = compared(tmp_path, metrics=["gradient_rate_final"])
    assert not any(row.best for row in found.table.rows)
    assert found.explanation.diverged == 0


def test_an_interrupted_run_is_left_out_of_what_explains(tmp_path):
    def measure(values):
        if values["seed"] == 0:
            return {"state": "interrupted"}, None
        return {"gradient_rate_final": 1 + values["model.width"] + 0.001 * values["seed"]}, None

    write_study(tmp_path / "mine", WIDTHS, measure)
    found = compared(tmp_path, metrics=["gradient_rate_final"]).explanation
    assert (found.diverged, found.without) == (0, 3)
    shares = {share.source: share.value for share in found.shares}
    assert shares["model.width"] > 0.9


def test_an_infinite_value_is_the_worst_and_no_divergence(tmp_path):
    def measure(values):
        wide = values["model.width"] == 3
        return {"gradient_ratio_init": math.inf if wide else float(values["model.width"])}, None

    write_study(tmp_path / "mine", WIDTHS, measure)
    found = compared(tmp_path, metrics=["gradient_ratio_init"])
    assert found.explanation.diverged == 0
    assert [row.best for row in found.table.rows] == [True, False, False]


@pytest.mark.parametrize("depth", [4, 1])
def test_runs_without_signals_of_hidden_layers_have_a_page(tmp_path, depth):
    rows = signals_of([0], depth, lambda step, layer: 1.0) if depth == 1 else None
    write_study(tmp_path / "mine", WIDTHS, lambda values: ({"test_accuracy": 0.5}, rows))
    assert "vegaEmbed" in page(compared(tmp_path))


def test_means_over_hundreds_of_decades_do_not_overflow():
    found = mean_of([1e-200, 1e200], geometric=True)
    assert (found.low, found.high) == (0.0, math.inf)
    assert mean_of([1e-26, 1e26], geometric=True).value == pytest.approx(1)


def command(runs, *words):
    named = f"studies=[{words[0]}]"
    compare_runs(compose("compare", [named, f"paths.runs={runs}", "html=false", *words[1:]]))


def test_nothing_but_damaged_runs_is_a_message(tmp_path):
    for run in write_study(tmp_path / "mine", WIDTHS, lambda values: ({}, None)):
        run.config.write_text("{")
    with pytest.raises(UserError, match="none of these runs can be read"):
        command(tmp_path, "mine")


def test_two_leading_keys_of_a_section_are_two_factors(tmp_path):
    for name, target in (("tanh", "a.A"), ("tanh", "b.B"), ("relu", "a.A")):
        values = {"activation.name": name, "activation._target_": target}
        for seed in (0, 1):
            write_run(tmp_path / "mine", {**values, "seed": seed}, lambda values: ({}, None))
    assert sorted(len(row.runs) for row in compared(tmp_path).table.rows) == [2, 2, 2]


def test_x_is_a_factor_of_the_rows(tmp_path):
    grid = {"activation.name": ["tanh", "relu"], "model.width": [1, 2], "seed": [0, 1]}
    write_study(tmp_path / "mine", grid, lambda values: ({"test_accuracy": 0.5}, None))
    command(tmp_path, "mine", "by=[activation]", "x=model.width")
    assert (tmp_path / "mine" / "test_accuracy_against_model_width.png").exists()


def test_keys_that_tell_each_other_can_both_be_asked_for(tmp_path):
    for width, depth in ((1, 4), (2, 8), (3, 16)):
        for seed in (0, 1):
            values = {"model.width": width, "model.depth": depth, "seed": seed}
            write_run(tmp_path / "mine", values, lambda values: ({"test_accuracy": 0.5}, None))
    both = compared(tmp_path, by=["model.width", "model.depth"]).table
    assert both.factors == ["model.width", "model.depth"]
    twice = compared(tmp_path, by=["model.depth", "model.depth"]).table
    assert twice.factors == ["model.depth"]
    constant = compared(tmp_path, by=["model.depth", "activation"]).table
    assert constant.factors == ["model.depth", "activation"]


def test_a_curve_is_over_the_same_seeds_at_each_step(tmp_path):
    """A seed that ended early is missing from the end on, and nowhere else."""
    runs = write_study(tmp_path / "mine", {"seed": [0, 1]}, lambda values: ({}, None))
    for run, length, loss in zip(runs, (100, 77), (1, 3), strict=True):
        lines = [f"{step},{loss}" for step in range(length)]
        run.metrics.write_text("\n".join(["step,train_loss", *lines]) + "\n")
    curves = page_data(compared(tmp_path)).curves
    assert len(curves) <= 41
    assert (curves[curves["step"] < 77]["mean"] == 2).all()
    assert (curves[curves["step"] >= 77]["mean"] == 1).all()
    assert curves["step"].max() == 99


def test_the_best_is_what_is_tested(tmp_path):
    """0.5 and 2 in turn have the geometric mean 1 and are far from it, each of them."""

    def measure(values):
        if values["model.width"] == 2:
            return {"gradient_rate_init": 1.2 + 0.001 * values["seed"]}, None
        return {"gradient_rate_init": (0.5, 2.0)[values["seed"] % 2]}, None

    grid = {"model.width": [1, 2], "seed": list(range(8))}
    write_study(tmp_path / "mine", grid, measure)
    rows = compared(tmp_path, metrics=["gradient_rate_init"]).table.rows
    assert [row.best for row in rows] == [False, True]


def test_constant_results_are_explained_by_nothing_and_the_page_is_json(tmp_path):
    lost = signals_of([0, 10], 4, lambda step, layer: math.nan)

    def measure(values):
        return {"state": "diverged", "gradient_rate_init": 1.0 + values["model.width"]}, lost

    write_study(tmp_path / "mine", WIDTHS, measure)
    found = compared(tmp_path)
    assert "nan" not in "\n".join(sentences(found.explanation))
    spec = page(found).split("const spec = ")[1].split(";\nvegaEmbed")[0]
    json.loads(spec, parse_constant=lambda word: pytest.fail(word))


def test_a_share_of_rounding_is_none(tmp_path):
    write_study(tmp_path / "mine", WIDTHS, lambda values: ({"test_accuracy": 1 / 3}, None))
    assert explain(compared(tmp_path).table).shares == []


@pytest.mark.parametrize("where", ["seed", "model.width", "'a'", "True"])
def test_an_expression_that_is_no_condition_is_a_message(tmp_path, where):
    write_study(tmp_path / "mine", WIDTHS, lambda values: ({}, None))
    with pytest.raises(UserError, match=r"where=.*is no condition"):
        compared(tmp_path, where=where)


def test_true_and_false_are_what_they_are(tmp_path):
    grid = {"model.bias": [True, False], "seed": [0, 1]}
    write_study(tmp_path / "mine", grid, lambda values: ({}, None))
    assert len(compared(tmp_path, where="model.bias == True").table.runs) == 2
    assert len(compared(tmp_path, where="not model.bias").table.runs) == 2


def test_a_finished_run_stands_for_its_failed_copy(tmp_path):
    write_study(tmp_path / "a", WIDTHS, lambda values: ({"state": "failed"}, None))
    write_study(tmp_path / "b", WIDTHS, lambda values: ({"test_accuracy": 0.5}, None))
    runs = compared(tmp_path, words=("a", "b")).table.runs
    assert set(runs["state"]) == {"finished"}
    assert compared(tmp_path, words=("b", "b")).table.left_out == []


def test_what_a_shell_makes_of_a_star_is_understood(tmp_path):
    write_study(tmp_path / "mine", WIDTHS, lambda values: ({}, None))
    (tmp_path / "mine" / "logs").mkdir()
    words = [str(path) for path in (tmp_path / "mine").iterdir()]  # order.json among them
    assert len(collect(words, tmp_path).records) == 9


def test_what_is_left_out_stands_in_the_documents(tmp_path):
    runs = write_study(tmp_path / "mine", WIDTHS, lambda values: ({"test_accuracy": 0.5}, None))
    (runs[0].path / "summary.json").write_text("{")
    found = compared(tmp_path)
    assert "left out: " in in_markdown(found)
    assert "left out: " in latex(found.table)


def test_steps_are_whole_in_the_page(tmp_path):
    rows = signals_of(range(100_000, 100_008), 4, lambda step, layer: 1.0)
    write_study(tmp_path / "mine", {"seed": [0, 1]}, lambda values: ({}, rows))
    text = as_csv(page_data(compared(tmp_path)).profiles)
    assert "100007" in text
    assert "e+05" not in text


def test_a_run_that_diverged_has_no_last_value(tmp_path):
    """Its displacement at step 0 is 0, which says nothing of how far it went."""
    rows = signals_of([0], 4, lambda step, layer: 1.0, displacement=0.0)
    write_study(tmp_path / "mine", WIDTHS, lambda values: ({"state": "diverged"}, rows))
    found = compared(tmp_path, metrics=["displacement.layer_1"])
    assert np.isnan(found.table.rows[0].means["displacement.layer_1"].value)
    assert found.table.rows[0].means["displacement.layer_1"].zeros == 0
    assert profiles(found)["displacement"].isna().all()


def test_one_run_alone_is_compared_with_nothing(tmp_path):
    rows = signals_of([0], 4, lambda step, layer: 1.0)
    write_study(tmp_path / "mine", {"seed": [0]}, lambda values: ({"test_accuracy": 0.5}, rows))
    found = compared(tmp_path)
    assert [row.name for row in found.table.rows] == ["all runs"]
    write_documents(found, tmp_path / "out")
    assert len(draw_study(tmp_path / "out", found)) == 2
    assert fitting(found.table, "t", 140).row_count == 1
    assert np.isnan(found.table.rows[0].means["test_accuracy"].low)


def test_nothing_is_cut_on_a_narrow_terminal(tmp_path):
    """`glorot_normal` and `glorot_uniform` were both `glorot...`."""
    rows = signals_of([0], 4, lambda step, layer: 1.0)
    names = ["glorot_normal", "glorot_uniform"]
    levels = {"initializer.name": names, "seed": [0, 1]}
    write_study(tmp_path / "mine", levels, lambda values: ({"test_accuracy": 0.5}, rows))
    console = Console(width=30, file=io.StringIO(), highlight=False, markup=False)
    show(compared(tmp_path).table, "t", console)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(name in text for name in names)
    assert console.width == 30

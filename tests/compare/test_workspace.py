"""W&B's view, charts and report, as they would be sent: serialised without a server."""

from __future__ import annotations

import json

import altair as alt
import pytest
import vl_convert

from isometry.compare.charts import CHARTS, FIELDS, chart_spec
from isometry.compare.workspace import NUMBERS, STEP, report, workspace

FACTORS = ["activation", "initializer.sigma_w"]
COLUMNS = ["weight_grad_norm", "backprop_norm"]


@pytest.fixture(scope="module")
def view():
    found = workspace("me", "mine", FACTORS, COLUMNS, "isometry")
    return json.loads(found._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def panels(view, kind):
    sections = view["section"]["panelBankConfig"]["sections"]
    return [p["config"] for s in sections for p in s["panels"] if p["viewType"] == kind]


def test_runs_are_grouped_by_study_and_factors(view):
    (runs,) = view["section"]["runSets"]
    keys = [each["name"] for each in runs["grouping"]]
    assert keys == [
        *("study.value", "factors.value.activation", "factors.value.initializer_sigma_w")
    ]


def test_numbers_of_the_summary_are_columns(view):
    (runs,) = view["section"]["runSets"]
    pinned = runs["runFeed"]["columnPinned"]
    for key in (*NUMBERS, "verdict_init", "state"):
        assert pinned[f"summary:{key}"] is True


def test_one_regex_panel_a_logged_column_on_a_log_axis(view):
    lines = [panel for panel in panels(view, "Run History Line Plot") if "metricRegex" in panel]
    assert [panel["metricRegex"] for panel in lines] == [f"^{name}/layer_" for name in COLUMNS]
    assert all(panel["yLogScale"] and panel["xAxis"] == STEP for panel in lines)
    assert all(panel["groupArea"] == "stderr" for panel in lines)  # seeds as a band


def test_parallel_coordinates_run_over_the_factors(view):
    (panel,) = panels(view, "Parallel Coordinates Plot")
    names = [column["accessor"] for column in panel["columns"]]
    assert names[:2] == [
        *("config:factors.value.activation", "config:factors.value.initializer_sigma_w")
    ]
    assert "summary:test_accuracy" in names


def test_pictures_comparer_and_our_own_charts_are_there_and_nothing_automatic(view):
    (media,) = panels(view, "Media Browser")
    assert media["mediaKeys"] == ["heatmap/backprop_norm"]
    assert len(panels(view, "Run Comparer")) == 1
    charts = panels(view, "Vega2")
    assert [chart["panelDefId"] for chart in charts] == [f"me/{name}" for name in CHARTS]
    assert "signals/backprop_norm" in json.dumps(charts[0])
    assert '"shouldAutoGeneratePanels": false' in json.dumps(view)


def test_a_report_holds_the_table_and_the_runs_of_the_study():
    made = report("me", "mine", "s", "| a |\n|---|\n| 1 |", FACTORS, COLUMNS, ["figure/one"])
    spec = made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    for words in ("| a |", "figure/one", '"value":"s"', "^backprop_norm/layer_"):
        assert words in spec


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_draws_the_table_that_runs_log(name):
    """Its fields are W&B's placeholders; filled in, Vega-Lite compiles it and draws every mark."""
    text = json.dumps(chart_spec(name))
    assert "datum.status" not in text
    for field in FIELDS:
        text = text.replace(f"${{field:{field}}}", field)
    spec = json.loads(text)
    rows = [
        {"step": s, "layer": k, "value": -float(k), "status": 2 * (k == 2), "name": "run"}
        for s in (0, 10)
        for k in (1, 2, 3)
    ]
    spec["data"] = {"values": rows}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=".".join(alt.SCHEMA_VERSION.split(".")[:2]))
    assert svg.count('aria-label="layer: 2; ') >= 2 or svg.count("<path") > 8

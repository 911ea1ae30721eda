"""The page in a real browser: it loads without a network; a selection changes the other views."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import altair as alt
import pandas as pd
import pytest

from isometry.compare.collect import collect
from isometry.compare.comparison import compare
from isometry.compare.metrics import USUAL, metric
from isometry.compare.page import page, write_page
from isometry.compare.page_data import moments, page_data
from isometry.compare.table import Choices
from isometry.compare.views import page_spec
from isometry.plots.logarithms import FINITE, NOT_FINITE, ZERO
from studies import signals_of, write_study

GRID = {"initializer.sigma_w": [2, 0.5, 1], "model.width": [64, 32], "seed": [0, 1]}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
STEPS = [0, 10, 20]


def measure(values):
    scale = values["initializer.sigma_w"] * (1 + 0.05 * values["seed"])

    def backprop(step, layer):
        if (scale < 1 and layer == 1) or (scale > 2 and layer == 2):
            return 0.0 if scale < 1 else float("inf")
        return scale ** (4 - layer) * (1 + step)

    rows = signals_of(STEPS, 4, backprop, saturation=0.2, displacement=0.1)
    known = {"gradient_rate_init": scale, "gradient_rate_predicted": scale}
    if values["initializer.sigma_w"] == 2 and values["seed"] == 1:
        return {"state": "diverged", "first_nonfinite_step": 15, **known}, rows
    return {"test_accuracy": 1 / (1 + scale), **known}, rows


@pytest.fixture
def found(tmp_path):
    runs = write_study(tmp_path / "mine", GRID, measure)
    for run in runs:
        run.metrics.write_text("step,train_loss,val_accuracy\n0,2.3,\n10,1.5,0.4\n20,1.0,0.6\n")
    return compare(collect(["mine"], tmp_path), list(map(metric, USUAL)), Choices(), "mine & <b>")


# ---- what it shows -------------------------------------------------------------------------------


def test_profiles_are_logarithms_and_what_has_none_is_marked(found):
    data = page_data(found)
    assert data.steps == STEPS
    frame = data.profiles.set_index(["row", "run", "moment", "layer"])
    assert frame.loc[(0, 0, 0, 1), "value"] == pytest.approx(3 * 0.30103, rel=1e-4)  # 2^3
    assert frame.loc[(2, 4, 0, 1), "status"] == ZERO  # sigma_w = 0.5
    assert frame.loc[(0, 1, 0, 2), "status"] == NOT_FINITE  # sigma_w = 2.1
    assert set(frame["status"]) == {FINITE, ZERO, NOT_FINITE}


def test_every_run_is_in_parallel_coordinates_and_every_curve_has_its_seeds(found):
    data = page_data(found)
    assert data.parallel.groupby("axis")["run"].nunique()["initializer.sigma_w"] == 12
    assert data.parallel["height"].between(0, 1).all()
    assert set(data.curves["what"]) == {"train_loss", "val_accuracy"}
    assert data.events.to_dict("records") == [
        {"row": row, "run": run, "step": 15, "event": "diverged"} for row, run in ((0, 1), (1, 3))
    ]
    assert set(data.layers["what"]) == {"saturation", "displacement"}


def test_moments_are_as_many_as_there_is_room_for():
    layers, steps = range(1, 21), range(0, 2000, 10)
    few = pd.DataFrame([{"run": 0, "step": s, "layer": k} for s in steps for k in layers])
    assert len(moments(few)) == 20
    many = moments(pd.concat(few.assign(run=run) for run in range(500)))
    assert len(many) == 6
    assert (many[0], many[-1]) == (0, 1990)


def test_the_page_is_one_file_without_a_network_and_under_5_mb(tmp_path):
    """300 runs of 20 layers."""
    grid = {"initializer.sigma_w": [0.5 + i / 60 for i in range(60)], "seed": range(5)}
    rows = signals_of(range(0, 400, 10), 20, lambda step, layer: 1 / (layer + step))
    write_study(tmp_path / "mine", grid, lambda values: ({"test_accuracy": 0.5}, rows))
    many = compare(collect(["mine"], tmp_path), [metric("test_accuracy")], Choices(), "many")
    path = write_page(many, tmp_path / "compare.html")
    text = path.read_text()
    assert path.stat().st_size < 5_000_000
    assert not re.findall(r"""(?:src|href)=["']""", text.rsplit("<body>", 1)[1])


def test_names_are_no_markup(found):
    text = page(found)
    assert html.escape("mine & <b>") in text
    assert "<b>" not in text.rsplit("<body>", 1)[1].split("<script>")[0]


def test_the_specification_names_its_parameters(found):
    spec = page_spec(page_data(found), "test_accuracy")
    assert {each["name"] for each in spec["params"]} == {"brushed", "picked", "moment"}
    alt.VConcatChart.from_dict(spec, validate=True)


# ---- in a browser --------------------------------------------------------------------------------

PROBE = """
<script>
async function probe() {
  while (!window.view) await new Promise(done => setTimeout(done, 20));
  const svg = () => document.querySelector("#views svg");
  const drawn = () => ["mark-line", "mark-rect", "mark-symbol"].map(
    kind => svg().querySelectorAll(`.${kind} path`).length);
  const facets = () => [...svg().querySelectorAll("text")].filter(
    t => t.textContent.startsWith("initializer.sigma_w=")).map(t => t.textContent);
  const title = () => [...svg().querySelectorAll("text")].map(
    t => t.textContent).filter(t => t.startsWith("step "));
  const send = (kind, x, y, to) => (to || document.elementFromPoint(x, y)).dispatchEvent(
    new PointerEvent(kind, {bubbles: true, clientX: x, clientY: y, view: window, buttons: 1}));
  const found = {drawn: [drawn()], facets: [facets()], title: [title()]};
  const lines = [...svg().querySelectorAll(".mark-rect path")].map(
    path => path.getBoundingClientRect()).filter(box => box.width > 300 && box.height < 20);
  const x = lines[4].left + 60, y = lines[4].top + 4;
  send("pointermove", x, y);
  send("pointerdown", x, y);
  for (let i = 1; i <= 8; i++) { send("pointermove", x + i, y + 2 * i, window); }
  await view.runAsync();
  send("pointerup", x + 8, y + 16, window);
  await view.runAsync();
  found.drawn.push(drawn()); found.facets.push(facets());
  const slider = document.querySelector("input[type=range]");
  slider.value = 2;
  slider.dispatchEvent(new Event("input"));
  await view.runAsync();
  await new Promise(done => setTimeout(done, 50));
  await view.runAsync();
  found.title.push(title());
  const result = document.createElement("pre");
  result.id = "found";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}
probe();
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_selection_in_the_table_changes_the_other_views(found, tmp_path):
    path = tmp_path / "probe.html"
    path.write_text(page(found) + PROBE)
    seen = json.loads(in_browser(path))
    before, after = seen["drawn"]
    assert all(few < many for few, many in zip(after, before, strict=True))
    assert len(seen["facets"][0]) == 6  # a heatmap a configuration
    assert seen["facets"][1] == [
        "initializer.sigma_w=1, model.width=64",
        "initializer.sigma_w=1, model.width=32",
    ]
    assert seen["title"] == [["step 0"], ["step 20"]]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_page_without_a_divergence_is_whole(tmp_path):
    """An empty layer of marks must not stretch the picture to infinity."""
    rows = signals_of(STEPS, 4, lambda step, layer: 0.5**layer, saturation=0.2, displacement=0.1)
    write_study(tmp_path / "mine", GRID, lambda values: ({"test_accuracy": 0.5}, rows))
    quiet = compare(collect(["mine"], tmp_path), [metric("test_accuracy")], Choices(), "quiet")
    path = tmp_path / "probe.html"
    path.write_text(page(quiet) + PROBE)
    seen = json.loads(in_browser(path))
    lines, rectangles, _ = zip(*seen["drawn"], strict=True)
    assert lines[1] < lines[0]
    assert rectangles[1] < rectangles[0]


def in_browser(path):
    """What the probe has found; the page complains of nothing."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=30000", "--window-size=1900,2400"]
    command += ["--enable-logging=stderr", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    result = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None, done.stdout[-2000:]
    return html.unescape(result[1])

"""`isometry wandb` against a server on loopback that records what arrives."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from commands import ISOMETRY
from studies import signals_of, write_study
from wandb_server import KEY, WandbServer

GRID = {"initializer.sigma_w": [0.5, 1.0], "seed": [0, 1]}


def measure(values):
    rows = signals_of([0, 10], 4, lambda step, layer: values["initializer.sigma_w"] ** (4 - layer))
    return {"test_accuracy": 0.5 + values["seed"] / 100}, rows


@pytest.fixture
def folder(tmp_path):
    write_study(tmp_path / "runs" / "mine", GRID, measure)
    return tmp_path


def command(folder, url, *words, key=KEY):
    outside = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {**outside, "WANDB_BASE_URL": url, "WANDB_API_KEY": key, "OMP_NUM_THREADS": "1"}
    line = [ISOMETRY, "wandb", *words]
    return subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


@pytest.fixture
def server(request):
    found = WandbServer(getattr(request, "param", ()))
    yield found
    found.close()


@pytest.mark.slow
def test_setup_writes_the_charts_and_the_view(folder, server):
    done = command(folder, server.url, "setup", "project=theirs")
    assert done.returncode == 0, done.stderr
    charts = server.variables("CreateCustomChart")
    assert [chart["chartName"] for chart in charts] == ["isometry-heatmap", "isometry-profile"]
    assert all("${field:layer}" in chart["spec"] for chart in charts)
    (view,) = server.variables("UpsertView2")
    assert (view["entityName"], view["projectName"]) == ("me", "theirs")
    assert "factors.value.initializer_sigma_w" in view["spec"]
    assert f"{server.url}/me/theirs?nw=" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("server", [("CreateCustomChart",)], indirect=True)
def test_a_server_without_custom_charts_gets_the_view_and_says_so_in_a_sentence(folder, server):
    done = command(folder, server.url, "setup")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B: no chart isometry-heatmap written") == 1
    assert "Traceback" not in done.stderr
    assert len(server.variables("UpsertView2")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("server", [("UpsertView2", "upsertView")], indirect=True)
def test_a_server_without_views_is_one_sentence(folder, server):
    done = command(folder, server.url, "setup")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"isometry wandb: {server.url} did not take it" in done.stderr


@pytest.mark.slow
def test_report_sends_the_figures_and_the_table(folder, server):
    done = command(folder, server.url, "report", "study=mine")
    assert done.returncode == 0, done.stderr
    runs = server.variables("UpsertBucket")
    assert (runs[0]["groupName"], runs[0]["jobType"]) == ("mine", "report")
    sent = [name for each in server.variables("CreateRunFiles") for name in each["files"]]
    assert any("gradient_against_depth" in name for name in sent), sent
    (view,) = server.variables("upsertView")
    assert view["displayName"] == "Study mine"
    assert "initializer.sigma_w" in json.dumps(view["spec"])


@pytest.mark.slow
def test_without_a_server_or_a_key_it_is_one_sentence(folder):
    done = command(folder, "http://127.0.0.1:9", "setup", key="")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "did not take it" in done.stderr


def test_another_word_and_a_study_without_runs_are_messages(typed, folder):
    done = typed("wandb", "setpu", cwd=folder)
    assert (done.returncode, done.stderr) == (
        2,
        "isometry: isometry wandb setpu: allowed are setup, report\n",
    )

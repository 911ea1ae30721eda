"""What a multirun says when it has ended, and with which exit code."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from isometry.launch import sweep
from isometry.launch.report_at_end import ReportAtEnd
from isometry.runs.directory import RunDirectory
from isometry.verbs import report

NEEDED = {"metric": None, "hydra": {"sweep": {"dir": "nowhere"}}}
RUN = "activation: {name: tanh}\nseed: 0"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The config of a multirun one of whose jobs was stopped before its first step."""
    monkeypatch.setattr(sweep, "failures", [])
    run = RunDirectory(tmp_path / "s" / "run")
    run.begin(RUN)
    run.end("interrupted")
    return OmegaConf.create({**NEEDED, "paths": {"runs": str(tmp_path)}, "study_name": "s"})


def test_runs_that_recorded_nothing_are_reported(study, capsys):
    ReportAtEnd().on_multirun_end(study)
    text = capsys.readouterr().out
    assert "interrupted" in text
    assert "Figure: none, no run has recorded step 0" in text


def test_a_failed_job_makes_the_exit_code(study, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "failures", [0])
    with pytest.raises(SystemExit) as stop:
        ReportAtEnd().on_multirun_end(study)
    assert stop.value.code == 1
    assert "interrupted" in capsys.readouterr().out


def test_a_report_that_fails_does_not_hide_it(study, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(report, "report_study", full)
    with pytest.raises(SystemExit) as stop:
        ReportAtEnd().on_multirun_end(study)
    assert stop.value.code == 1
    assert (
        "isometry: no report (No space left on device); the runs are in" in capsys.readouterr().err
    )


def test_a_study_without_runs_is_no_mistake(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "failures", [])
    ReportAtEnd().on_multirun_end(
        OmegaConf.create({**NEEDED, "paths": {"runs": str(tmp_path)}, "study_name": "s"})
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.91, "Best: val_accuracy 0.91 with optimizer.lr=0.1"), (".inf", "Best: none; no run has")],
)
def test_what_a_search_has_found(tmp_path, capsys, value, words):
    """Every run may have diverged, and none have the number that was searched for."""
    found = f"best_value: {value}\nbest_params: {{optimizer.lr: 0.1}}\n"
    (tmp_path / "optimization_results.yaml").write_text(found)
    paths = {"paths": {"runs": str(tmp_path)}, "study_name": "nothing", "metric": "val_accuracy"}
    config = OmegaConf.create({**paths, "hydra": {"sweep": {"dir": str(tmp_path)}}})
    ReportAtEnd().on_multirun_end(config)
    assert words in capsys.readouterr().out

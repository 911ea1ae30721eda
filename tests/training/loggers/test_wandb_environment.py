"""W&B's own environment variables: they outrank a default of the config, and a mistake in one ends
no training.
"""

from __future__ import annotations

import warnings

import pytest
import wandb

from commands import run_of
from isometry.config.checks import validate
from isometry.config.compose import compose, resolved
from isometry.runs.directory import RunDirectory
from isometry.runs.lock import RunLock
from isometry.training.loggers import build_loggers
from isometry.training.loggers.wandb import make_wandb
from isometry.training.run import train
from wandb_files import records

SMALL = ["model.depth=3", "logger=wandb", "trainer.limit_val_batches=1"]


def offline_run(run: RunDirectory):
    (folder,) = run.path.glob("wandb/offline-run-*")
    return records(folder)


def test_the_environment_outranks_a_default_and_the_command_line_outranks_both(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    for mode, offline in (("online", False), ("offline", True), ("disabled", True)):
        monkeypatch.setenv("WANDB_MODE", mode)
        found = compose("train").logger
        assert (found.project, found.entity, found.offline) == ("theirs", "team", offline)
    found = compose("train", ["logger.project=mine", "logger.offline=false"]).logger
    assert (found.project, found.offline) == ("mine", False)
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE"):
        monkeypatch.delenv(name)
    found = compose("train").logger
    assert (found.project, found.entity, found.offline) == ("isometry", None, True)


def test_group_and_tags(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "their-group")
    single, study = (RunDirectory(tmp_path / name / "run") for name in ("single", "study"))
    arguments = ("isometry", None, True, 1.0)
    assert make_wandb(single, 1, {}, *arguments)._wandb_init["group"] == "their-group"
    assert make_wandb(study, 1, {}, *arguments)._wandb_init["group"] == "study"
    tagged = make_wandb(study, 1, {"tags": ["mine"]}, *arguments)
    assert tagged._wandb_init["tags"] == ["mine"]
    assert make_wandb(study, 1, {}, *arguments)._wandb_init["tags"] is None


def test_name_and_job_type(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "single" / "run")
    arguments = ("isometry", None, True, 1.0)
    plain = make_wandb(run, 1, {}, *arguments)._wandb_init
    assert (plain["name"], plain["job_type"]) == ("run", "train")
    monkeypatch.setenv("WANDB_NAME", "theirs")
    monkeypatch.setenv("WANDB_JOB_TYPE", "ablation")
    named = make_wandb(run, 1, {}, *arguments)._wandb_init
    assert (named["name"], named["job_type"]) == ("theirs", "ablation")
    assert make_wandb(run, 1, {"label": "lr=1"}, *arguments)._wandb_init["name"] == "lr=1"


@pytest.mark.parametrize("value", ["", "a/b", "a b", "x" * 200])
def test_a_variable_that_names_no_project_ends_no_training(monkeypatch, value):
    """It may not even log there."""
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.setenv(name, value)
    config = compose("train", ["logger=csv"])
    validate(resolved(config))
    assert (config.logger.project, config.logger.entity) == ("isometry", None)


def test_disabled_writes_nothing(make_config, monkeypatch):
    wandb.teardown()  # an earlier test of this process may have made W&B read its variables
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = make_config(*SMALL)
    run = run_of(train(config), config)
    assert run.status()["state"] == "finished"
    assert not list(run.path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_BASE_URL", ""), ("WANDB_SILENT", "maybe"), ("WANDB_X_STATS_SAMPLING_INTERVAL", "x")],
)
def test_a_mistake_in_a_variable_is_one_warning(make_config, monkeypatch, name, value):
    wandb.teardown()  # which then reads its variables again
    monkeypatch.setenv(name, value)
    config = make_config(*SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        summary = train(config)
    assert summary["state"] == "finished"
    assert sum("W&B: " in str(w.message) for w in caught) == 1
    wandb.teardown()


def test_what_wandb_refuses_at_all_leaves_the_other_loggers(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("bad setting")

    monkeypatch.setattr("isometry.training.loggers.wandb.make_wandb", refuse)
    run = RunDirectory(tmp_path)
    with pytest.warns(UserWarning, match="W&B: ValueError: bad setting. The run goes on without"):
        loggers = build_loggers(run, 1, {}, ["csv", "wandb"], "p", None, True, 1.0)
    assert [type(logger).__name__ for logger in loggers] == ["MetricsLogger"]


DIVERGES = ["activation=relu", "optimizer.lr=1e30", "trainer.max_steps=5"]


@pytest.mark.parametrize(("words", "state"), [([], "finished"), (DIVERGES, "diverged")])
def test_an_agent_that_proposes_a_run_which_is_over_gets_its_summary(
    make_config, monkeypatch, words, state
):
    config = make_config(*SMALL, *words)
    summary = train(config)
    run = run_of(summary, config)
    assert len(list(run.path.glob("wandb/offline-run-*"))) == 1
    assert train(config) == summary
    assert len(list(run.path.glob("wandb/offline-run-*"))) == 1  # nobody waits for it
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert train(config) == summary
    told = sorted(run.path.glob("wandb/offline-run-*"))
    assert len(told) == 2
    known = summary_of(told[-1])
    assert known["state"] == state
    assert known["steps"] == summary["steps"]
    assert known.get("test_accuracy") == summary["test_accuracy"]


def summary_of(folder):
    """What stands in W&B's summary of a run."""
    updates = [record["summary"]["update"] for record in records(folder) if "summary" in record]
    return {key: value for update in updates for key, value in update.items()}


def test_an_agent_that_proposes_a_busy_run_is_told_so(make_config, monkeypatch):
    config = make_config(*SMALL)
    run = run_of(train(config), config)
    run.end("interrupted")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    before = set(run.path.glob("wandb/offline-run-*"))
    with RunLock(run.path):
        train(config)
    (told,) = set(run.path.glob("wandb/offline-run-*")) - before
    known = summary_of(told)
    assert (known["state"], known["run_id"]) == ("running", run.run_id)
    assert "test_accuracy" not in known

"""W&B's own functions may raise anywhere: the logger lets nothing through."""

from __future__ import annotations

import warnings

import wandb

from isometry.runs.directory import RunDirectory
from isometry.training.loggers.wandb import make_wandb


def test_a_run_that_cannot_be_started_at_all(tmp_path, monkeypatch):
    """Whatever is asked of the logger then is let pass, with one warning."""

    def refuse(**options):
        raise OSError("no process for W&B")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setattr(wandb, "teardown", lambda: None)
    logger = make_wandb(RunDirectory(tmp_path), 1, {}, "isometry", None, offline=True, patience=1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger.begin()
        logger.keep_out_of_summary(["backprop_norm", "saturation"])
        logger.log_metrics({"train_loss": 1.0, "saturation/layer_001": 0.5}, 3)
        logger.log_views({"profile": 1})
        logger.finish({"state": "finished"}, failed=False)
    assert [str(w.message)[:38] for w in caught] == ["W&B: OSError: no process for W&B. The "]

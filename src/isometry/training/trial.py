"""A short training that decides nothing by itself: does this network learn at all?"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig

from isometry import gradient_rate as rates
from isometry.config.targets import instantiate
from isometry.console import quiet
from isometry.initialization.advise import Trial
from isometry.training.build import build_classifier, build_data, build_for, seed_everything
from isometry.training.classifier import Classifier
from isometry.training.trainer import settings_of

STEPS = 200

ALONE = {
    "accelerator": "auto",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "max_epochs": -1,
    "check_val_every_n_epoch": 1_000_000,
    "num_sanity_val_steps": 0,
    "profiler": None,
    "detect_anomaly": False,
}
"""What a trial is not: several processes, validated in between, a search for a mistake."""


def try_out(config: DictConfig, steps: int = STEPS) -> Trial:
    """Train the config's network for some steps, in this process and without a run directory: the
    first steps of `isometry train`, in its order of examples.

    Raises:
        UserError: for a config that cannot be trained.
    """
    quiet()
    seed_everything(config.seed)
    data = build_data(config)
    network = build_for(config, data)
    classifier = build_classifier(_plain(config), network)
    watch = StopAtNonfinite()
    trainer = _trainer(config, steps, watch)
    trainer.fit(classifier, datamodule=data)
    taken = int(trainer.global_step)
    if watch.met:
        return Trial(taken, math.nan, math.nan, "diverged")
    trainer.validate(classifier, datamodule=data, verbose=False)
    return _result(taken, classifier, data.num_classes)


def _result(steps: int, classifier: Classifier, classes: int) -> Trial:
    loss = classifier.metrics["val_loss"]
    accuracy = classifier.metrics["val_accuracy"]
    if not math.isfinite(loss):
        return Trial(steps, math.nan, math.nan, "diverged")
    outcome = rates.learned(accuracy, classifier.examples["val"], classes)
    return Trial(steps, loss, accuracy, outcome)


class StopAtNonfinite(Callback):
    """Ends a training whose loss is no number.

    Attributes:
        met: whether it was so.
    """

    met = False

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, *arguments: Any
    ) -> None:
        if not math.isfinite(float(outputs["loss"])):
            self.met = True
            trainer.should_stop = True


def _plain(config: DictConfig) -> DictConfig:
    """Without compilation, which takes longer than the trial."""
    changed = config.copy()
    changed.compile = False
    return changed


def _trainer(config: DictConfig, steps: int, watch: Callback) -> Trainer:
    """The config's Trainer, alone, in float32 (or float64 where that is asked for)."""
    asked = settings_of(config)
    precision = "64-true" if asked["precision"] == "64-true" else "32-true"
    trainer: Trainer = instantiate(
        {**asked, **ALONE, "precision": precision, "max_steps": steps},
        logger=False,
        enable_checkpointing=False,
        callbacks=[watch],
        plugins=[LightningEnvironment()],  # whatever cluster surrounds this process
    )
    return trainer

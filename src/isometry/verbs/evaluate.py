"""`isometry eval RUN_DIR`: a trained network on a split of its own data set."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig

from isometry.config.checks import validate
from isometry.config.compose import resolved
from isometry.config.machine import check_machine
from isometry.console import quiet
from isometry.data.module import SPLITS, evaluation_loader
from isometry.errors import bad_value
from isometry.runs.directory import RunDirectory
from isometry.training.build import build_classifier, build_data, build_for
from isometry.training.processes import inside_launcher
from isometry.training.resume import at_home, frozen_config, load_checkpoint


def evaluate(config: DictConfig) -> dict[str, float]:
    """Print and return loss and accuracy; nothing is written.

    Raises:
        UserError: where the folder is no run directory, or the checkpoint is not one of that run.
    """
    quiet()
    if config.split not in SPLITS:
        raise bad_value("split", config.split, f"allowed are {', '.join(SPLITS)}")
    folder = Path(config.run)
    own = at_home(frozen_config(folder, "run"), config)
    validate(resolved(own))
    own.trainer.devices = 1  # however many have trained it
    check_machine(own)
    path = _checkpoint_path(RunDirectory(folder), str(config.checkpoint))
    state = load_checkpoint(path, "checkpoint")["state_dict"]
    data = build_data(own)
    classifier = build_classifier(own, build_for(own, data))
    machine = {
        "accelerator": own.trainer.accelerator,
        "devices": own.trainer.devices,
        "precision": own.trainer.precision,
    }
    # one process, whatever surrounds it (a Slurm allocation)
    alone: list[Any] = [] if inside_launcher() else [LightningEnvironment()]
    trainer = Trainer(**machine, logger=False, enable_progress_bar=False, plugins=alone)
    # before float64 weights are read, or they would be rounded
    trainer.precision_plugin.convert_module(classifier)
    try:
        classifier.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # torch's strictness is partial
        raise bad_value(
            "checkpoint", path, f"does not fit the network of {folder}/config.yaml"
        ) from error
    trainer.test(classifier, evaluation_loader(data, config.split), verbose=False)
    metrics = {
        key.replace("test", config.split, 1): value for key, value in classifier.metrics.items()
    }
    shown = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    record = {"run_id": folder.resolve().name, "checkpoint": path.stem, **shown}
    print(json.dumps(record, indent=2, allow_nan=False))
    return metrics


def _checkpoint_path(run: RunDirectory, name: str) -> Path:
    return run.checkpoints / f"{name}.ckpt" if name in ("best", "last") else Path(name)

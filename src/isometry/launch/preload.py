"""What every job needs, imported once by the forkserver; a job is then a fresh process within 0.02 s."""

import hydra.utils
import lightning.pytorch
import torch

import isometry.launch.ddp
import isometry.loggers.wandb
import isometry.plots.run

__all__ = ["hydra", "isometry", "lightning", "torch"]

"""What every job needs, imported once by the forkserver; a job is then a fresh process within 0.02
s.
"""

import gc

import hydra.utils
import lightning.pytorch
import torch

import isometry.launch.ddp
import isometry.plots.profiles
import isometry.training.loggers.wandb

__all__ = ["hydra", "isometry", "lightning", "torch"]

# what is imported lives as long as the forkserver: out of the garbage collector's sight, its pages
# stay shared with the jobs
gc.collect()
gc.freeze()

"""What every job needs, imported once by the forkserver; a job is then a fresh process within 0.02
s.
"""

import gc

import hydra.utils
import lightning.pytorch
import numpy
import torch

import isometry.launch.ddp
import isometry.plots.profiles
import isometry.training.loggers.wandb
from isometry.signals.loops import norm

__all__ = ["hydra", "isometry", "lightning", "torch"]

norm(numpy.ones(1, numpy.float32))  # the first compiled loop that is loaded takes 0.3 s

# what is imported lives as long as the forkserver: out of the garbage collector's sight, its pages
# stay shared with the jobs
gc.collect()
gc.freeze()

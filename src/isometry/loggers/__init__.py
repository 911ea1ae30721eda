"""Where scalars go: `metrics.csv` of the run directory, and Weights & Biases."""

from isometry.loggers.build import build_loggers
from isometry.loggers.csv import MetricsLogger

__all__ = ["MetricsLogger", "build_loggers"]

"""Where scalars go: `metrics.csv` of the run directory, Weights & Biases, TensorBoard."""

from isometry.training.loggers.build import build_loggers, close_loggers, start_loggers
from isometry.training.loggers.csv import MetricsLogger

__all__ = ["MetricsLogger", "build_loggers", "close_loggers", "start_loggers"]

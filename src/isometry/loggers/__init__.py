"""Where scalars go: `metrics.csv` of the run directory, Weights & Biases, TensorBoard."""

from isometry.loggers.build import build_loggers, close_loggers, start_loggers
from isometry.loggers.csv import MetricsLogger

__all__ = ["MetricsLogger", "build_loggers", "close_loggers", "start_loggers"]

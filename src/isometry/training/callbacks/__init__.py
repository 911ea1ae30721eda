"""Lightning callbacks: thin adapters from the recorder to loggers and files."""

from isometry.training.callbacks.checkpoints import AtomicCheckpointIO, checkpoints, early_stopping
from isometry.training.callbacks.group import CallbackGroup
from isometry.training.callbacks.interruption import Interruption
from isometry.training.callbacks.limits import OneLimit
from isometry.training.callbacks.progress import Progress
from isometry.training.callbacks.random_state import ResumeState
from isometry.training.callbacks.signals import Signals
from isometry.training.callbacks.throughput import Throughput
from isometry.training.callbacks.views import ViewsMeanwhile

__all__ = [
    "AtomicCheckpointIO",
    "CallbackGroup",
    "Interruption",
    "OneLimit",
    "Progress",
    "ResumeState",
    "Signals",
    "Throughput",
    "ViewsMeanwhile",
    "checkpoints",
    "early_stopping",
]

"""Lightning callbacks: thin adapters from the recorder to loggers and files."""

from isometry.callbacks.checkpoints import AtomicCheckpointIO, checkpoints, early_stopping
from isometry.callbacks.group import CallbackGroup
from isometry.callbacks.progress import Progress
from isometry.callbacks.resume import Interruption, ResumeState
from isometry.callbacks.signals import Signals
from isometry.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "CallbackGroup",
    "Interruption",
    "Progress",
    "ResumeState",
    "Signals",
    "Throughput",
    "checkpoints",
    "early_stopping",
]

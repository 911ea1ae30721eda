"""Lightning callbacks: thin adapters from the recorder to loggers and files."""

from isometry.callbacks.checkpoints import AtomicCheckpointIO, checkpoints
from isometry.callbacks.progress import Progress
from isometry.callbacks.signals import Signals
from isometry.callbacks.throughput import Throughput

__all__ = ["AtomicCheckpointIO", "Progress", "Signals", "Throughput", "checkpoints"]

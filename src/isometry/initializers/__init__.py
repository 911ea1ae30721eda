"""Weight initializers. Each fills the layers of a layer map and declares the σ_w it stands for."""

from isometry.initializers.base import InitializerError, PerLayer
from isometry.initializers.critical import Critical
from isometry.initializers.orthogonal import DeltaOrthogonal, Orthogonal
from isometry.initializers.scaled import FanScaled, Gaussian, Normal, TorchDefault

__all__ = [
    "Critical",
    "DeltaOrthogonal",
    "FanScaled",
    "Gaussian",
    "InitializerError",
    "Normal",
    "Orthogonal",
    "PerLayer",
    "TorchDefault",
]

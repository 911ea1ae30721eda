"""Weight initializers. Each fills the layers of a layer map and declares the σ_w it stands for."""

from isometry.initializers.base import InitializerError, PerLayer
from isometry.initializers.critical import Critical
from isometry.initializers.data_dependent import LSUV
from isometry.initializers.orthogonal import DeltaOrthogonal, Orthogonal
from isometry.initializers.scaled import FanScaled, Gaussian, Normal, TorchDefault, Uniform
from isometry.initializers.structured import Identity, LooksLinear, Sparse

__all__ = [
    "LSUV",
    "Critical",
    "DeltaOrthogonal",
    "FanScaled",
    "Gaussian",
    "Identity",
    "InitializerError",
    "LooksLinear",
    "Normal",
    "Orthogonal",
    "PerLayer",
    "Sparse",
    "TorchDefault",
    "Uniform",
]

"""Isometry: does the gradient reach the first layer?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isometry.layers.discover import layer_map as layer_map
    from isometry.training.callbacks.signals import Signals as Signals
    from isometry.training.watch import watch as watch

__version__ = "0.1.0"

__all__ = ["Signals", "layer_map", "watch"]


_ROOMS = {
    "Signals": "isometry.training.callbacks.signals",
    "layer_map": "isometry.layers.discover",
    "watch": "isometry.training.watch",
}


def __getattr__(name: str) -> Any:
    # torch and Lightning take seconds to import, which `isometry --help` need not wait for
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

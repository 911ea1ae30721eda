"""Isometry: does the gradient reach the first layer?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isometry.layers.discover import layer_map as layer_map
    from isometry.training.callbacks.signals import Signals as Signals

__version__ = "0.1.0"

__all__ = ["Signals", "layer_map"]


def __getattr__(name: str) -> Any:
    # torch and Lightning take seconds to import, which `isometry --help` need not wait for
    if name == "Signals":
        from isometry.training.callbacks.signals import Signals

        return Signals
    if name == "layer_map":
        from isometry.layers.discover import layer_map

        return layer_map
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

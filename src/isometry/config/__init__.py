"""From a command line to a valid config; what a fork's own code needs of it is named here."""

from isometry.config.compose import compose
from isometry.config.targets import register_target

__all__ = ["compose", "register_target"]

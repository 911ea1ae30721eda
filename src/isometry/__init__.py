"""Isometry: does the gradient reach the first layer?"""

__version__ = "0.1.0"

"""The measuring: hooks on the layers, float64 norms, and the recorder. Knows nothing of W&B,
files or Lightning.
"""

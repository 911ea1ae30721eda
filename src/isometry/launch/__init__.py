"""Launching many runs. What Hydra loads at every start imports nothing heavy."""

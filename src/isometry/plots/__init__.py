"""Data frame in, matplotlib figure out; one style."""

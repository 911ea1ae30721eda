"""The run directory and everything in it: identity, status, signal store, metrics, run table. No
torch.
"""

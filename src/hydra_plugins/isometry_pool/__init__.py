"""The few lines by which Hydra finds isometry's launcher; Hydra loads plugins only from this
namespace.
"""

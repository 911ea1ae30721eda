"""Networks built from `Layer`s, each of which carries the `LayerSpec` that everything else
reads.
"""

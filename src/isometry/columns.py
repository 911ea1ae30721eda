"""The measured columns of `signals.parquet`, in the order of DESIGN.md; `docs/measuring.md` defines
each.
"""

MEASURED = (
    "weight_norm",
    "weight_grad_norm",
    "weight_grad_norm_clipped",
    "bias_grad_norm",
    "sample_weight_grad_rms",
    "update_norm",
    "update_ratio",
    "displacement",
    "backprop_norm",
    "preactivation_mean",
    "preactivation_var",
    "forward_second_moment",
    "activation_mean",
    "activation_var",
    "saturation",
    "dead",
    "nonfinite",
)

OVER_TIME = (
    *("preactivation_mean", "preactivation_var", "forward_second_moment"),
    *("saturation", "backprop_norm"),
)
"""The measured columns of `signals_over_time.parquet`: recurrent layers, by gate and time step."""

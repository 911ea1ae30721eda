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

SUMMARY_NUMBERS = (
    *("test_accuracy", "val_accuracy", "train_loss", "gradient_rate_init", "gradient_rate_final"),
    *("gradient_rate_predicted", "gradient_ratio_init", "saturation_init", "clipped_share"),
    *("gradient_rate_time_init", "gradient_ratio_time_init"),
    *("displacement_layer_1", "saturation_layer_1", "update_ratio_largest", "dead_largest"),
    *("lambda_max", "alarm_step", "first_nonfinite_layer", "first_nonfinite_step", "steps"),
    *("wall_seconds", "images_per_second"),
)
"""Keys of `summary.json` that are numbers, or null."""

"""`isometry plot activation=sigmoid`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from isometry.plots.nonlinearity import draw_activation
from isometry.plots.style import save
from isometry.training.build import build_activation


def plot(config: DictConfig) -> None:
    """Draw φ and φ' of the configured activation and print where the picture is."""
    activation = build_activation(config.activation)
    target = Path(config.paths.runs) / "plots" / f"activation-{config.activation.name}"
    (path,) = save(draw_activation(activation, config.reach), target)
    intervals = activation.saturated_intervals
    where = (
        "nowhere"
        if not intervals
        else ", ".join(f"[{low:.4g}, {high:.4g}]" for low, high in intervals)
    )
    print(f"{activation.name}: largest slope {activation.slope_max:.4g}; saturated on {where}")
    print(path)

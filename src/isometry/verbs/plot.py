"""`isometry plot sigmoid tanh relu`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from isometry.activations import Activation
from isometry.config.compose import compose_option
from isometry.config.messages import options
from isometry.errors import bad_value, nearest
from isometry.plots.nonlinearity import draw_activations
from isometry.plots.style import save
from isometry.runs.files import written_below
from isometry.training.build import build_activation


def plot(config: DictConfig) -> None:
    """Draw φ, φ' and the variance that they let through, of one activation or several; print where
    they saturate and where the picture is.

    Raises:
        UserError: for an activation that is none.
    """
    chosen = [build_activation(config.activation), *map(named_activation, config.also)]
    name = "-".join([config.activation.name, *config.also])
    target = Path(config.paths.runs) / "plots" / f"activation-{name}"
    with written_below("paths.runs", config.paths.runs):
        (path,) = save(draw_activations(chosen, config.reach), target)
    for activation in chosen:
        print(
            f"{activation.name}: largest slope {activation.slope_max:.4g}; {saturation(activation)}"
        )
    print(path)


def named_activation(name: str) -> Activation:
    """The activation of an option of `conf/activation/`.

    Raises:
        UserError: where there is none of that name.
    """
    allowed = options("activation")
    if name not in allowed:
        words = f"no such activation{nearest(name, allowed)}; allowed are {', '.join(allowed)}"
        raise bad_value("also", name, words)
    return build_activation(compose_option("activation", name))


INTERVALS = 4
"""Of an activation that saturates again and again, so many are printed."""


def saturation(activation: Activation) -> str:
    """Where |φ'| is under 5 % of its maximum, in words."""
    if activation.slope is not None:
        return "saturated around each of its extrema, again and again"
    intervals = activation.saturated_intervals
    if intervals is None:
        return "its slope is learned, or has no maximum: saturated nowhere"
    where = ", ".join(f"[{low:.4g}, {high:.4g}]" for low, high in intervals[:INTERVALS])
    more = f" and {len(intervals) - INTERVALS} more" if len(intervals) > INTERVALS else ""
    return f"saturated on {where}{more}" if intervals else "saturated nowhere"

"""`isometry theory`: an activation's critical scales, phases and depth scales, and its phase
diagram.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from isometry.console import print_whole, wide_console
from isometry.runs.files import written_below
from isometry.theory.critical import CriticalPoint, NoCriticalPoint, critical
from isometry.theory.fixed_points import Limit, fixed_points, limit
from isometry.theory.meanfield import Nonlinearity
from isometry.training.build import build_activation

SCHEMES = {"LeCun, Glorot": 1.0, "He": math.sqrt(2), "torch default": 1 / math.sqrt(3)}
"""σ_w of the usual initializers between layers of equal width, without biases."""


def theory(config: DictConfig) -> None:
    """Print the card; draw the phase diagram if wanted."""
    phi = build_activation(config.activation)
    show(phi, [float(value) for value in config.sigma_b])
    if config.phase_diagram:
        from isometry.plots.phase import draw_phase_diagram
        from isometry.plots.style import save

        figure = draw_phase_diagram(phi, right_edge(phi, config), config.sigma_b_max)
        target = Path(config.paths.runs) / "plots" / f"phase-{config.activation.name}"
        with written_below("paths.runs", config.paths.runs):
            (path,) = save(figure, target)
        print(path)


USUAL_EDGE = 4.0


def right_edge(phi: Nonlinearity, config: DictConfig) -> float:
    """σ_w up to which the phase diagram goes: the critical line is in it."""
    if config.sigma_w_max != "auto":
        return float(config.sigma_w_max)
    point = point_or_none(phi, 0.0)
    return USUAL_EDGE if point is None else max(USUAL_EDGE, 1.5 * point.sigma_w)


def show(phi: Nonlinearity, sigma_b: Sequence[float]) -> None:
    """Two tables: critical points by σ_b, and what the usual initializers make of φ."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    criticals = Table(title=f"{phi.name}: critical σ_w (χ₁ = 1)", box=SIMPLE_HEAD)
    for heading in ("σ_b", "σ_w", "σ_w²", "q*", "what kind of point"):
        criticals.add_column(heading)
    for value in sigma_b:
        criticals.add_row(f"{value:g}", *point_cells(point_or_none(phi, value)))
    best = point_or_none(phi)
    if best is not None and best.kind == "half_stable":
        criticals.add_row(f"{best.sigma_b:.5g} (auto)", *point_cells(best))
    schemes = Table(title="the usual initializers, equal widths, no bias", box=SIMPLE_HEAD)
    for heading in (
        "initializer",
        "σ_w",
        "χ₁",
        "rate √χ₁",
        "phase",
        "q*",
        "c*",
        "ξ_∇",
        "ξ_c",
        "fixed points of q",
    ):
        schemes.add_column(heading)
    for name, sigma_w in SCHEMES.items():
        schemes.add_row(name, *scheme_cells(phi, sigma_w))
    print_whole(criticals)
    print_whole(schemes)
    gain = point_or_none(phi, 0.0)
    if gain is not None:
        unstable = "" if gain.stable else "; lengths do not stay there, see initializer=critical"
        wide_console().print(
            f"gain without biases: initializer.gain={gain.sigma_w:.6g} with fan-in scaling "
            f"(initializer.gain=auto takes it{unstable})"
        )


def point_cells(point: CriticalPoint | None) -> list[str]:
    """σ_w, σ_w², q* and the kind of a point as text."""
    if point is None:
        return ["-", "-", "-", "no fixed point has χ₁ = 1"]
    scales = [f"{point.sigma_w:.5g}", f"{point.sigma_w**2:.5g}"]
    return [*scales, _q(point.q_star), point.note]


def scheme_cells(phi: Nonlinearity, sigma_w: float) -> list[str]:
    """σ_w, χ₁, rate, phase, q*, c*, depth scales and fixed points as text."""
    found: Limit = limit(phi, sigma_w, 0.0)
    points = ", ".join(f"{_q(p.q)} ({p.kind})" for p in fixed_points(phi, sigma_w, 0.0))
    return [
        f"{sigma_w:.4g}",
        _chi(found.chi_1),
        _chi(found.chi_1, root=True),
        found.phase,
        _q(found.q_star),
        "-" if found.c_star is None else f"{found.c_star:.3g}",
        _depth(found.xi_gradient),
        "-" if found.xi_c is None else _depth(found.xi_c),
        points or "every q",
    ]


def row(name: str, phi: Nonlinearity) -> list[str]:
    """One line of the table of all activations in `docs/theory.md`."""
    points = [point_or_none(phi, value) for value in (0.0, 0.05, 0.2)]
    chis = [_chi(limit(phi, sigma_w, 0.0).chi_1) for sigma_w in SCHEMES.values()]
    scales = ["none" if point is None else f"{point.sigma_w**2:.5g}" for point in points]
    first = points[0]
    if first is None:
        return [name, *scales, "none", "-", *chis]
    return [
        name,
        *scales,
        first.kind + ("" if first.stable else ", unstable"),
        _q(first.q_star),
        *chis,
    ]


def point_or_none(phi: Nonlinearity, sigma_b: float | None = None) -> CriticalPoint | None:
    """The critical point (`theory.critical`), None where there is none."""
    try:
        return critical(phi, sigma_b)
    except NoCriticalPoint:
        return None


UNBOUNDED = 1e6
"""A χ₁ over it is that of the largest q that is computed, under its inverse of the smallest: where
lengths grow or vanish for ever and χ with them.
"""


def _chi(value: float, root: bool = False) -> str:
    if value > UNBOUNDED:
        return "∞"
    if value < 1 / UNBOUNDED:
        return "0"
    return f"{math.sqrt(value) if root else value:.4g}"


def _q(value: float) -> str:
    if math.isnan(value):
        return "any"
    return "∞" if math.isinf(value) else f"{value:.4g}"


def _depth(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"

"""What `isometry diagnose` prints: the table by layer, and the lines that say what it means."""

from __future__ import annotations

import math
from typing import Any

from isometry.console import console, print_whole
from isometry.gradient_rate import SATURATED
from isometry.initialization.advise import depth_of_fall

PAIRS = ("forward_second_moment", "backprop_norm", "sample_weight_grad_rms")
"""Measured columns that have a prediction beside them."""


LEGEND = (
    "q: mean of h² over batch and units. backprop: √ of the mean over examples of ‖δ‖², δ the "
    "gradient of the summed loss with respect to h. sample grad: likewise ‖∂L/∂W‖ of one example. "
    "saturated: share of units with |φ'| under 5 % of its maximum."
)
BANDS = " ×/÷ f: one standard deviation over seeds is a factor f."


def show(diagnosis: dict[str, Any]) -> None:
    """The table by layer, and what it says."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = diagnosis["layers"]
    predicted = any(row[f"{name}_predicted"] is not None for row in rows for name in PAIRS)
    table = Table(title=diagnosis["run_id"], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", justify="right", no_wrap=True)
    if not predicted:
        table.add_column("name")
    for heading in ("q", "backprop", "sample grad"):
        table.add_column(heading, justify="right", no_wrap=True)
        if predicted:
            table.add_column("predicted", justify="right", no_wrap=True)
    table.add_column("saturated", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, predicted))
    table.caption = LEGEND + (BANDS if predicted else "")
    table.caption_justify = "left"
    print_whole(table)
    for line in conclusions(diagnosis):
        console.print(line, soft_wrap=True, highlight=False)


def _cells(row: dict[str, Any], predicted: bool) -> list[str]:
    """Of one layer; with its name where nothing is predicted."""
    cells = [f"{row['layer']}" + (" out" if row["kind"] == "readout" else "")]
    cells += [] if predicted else [row["name"]]
    for name in PAIRS:
        cells.append(_short(row[name]))
        if predicted:
            cells.append(_with_band(row[f"{name}_predicted_log10"], row[f"{name}_std"]))
    return [*cells, "-" if row["saturation"] is None else f"{row['saturation']:.0%}"]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _with_band(log10: float | None, std: float | None) -> str:
    """A number from its logarithm, with the factor of one standard deviation."""
    if log10 is None:
        return "-"
    exponent = math.floor(log10)
    number = (
        f"{10**log10:.3g}"
        if -4 <= exponent < 5
        else f"{10 ** (log10 - exponent):.2f}e{exponent:+d}"
    )
    if not std or std < 0.005:
        return number
    factor = f"{math.exp(std):.2f}" if std < 10 else f"10^{std / math.log(10):.0f}"
    return f"{number} ×/÷ {factor}"


def conclusions(diagnosis: dict[str, Any]) -> list[str]:
    """The lines under the table."""
    predicted = diagnosis["gradient_rate_predicted"]
    band = diagnosis["gradient_rate_predicted_band"]
    words = "no prediction" if predicted is None else f"predicted {predicted:.4g}"
    words += "" if band is None else f" (95 % of seeds: {band[0]:.4g} to {band[1]:.4g})"
    rate = diagnosis["gradient_rate"]
    lines = [f"gradient rate   measured {_short(rate)}, {words}"]
    used = predicted or rate
    if used:
        depth = depth_of_fall(used)
        lines.append(
            "                at this rate by 10^6 "
            + ("at no depth" if math.isinf(depth) else f"over {depth:,.0f} layers")
        )
    if diagnosis["phase"]:
        q_star = "unbounded or any" if diagnosis["q_star"] is None else f"{diagnosis['q_star']:.4g}"
        lines.append(
            f"phase           {diagnosis['phase']} (χ₁ = {diagnosis['chi_1']:.4g}, q* = {q_star})"
        )
    how = " (predicted; nothing finite was measured)" * (diagnosis["verdict_source"] == "predicted")
    saturated = largest_saturation(diagnosis)
    how += f" at {saturated:.0%} saturation" * (saturated > SATURATED)
    lines.append(f"verdict         {diagnosis['verdict_init'] or 'none'}{how}")
    lines += _curvature(diagnosis)
    values = diagnosis["jacobian_singular_values"]
    if values:
        middle = values[len(values) // 2]
        lines.append(
            f"Jacobian        singular values {values[-1]:.2e} to {values[0]:.2e}, median "
            f"{middle:.2e} (1: isometry)"
        )
    lines.append(f"loss            {diagnosis['loss'].replace('_', '-')}")
    if diagnosis["reason"]:
        lines.append(f"not predicted   {diagnosis['reason']}")
    return [*lines, *[f"what to change  {line}" for line in diagnosis["advice"]]]


def largest_saturation(diagnosis: dict[str, Any]) -> float:
    """Of any layer; 0 where it is not known."""
    return max((row["saturation"] or 0.0 for row in diagnosis["layers"]), default=0.0)


def _curvature(diagnosis: dict[str, Any]) -> list[str]:
    """Largest eigenvalues, and what they say of the learning rate."""
    found = diagnosis["curvature"]
    if found["hessian"] is None:
        return [] if found["reason"] is None else [f"curvature       {found['reason']}"]
    newton = "" if found["gauss_newton"] is None else f" (Gauss-Newton {found['gauss_newton']:.3g})"
    line = f"curvature       λ_max {found['hessian']:.3g}{newton}"
    if found["hessian"] > 0:
        line += f": 2/λ_max = {2 / found['hessian']:.3g}"
    stable = diagnosis["stable_lr"]
    if stable is None:
        return [line]
    times = diagnosis["lr"] / stable
    said = (
        f"the rate of {diagnosis['lr']:g} is {times:.2g} times the largest stable one, {stable:.3g}"
    )
    return [line, f"                {said}"]

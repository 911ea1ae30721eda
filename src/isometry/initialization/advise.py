"""What to change, computed: the predicted rate of the same network under other choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isometry.gradient_rate import Verdict

FALL = 1e6
"""The factor by which a gradient may fall or grow from the last hidden layer to the first before it
is called lost.
"""

BETTER = 0.5
"""A choice is worth a line if it brings |log rate| under this share of the present one."""


@dataclass(frozen=True)
class Situation:
    """What advice depends on.

    Attributes:
        rate: predicted (where there is a prediction, else measured) gradient rate.
        hidden: number of hidden layers.
        verdict: of the measured profile.
        spread: standard deviation over seeds of log10 of the gradient ratio, None if unknown.
    """

    rate: float
    hidden: int
    verdict: Verdict | None
    spread: float | None


def depth_of_fall(rate: float) -> float:
    """Layers over which the gradient falls or grows by `FALL`; inf at rate 1."""
    return (
        math.inf
        if rate <= 0 or abs(math.log(rate)) < 1e-9
        else math.log(FALL) / abs(math.log(rate))
    )


def advise(
    now: Situation,
    alternatives: Sequence[tuple[str, Callable[[], float | None]]],
    depth_key: str = "model.depth",
) -> list[str]:
    """Lines of advice, the best first.

    Args:
        now: the network as it is.
        alternatives: an override and what rate it would have (None: no prediction).
        depth_key: what the depth is called.
    """
    if now.verdict is None:
        return [_without_ratio(now)]
    depth = depth_of_fall(now.rate)
    if now.verdict == "healthy" and depth > now.hidden:
        return [_healthy(now, depth), *_noise(now)]
    found = [
        (override, rate) for override, compute in alternatives if (rate := compute()) is not None
    ]
    better = sorted((abs(math.log(rate)), override, rate) for override, rate in found if rate > 0)
    bound = BETTER * abs(math.log(now.rate)) if now.rate > 0 else math.inf
    lines = [
        f"{override} brings the rate from {now.rate:.3g} to {rate:.3g}"
        for distance, override, rate in better
        if distance < bound
    ]
    otherwise = "or keep" if lines else "keep"
    limit = max(2, int(depth) + 1)
    shallower = f"{otherwise} {depth_key} under {limit}, where the gradient changes by 10^6"
    return [*lines, shallower, *_noise(now)]


def _without_ratio(now: Situation) -> str:
    if now.hidden == 0:
        return "nothing: there is no hidden layer for a gradient to be lost in"
    return (
        "no gradient reaches the last hidden layer: a readout or a residual branch that begins at "
        "zero passes none on before its first update"
    )


def _healthy(now: Situation, depth: float) -> str:
    reach = "at no depth" if math.isinf(depth) else f"at a depth of about {depth:,.0f}"
    return (
        f"nothing: the gradient reaches the first of {now.hidden} hidden layers; it would change "
        f"by 10^6 {reach}"
    )


def _noise(now: Situation) -> list[str]:
    """A line where chance decides: the gradient of one network lies a factor of 10 or more off the
    expectation.
    """
    if now.spread is None or now.spread < 0.5:
        return []
    return [
        "seeds differ: the ratio of first to last layer's gradient varies by a factor of "
        f"{_power(now.spread)} (one standard "
        f"deviation) over seeds; a larger model.width or a smaller depth narrows it"
    ]


def _power(log10: float) -> str:
    """10^x in two digits, also where that is no float."""
    return f"{10**log10:.2g}" if log10 < 300 else f"10^{log10:.0f}"

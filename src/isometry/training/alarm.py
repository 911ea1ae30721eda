"""A warning before the explosion: the gradient norm far above its running median."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

MEMORY = 100
"""Steps that the running median looks back."""


class GradientAlarm:
    """Says when the norm of the whole gradient has been over `factor` times its running median for
    `steps` steps.

    The median is over the last `MEMORY` steps that were not above that bound themselves: an
    excursion does not become the rule.

    Args:
        factor: how many times the median is too much.
        steps: for how many steps on end.
    """

    def __init__(self, factor: float, steps: int):
        self.factor = factor
        self.steps = steps
        self.norms: deque[float] = deque(maxlen=MEMORY)
        self.above = 0

    def see(self, first_step: int, norms: Iterable[float]) -> list[int]:
        """Norms of consecutive steps; returns the steps at which an excursion became `steps`
        long.
        """
        return [step for step, norm in enumerate(norms, start=first_step) if self._see(float(norm))]

    def _see(self, norm: float) -> bool:
        if norm == 0.0 or not math.isfinite(
            norm
        ):  # no batch, or a step that the gradient scaler skipped: says nothing
            return False
        median = statistics.median(self.norms) if self.norms else norm
        if norm > self.factor * median > 0:
            self.above += 1
        else:
            self.above = 0
            self.norms.append(norm)
        return self.above == self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"norms": list(self.norms), "above": self.above}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.norms = deque(state["norms"], maxlen=MEMORY)
        self.above = int(state["above"])

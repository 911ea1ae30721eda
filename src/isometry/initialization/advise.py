"""What to change, found out: networks that were predicted, and trained for some steps, beside the
present one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from isometry.gradient_rate import SATURATED, Verdict

FALL = 1e6
"""The factor by which a gradient may fall or grow from the last hidden layer to the first before it
is called lost.
"""

BETTER = 0.5
"""A choice is worth a line if it brings |log rate| under this share of the present one."""

LOWER = 0.9
"""A trained choice is worth a line if its loss is under this share of the present one's."""

LINES = 4


@dataclass(frozen=True)
class Trial:
    """What came out of a short training.

    Attributes:
        steps: that were taken.
        loss: of the validation set after them; nan if the training diverged.
        accuracy: likewise.
        outcome: `learned` (above guessing by three standard errors), `chance` or `diverged`.
    """

    steps: int
    loss: float
    accuracy: float
    outcome: Literal["learned", "chance", "diverged"]

    def __str__(self) -> str:
        if self.outcome == "diverged":
            return f"diverges within {self.steps} steps"
        return f"loss {self.loss:.3g} after {self.steps} steps ({self.accuracy:.0%} right)"


@dataclass(frozen=True)
class Choice:
    """A network, as it is or changed.

    Attributes:
        override: what was changed, as on a command line.
        rate: gradient rate: predicted, or (of the present one, without a prediction) measured.
        verdict: of its gradient at this depth.
        trial: None where it was not tried.
    """

    override: str
    rate: float | None
    verdict: Verdict | None
    trial: Trial | None = None


@dataclass(frozen=True)
class Situation:
    """What advice depends on.

    Attributes:
        now: the network as it is.
        hidden: number of hidden layers.
        spread: standard deviation over seeds of log10 of the gradient ratio, None if unknown.
        bounds: ratios under and over which the verdict is vanishing and exploding.
        ratios: natural logarithm of `backprop_norm` of layer 1 over each hidden layer's, predicted
            or else measured; none where neither is known.
        depth_key: what the depth is called.
        saturated: share of a layer's units, of the layer that has most.
        lr: the learning rate over the largest stable one, None if unknown.
    """

    now: Choice
    hidden: int
    spread: float | None
    bounds: tuple[float, float]
    ratios: Sequence[float] = ()
    depth_key: str = "model.depth"
    saturated: float = 0.0
    lr: float | None = None

    @property
    def well(self) -> bool:
        """Whether there is nothing to look for: healthy, and learned where that was tried."""
        tried = self.now.trial
        return self.now.verdict == "healthy" and (tried is None or tried.outcome == "learned")


def depth_of_fall(rate: float) -> float:
    """Layers over which the gradient falls or grows by `FALL`; inf at rate 1."""
    if rate <= 0 or abs(math.log(rate)) < 1e-9:
        return math.inf
    return math.log(FALL) / abs(math.log(rate))


def healthy_depth(situation: Situation) -> int:
    """The largest depth (readout included), up to that of the network itself, at which the gradient
    would be healthy: of fewer layers the profile is the part of this one's that belongs to them.
    """
    low, high = map(math.log, situation.bounds)
    inside = itertools.takewhile(lambda ratio: low <= ratio <= high, situation.ratios)
    return 1 + sum(1 for _ in inside)


def advise(situation: Situation, choices: Sequence[Choice]) -> list[str]:
    """Lines of advice, the best first: by the loss of what was tried, else by verdict and rate."""
    if situation.now.verdict is None:
        return [_without_ratio(situation)]
    if situation.well:
        return [*_far_too_fast(situation), _healthy(situation), *_noise(situation)]
    if situation.now.trial is None:
        lines = _by_rate(situation, choices)
    else:
        lines = _by_trial(situation.now, situation.now.trial, choices)
    return [*lines, *_shallower(situation, bool(lines)), *_noise(situation)]


def _by_trial(now: Choice, present: Trial, choices: Sequence[Choice]) -> list[str]:
    """Of the choices that learned, and better than the present one; each line says what that one
    does.
    """
    learned = [(c.trial.loss, c) for c in choices if c.trial and c.trial.outcome == "learned"]
    worst = math.inf if math.isnan(present.loss) else LOWER * present.loss
    best = sorted((pair for pair in learned if pair[0] < worst), key=lambda pair: pair[0])
    if best:
        return [_tried(choice, now, present) for _, choice in best[:LINES]]
    names = ", ".join(choice.override for choice in choices if choice.trial)
    if present.outcome == "learned":
        return [f"nothing: now {present}, and no try comes lower ({names})"]
    return [f"no try learns ({names}); now {present}"]


def _tried(choice: Choice, now: Choice, present: Trial) -> str:
    return f"{choice.override}: {choice.trial}; now {present}{_rates(choice, now)}"


def _rates(choice: Choice, now: Choice) -> str:
    if choice.rate is None or now.rate is None:
        return ""
    return f"; rate {now.rate:.3g} -> {choice.rate:.3g}, {choice.verdict}"


def _by_rate(situation: Situation, choices: Sequence[Choice]) -> list[str]:
    """Of the choices that bring the rate nearer to 1; first those that are healthy at this
    depth.
    """
    rate = situation.now.rate
    if not rate or rate < 0:
        return []
    bound = BETTER * abs(math.log(rate))
    better = [
        (choice.verdict != "healthy", abs(math.log(choice.rate)), choice)
        for choice in choices
        if choice.rate and abs(math.log(choice.rate)) < bound
    ]
    return [
        f"{choice.override} brings the rate from {rate:.3g} to {choice.rate:.3g}, {choice.verdict} "
        "at this depth"
        for *_, choice in sorted(better, key=lambda entry: entry[:2])[:LINES]
    ]


def _shallower(situation: Situation, otherwise: bool) -> list[str]:
    """Where depth is what is wrong and nothing was tried, the depth at which it would not be."""
    depth = healthy_depth(situation)
    known = situation.now.verdict != "healthy" and 2 < depth <= situation.hidden
    if not known or situation.now.trial is not None:  # then the depth is among what was tried
        return []
    begin = "or keep" if otherwise else "keep"
    words = f"{situation.depth_key} at {depth} or less: there the gradient is healthy"
    return [f"{begin} {words} (whether it learns is not tried)"]


def _without_ratio(situation: Situation) -> str:
    if situation.hidden == 0:
        return "nothing: there is no hidden layer for a gradient to be lost in"
    return (
        "no gradient reaches the last hidden layer: a readout or a residual branch that begins at "
        "zero passes none on before its first update"
    )


def _healthy(situation: Situation) -> str:
    # in most others like this one it may be lost all the same; of more layers the profile says
    # nothing: near criticality their rate is nearer to 1
    lost = ", but would be lost in most networks like this"
    lost = lost if 0 < len(situation.ratios) != healthy_depth(situation) - 1 else ""
    trained = "" if situation.now.trial is None else f"; {situation.now.trial}"
    if situation.now.trial is None and situation.saturated > SATURATED:
        return (
            f"the gradient reaches the first of {situation.hidden} hidden layers, but "
            f"{situation.saturated:.0%} of a layer's units are saturated: smaller weights, or "
            "trial=true, which finds out whether it learns"
        )
    reaches = f"the gradient reaches the first of {situation.hidden} hidden layers"
    return f"nothing: {reaches}{lost}{trained}"


FAR = 5.0
"""So many times the largest stable rate is far: up to about twice it training finds flatter places
by itself (Cohen et al. 2021)."""


def _far_too_fast(situation: Situation) -> list[str]:
    """A line where the learning rate was not tried and gradient descent diverges with it."""
    if situation.now.trial is not None or situation.lr is None or situation.lr < FAR:
        return []
    return [f"a lower optimizer.lr: it is {situation.lr:.2g} times the largest stable one"]


def _noise(situation: Situation) -> list[str]:
    """A line where chance decides: the gradient of one network lies a factor of 10 or more off the
    expectation.
    """
    if situation.spread is None or situation.spread < 0.5:
        return []
    return [
        "seeds differ: the ratio of first to last layer's gradient varies by a factor of "
        f"{_power(situation.spread)} (one standard "
        f"deviation) over seeds; a larger model.width or a smaller depth narrows it"
    ]


def _power(log10: float) -> str:
    """10^x in two digits, also where that is no float."""
    return f"{10**log10:.2g}" if log10 < 300 else f"10^{log10:.0f}"

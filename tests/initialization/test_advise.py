"""Lines of advice from what was predicted and tried."""

import math
from dataclasses import replace

import pytest

from isometry.gradient_rate import verdict
from isometry.initialization.advise import (
    Choice,
    Situation,
    Trial,
    advise,
    depth_of_fall,
    healthy_depth,
)

BOUNDS = (1e-2, 1e2)
STUCK = Trial(200, 2.3, 0.1, "chance")
GOOD = Trial(200, 0.3, 0.9, "learned")
FAIR = Trial(200, 1.0, 0.6, "learned")
BAD = Trial(3, math.nan, math.nan, "diverged")


def situation(rate=0.5, state="vanishing", trial=None, spread=None, hidden=30):
    ratios = [] if rate is None else [layer * math.log(rate) for layer in range(hidden)]
    return Situation(Choice("", rate, state, trial), hidden, spread, BOUNDS, ratios)


def test_depth_of_fall():
    assert depth_of_fall(0.1) == pytest.approx(6.0)
    assert depth_of_fall(1.0) == math.inf


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93, 1.2, 3.0])
def test_at_the_healthy_depth_the_verdict_is_healthy_and_one_deeper_it_is_not(rate):
    """A depth of d has d - 1 hidden layers: d - 2 factors."""
    depth = healthy_depth(situation(rate, hidden=100))
    assert verdict(rate ** (depth - 2), *BOUNDS) == "healthy"
    assert verdict(rate ** (depth - 1), *BOUNDS) != "healthy"


def test_of_more_layers_nothing_is_said():
    """Near criticality the rate of the next ones is nearer to 1 than that of the first."""
    (line,) = advise(situation(0.9, "healthy", hidden=10), [])
    assert line == "nothing: the gradient reaches the first of 10 hidden layers"
    (line,) = advise(situation(0.5, "healthy", hidden=10), [])  # this one, by chance
    assert line.endswith(", but would be lost in most networks like this")


def test_without_trials_healthy_choices_come_before_nearer_ones():
    lines = advise(
        situation(),
        [
            Choice("a=b", 0.9, "healthy"),
            Choice("c=d", 1.08, "vanishing"),
            Choice("e=f", 0.55, "vanishing"),
            Choice("g=h", None, None),
        ],
    )
    assert lines == [
        "a=b brings the rate from 0.5 to 0.9, healthy at this depth",
        "c=d brings the rate from 0.5 to 1.08, vanishing at this depth",
        "or keep model.depth at 8 or less: there the gradient is healthy "
        "(whether it learns is not tried)",
    ]


def test_what_was_tried_decides():
    """Of what did not learn, nothing is said, however good its rate."""
    choices = [
        Choice("a=b", 1.0, "healthy", STUCK),
        Choice("c=d", 1.2, "exploding", FAIR),
        Choice("e=f", None, None, GOOD),
        Choice("g=h", 1.0, "healthy", BAD),
        Choice("i=j", 1.0, "healthy", None),
    ]
    assert advise(situation(trial=STUCK), choices) == [
        "e=f: loss 0.3 after 200 steps (90% right); now loss 2.3 after 200 steps (10% right)",
        "c=d: loss 1 after 200 steps (60% right); now loss 2.3 after 200 steps (10% right); "
        "rate 0.5 -> 1.2, exploding",
    ]
    (first, *_) = advise(situation(trial=BAD), choices)
    assert "now diverges within 3 steps" in first


def test_nothing_is_recommended_that_is_no_better():
    (line, *_) = advise(situation(trial=FAIR), [Choice("a=b", 1.0, "healthy", FAIR)])
    assert line.startswith("nothing: now loss 1 ")
    (line, *_) = advise(situation(trial=STUCK), [Choice("a=b", 1.0, "healthy", STUCK)])
    assert line.startswith("no try learns (a=b)")


def test_a_healthy_gradient_behind_saturated_units_is_no_all_clear():
    for share, words in ((0.6, "nothing"), (0.95, "95% of a layer's units are saturated")):
        (line, *_) = advise(replace(situation(0.99, "healthy"), saturated=share), [])
        assert words in line
    tried = replace(situation(0.99, "healthy", GOOD), saturated=0.95)
    assert advise(tried, [])[0].startswith("nothing")  # it learns all the same


def test_a_healthy_network_that_does_not_learn_is_not_well():
    assert situation(0.99, "healthy").well
    assert situation(0.99, "healthy", GOOD).well
    assert not situation(0.99, "healthy", BAD).well
    assert not situation(0.99, "healthy", STUCK).well
    (line,) = advise(situation(0.99, "healthy", GOOD), [])
    assert line.startswith("nothing: the gradient reaches the first of 30 hidden layers")
    assert line.endswith("(90% right)")
    (line,) = advise(situation(0.99, "healthy", BAD), [Choice("a=b", 1.0, "healthy", GOOD)])
    assert line.startswith("a=b: loss 0.3")  # and no word of depth


def test_seeds_that_differ_by_a_factor_are_named():
    assert "factor of 10 " in advise(situation(spread=1.0), [])[-1]
    assert advise(situation(0.99, "healthy", spread=0.1), [])[-1].startswith("nothing")


def test_a_network_without_hidden_layers():
    (line,) = advise(situation(None, None, hidden=0), [])
    assert "no hidden layer" in line


@pytest.mark.parametrize(("times", "lines"), [(None, 1), (1.9, 1), (1200.0, 2)])
def test_a_rate_far_over_the_stable_one_is_not_nothing(times, lines):
    found = advise(replace(situation(0.99, "healthy"), lr=times), [])
    assert len(found) == lines
    assert ("optimizer.lr: it is 1.2e+03 times" in found[0]) == (lines == 2)
    tried = replace(situation(0.99, "healthy", GOOD), lr=times)
    assert len(advise(tried, [])) == 1  # it learns all the same

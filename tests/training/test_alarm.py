"""The running-median alarm on made-up norms."""

from isometry.training.alarm import GradientAlarm


def test_an_excursion_of_k_steps_is_told_once():
    alarm = GradientAlarm(factor=10, steps=3)
    assert alarm.see(0, [1.0, 1.2, 0.9, 1.1]) == []
    assert alarm.see(4, [11.0, 12.0, 1.0]) == []  # two steps are not three
    assert alarm.see(7, [11.0, 12.0, 40.0, 50.0, 60.0]) == [9]


def test_growth_within_the_factor_is_no_alarm():
    assert GradientAlarm(factor=10, steps=1).see(0, [1.01**t for t in range(500)]) == []


def test_a_gradient_of_zero_has_no_median_to_be_above():
    assert GradientAlarm(factor=10, steps=1).see(0, [0.0, 0.0, 1e-30]) == []


def test_steps_that_were_skipped_say_nothing():
    """Under a gradient scaler a norm may be inf or nan, also of the first steps: the median is one
    of numbers.
    """
    calm = [1.0] * 10
    nan = float("nan")
    inf = float("inf")
    assert GradientAlarm(factor=10, steps=5).see(
        0, [inf, nan, *calm, nan, *[30.0] * 3, nan, inf, 30.0, 30.0]
    ) == [19]


def test_the_state_survives_a_resume_in_the_middle_of_an_excursion():
    norms = [1.0] * 20 + [30.0] * 5
    whole = GradientAlarm(factor=10, steps=5).see(0, norms)
    for cut in range(len(norms)):
        first = GradientAlarm(factor=10, steps=5)
        second = GradientAlarm(factor=10, steps=5)
        early = first.see(0, norms[:cut])
        second.load_state_dict(first.state_dict())
        assert early + second.see(cut, norms[cut:]) == whole == [24]

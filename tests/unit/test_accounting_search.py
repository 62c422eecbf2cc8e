"""The search ends on the safe side of any rising cost: smooth, flat, jumping, zero or infinite."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.accounting.search import NARROW, TOLERANCE, Search
from fedsec.errors import CalibrationError


class Cost:
    """A cost that remembers what it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, parameter):
        self.asked.append(parameter)
        return self.function(parameter)


def run(cost, target=3.0, *, safest=1e-12, boldest=1e12, start=1.0, **options):
    return Search("knob", cost, target, safest=safest, boldest=boldest, **options).run(start)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_power_laws_take_three_looks_within_reach(power, scale):
    cost = Cost(lambda x: 2.9 * (x / scale) ** power)
    found = run(cost, start=0.2 * scale)
    assert 3.0 * (1 - TOLERANCE) <= cost(found) <= 3.0
    assert len(cost.asked) <= 4  # the last one is the line above


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_known_slope_saves_a_look(power):
    cost = Cost(lambda x: 2.9 * x**power)
    search = Search("knob", cost, 3.0, safest=1e-12, boldest=1e12)
    assert search.slope() == 1.0
    search.run(0.2, power)
    assert len(cost.asked) == 2
    assert search.slope() == pytest.approx(power, rel=1e-9)


def test_what_was_asked_last_is_not_always_the_answer_but_the_answer_was_asked():
    cost = Cost(lambda x: x if x < 3.0 else math.inf)
    found = run(cost)
    assert found in cost.asked
    assert found < 3.0


@pytest.mark.parametrize("at", [1e-9, 0.3, 1.0, 2.0, 1e9])
@pytest.mark.parametrize("ends", [(0.0, math.inf), (0.0, 4.0), (1.0, math.inf), (2.9999, 3.0001), (3.0, 3.1)])
def test_jumps_are_cornered(at, ends):
    cost = Cost(lambda x: ends[x > at])
    found = run(cost)
    assert found <= at
    assert cost(found) > 3.0 * (1 - TOLERANCE) or found >= at * (1 - 1.1 * NARROW)
    assert len(cost.asked) < 80


@pytest.mark.parametrize("at", [1e-9, 0.3, 1e9])
def test_the_bolder_end_may_be_the_smaller(at):
    cost = Cost(lambda x: 3.0 if x >= at else 3.1)
    assert at <= run(cost, safest=1e12, boldest=1e-12) <= at * 1e12
    cost = Cost(lambda x: 1.0 if x >= at else 4.0)
    assert at <= run(cost, safest=1e12, boldest=1e-12) <= at * (1 + 1.1 * NARROW)


@pytest.mark.parametrize("least", [1, 2, 999, 1000, 1001, 123_456_789, 2**52 + 1])
@pytest.mark.parametrize("ends", [None, (0.0, math.inf), (1.0, 4.0)])
def test_whole_numbers_are_exact(least, ends):
    cost = Cost(lambda n: 3.0 * n / least if ends is None else ends[n > least])
    assert run(cost, safest=1, boldest=2**53, start=1000, whole=True) == least
    assert {least, least + 1} <= set(cost.asked)
    assert len(cost.asked) < 110


def test_the_whole_range_may_meet_the_target():
    assert run(lambda x: 0.0, boldest=1.0, start=0.01) == 1.0
    assert run(lambda x: 0.0, safest=1e12, boldest=1e-12) == 1e-12
    assert run(lambda x: 0.0, safest=1, boldest=2**53, start=1000, whole=True) == 2**53
    assert run(lambda x: 0.0, safest=1, boldest=1, start=1, whole=True) == 1


@pytest.mark.parametrize("best", [3.1, math.inf])
def test_an_unreachable_target_names_the_best(best):
    for options in ({}, {"safest": 1e12, "boldest": 1e-12}, {"safest": 1, "boldest": 50, "whole": True}):
        with pytest.raises(CalibrationError, match=rf"no knob meets target_epsilon 3.0.* epsilon is {best}$"):
            run(lambda x: best, **options)


def test_an_asymptote_above_the_target_is_recognised():
    cost = Cost(lambda x: 3.01 + x)
    with pytest.raises(CalibrationError, match=r"epsilon is 3\.01$"):
        run(cost)
    assert len(cost.asked) < 20


@given(
    steps=st.lists(st.tuples(st.floats(-27, 27), st.floats(0.0, 1.0)), max_size=6),
    floor=st.sampled_from([0.0, 1e-300, 1e-3, 2.5]),
    power=st.floats(0.0, 3.0),
    target=st.sampled_from([1e-6, 3.0, 1e6]),
    whole=st.booleans(),
)
def test_any_rising_cost(steps, floor, power, target, whole):
    def function(x):
        jumps = math.fsum(height for position, height in steps if math.log(x) >= position)
        return target * (floor + 0.5 * x**power + jumps) if power or steps or floor else 0.0

    ends = {"safest": 1, "boldest": 2**40, "whole": True} if whole else {}
    cost = Cost(function)
    try:
        found = run(cost, target, **ends)
    except CalibrationError:
        assert function(1 if whole else 1e-12) > target
        return
    assert function(found) <= target
    if found != ends.get("boldest", 1e12):
        bolder = found + 1 if whole else found * (1 + 1.1 * NARROW)
        assert function(bolder) > target or (not whole and function(found) >= target * (1 - TOLERANCE))
    assert len(cost.asked) < 120

"""Calibration lands on the safe side, close to the target, in few steps, or says why it cannot."""

import math

import pytest

from fedsec.accounting import (
    Composed,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RDPAccountant,
    calibrate_noise_multiplier,
)
from fedsec.errors import CalibrationError, InvalidArgumentError, InvalidTypeError, UnsupportedError


def sampled(q):
    return lambda z: PoissonSampled(Gaussian(z), q)


@pytest.mark.parametrize("target", [1e-3, 0.1, 1.0, 3.0, 8.0, 50.0, 1e4])
@pytest.mark.parametrize(
    ("make", "count"),
    [(Gaussian, 1), (Laplace, 20), (sampled(256 / 60_000), 3510), (sampled(1e-6), 10), (sampled(0.5), 10**6)],
)
def test_meets_the_target_and_barely(make, count, target):
    z = calibrate_noise_multiplier(make, count=count, target_epsilon=target, target_delta=1e-6)
    spent = RDPAccountant().compose(make(z), count).epsilon(1e-6)
    assert spent <= target
    assert (
        spent >= target * (1 - 1e-6)
        or RDPAccountant().compose(make(z * (1 - 1e-11)), count).epsilon(1e-6) > target
    )


@pytest.mark.parametrize("target", [1e-2, 1.0, 3.0, 30.0])
def test_takes_few_evaluations(target):
    tried = []

    def make(z):
        tried.append(z)
        return PoissonSampled(Gaussian(z), 0.01)

    calibrate_noise_multiplier(make, count=2000, target_epsilon=target, target_delta=1e-5)
    assert len(tried) <= 14


def test_the_relation_counts():
    settings = {"target_epsilon": 1.0, "target_delta": 1e-5}
    one = calibrate_noise_multiplier(Gaussian, **settings)
    two = calibrate_noise_multiplier(
        Gaussian, neighboring_relation=NeighboringRelation.REPLACE_ONE, **settings
    )
    assert two == pytest.approx(2 * one, rel=1e-5)


def test_another_accountant_can_judge():
    class Doubled(RDPAccountant):
        def epsilon(self, delta):
            return 2.0 * super().epsilon(delta)

    z = calibrate_noise_multiplier(Gaussian, target_epsilon=2.0, target_delta=1e-5, accountant=Doubled)
    assert RDPAccountant().compose(Gaussian(z)).epsilon(1e-5) == pytest.approx(1.0, rel=2e-6)


def test_a_jump_is_met_from_above():
    def make(z):
        return Gaussian(10.0 if z >= math.pi else 0.1)

    z = calibrate_noise_multiplier(make, target_epsilon=3.0, target_delta=1e-5)
    assert math.pi <= z <= math.pi * (1 + 1e-9)


def test_an_unreachable_target_names_the_best_epsilon():
    floor = RDPAccountant().compose(Gaussian(1.0)).epsilon(1e-5)
    with pytest.raises(CalibrationError, match=f"best reachable epsilon is {floor:.6g}"):
        calibrate_noise_multiplier(
            lambda z: Composed([Gaussian(1.0), Gaussian(z)]), target_epsilon=1.0, target_delta=1e-5
        )
    with pytest.raises(CalibrationError, match="best reachable epsilon is inf"):
        calibrate_noise_multiplier(lambda z: NonPrivate(), target_epsilon=1.0, target_delta=1e-5)


def test_noise_that_does_not_matter_is_refused():
    with pytest.raises(CalibrationError, match="the event ignores it"):
        calibrate_noise_multiplier(sampled(0.0), target_epsilon=1.0, target_delta=1e-5)


GOOD = {"make_event": Gaussian, "target_epsilon": 1.0, "target_delta": 1e-5}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"make_event": Gaussian(1.0)}, InvalidTypeError, "make_event must be callable"),
        ({"make_event": lambda z: z}, InvalidTypeError, "event must be an event"),
        ({"make_event": lambda z: Gaussian(-z)}, InvalidArgumentError, "noise_multiplier must be positive"),
        ({"make_event": lambda z: PoissonSampled(Laplace(z), 0.5)}, UnsupportedError, "Laplace"),
        ({"count": 0}, InvalidArgumentError, "count must be"),
        ({"count": 1.5}, InvalidTypeError, "count must be"),
        ({"target_epsilon": 0.0}, InvalidArgumentError, "target_epsilon must be"),
        ({"target_epsilon": math.nan}, InvalidArgumentError, "target_epsilon must be"),
        ({"target_epsilon": math.inf}, InvalidArgumentError, "target_epsilon must be"),
        ({"target_delta": 0.0}, InvalidArgumentError, "target_delta must be"),
        ({"target_delta": 1.0}, InvalidArgumentError, "target_delta must be"),
        ({"target_delta": "1e-5"}, InvalidTypeError, "target_delta must be"),
        ({"neighboring_relation": "add"}, InvalidTypeError, "neighboring_relation must be"),
    ],
)
def test_bad_input(wrong, error, words):
    with pytest.raises(error, match=words):
        calibrate_noise_multiplier(**(GOOD | wrong))

"""Calibration lands on the safe side, close to the target, in few steps, or says why it cannot."""

import math
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedsec.accounting import (
    ApproximateDP,
    Composed,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PLDAccountant,
    PoissonSampled,
    RDPAccountant,
    Repeated,
    SampledWithoutReplacement,
    calibrate_batch_size,
    calibrate_noise_multiplier,
    calibrate_sampling_probability,
    calibrate_steps,
)
from fedsec.accounting.search import NARROW, TOLERANCE
from fedsec.errors import CalibrationError, InvalidArgumentError, InvalidTypeError, UnsupportedError


def sampled(q):
    return lambda z: PoissonSampled(Gaussian(z), q)


@pytest.mark.parametrize("target", [1e-3, 0.1, 1.0, 3.0, 8.0, 50.0, 1e4])
@pytest.mark.parametrize(
    ("make", "count"),
    [(Gaussian, 1), (Laplace, 20), (sampled(256 / 60_000), 3510), (sampled(1e-6), 10), (sampled(0.5), 10**6)],
)
def test_meets_the_target_and_barely(make, count, target):
    z = calibrate_noise_multiplier(
        make, count=count, target_epsilon=target, target_delta=1e-6, accountant=RDPAccountant
    )
    spent = RDPAccountant().compose(make(z), count).epsilon(1e-6)
    assert target * (1 - 1e-4) <= spent <= target


def test_the_tight_accountant_judges_unless_another_is_named():
    make = sampled(256 / 60_000)
    target = {"count": 3510, "target_epsilon": 3.0, "target_delta": 1e-5}
    z = calibrate_noise_multiplier(make, **target)
    assert 3.0 * (1 - 1e-4) <= PLDAccountant().compose(make(z), 3510).epsilon(1e-5) <= 3.0
    assert z < 0.95 * calibrate_noise_multiplier(make, **target, accountant=RDPAccountant)


class Counting(PLDAccountant):
    """An accountant that counts how often it is asked."""

    asked = 0

    def epsilon(self, delta):
        Counting.asked += 1
        return super().epsilon(delta)


def test_takes_three_to_six_evaluations():
    taken = []
    for target in (0.5, 3.0):
        common = {"target_epsilon": target, "target_delta": 1e-5, "accountant": Counting}
        for question in (
            partial(calibrate_noise_multiplier, Gaussian),
            partial(calibrate_noise_multiplier, sampled(256 / 60_000), count=3510),
            partial(calibrate_noise_multiplier, sampled(0.1), count=200),
            partial(calibrate_sampling_probability, partial(PoissonSampled, Gaussian(1.5)), count=1000),
            partial(calibrate_steps, PoissonSampled(Gaussian(3.0), 0.01)),
        ):
            Counting.asked = 0
            question(**common)
            taken.append(Counting.asked)
    assert sorted(taken)[len(taken) // 2] <= 4
    assert max(taken) <= 6


def test_where_renyi_bounds_do_not_reach_the_search_finds_its_way():
    make = partial(PoissonSampled, Gaussian(0.7))
    target = {"count": 1000, "target_epsilon": 0.1, "target_delta": 1e-6}
    with pytest.raises(CalibrationError, match="best reachable epsilon"):
        calibrate_sampling_probability(make, **target, accountant=RDPAccountant)
    q = calibrate_sampling_probability(make, **target)
    assert 0.1 * (1 - 1e-4) <= PLDAccountant().compose(make(q), 1000).epsilon(1e-6) <= 0.1


def test_the_relation_counts():
    target = {"target_epsilon": 1.0, "target_delta": 1e-5}
    one = calibrate_noise_multiplier(Gaussian, **target)
    two = calibrate_noise_multiplier(Gaussian, neighboring_relation=NeighboringRelation.REPLACE_ONE, **target)
    assert two == pytest.approx(2 * one, rel=1e-4)


def test_another_accountant_can_judge():
    class Doubled(RDPAccountant):
        def epsilon(self, delta):
            return 2.0 * super().epsilon(delta)

    z = calibrate_noise_multiplier(Gaussian, target_epsilon=2.0, target_delta=1e-5, accountant=Doubled)
    assert RDPAccountant().compose(Gaussian(z)).epsilon(1e-5) == pytest.approx(1.0, rel=1e-4)


def test_a_jump_is_met_from_above():
    def make(z):
        return Gaussian(10.0 if z >= math.pi else 0.1)

    z = calibrate_noise_multiplier(make, target_epsilon=3.0, target_delta=1e-5)
    assert math.pi <= z <= math.pi * (1 + 1e-6)


def test_an_unreachable_target_names_the_best_epsilon():
    floor = PLDAccountant().compose(Gaussian(1.0)).epsilon(1e-5)
    with pytest.raises(CalibrationError, match=f"best reachable epsilon is {floor:.6g}"):
        calibrate_noise_multiplier(
            lambda z: Composed([Gaussian(1.0), Gaussian(z)]), target_epsilon=1.0, target_delta=1e-5
        )
    with pytest.raises(CalibrationError, match="best reachable epsilon is inf"):
        calibrate_noise_multiplier(lambda z: NonPrivate(), target_epsilon=1.0, target_delta=1e-5)


def test_noise_that_does_not_matter_is_refused():
    with pytest.raises(CalibrationError, match="the event ignores it"):
        calibrate_noise_multiplier(sampled(0.0), target_epsilon=1.0, target_delta=1e-5)


@pytest.mark.parametrize("target", [0.9, 3.0, 20.0])
def test_steps_are_exact(target):
    event = PoissonSampled(Gaussian(1.2), 0.01)
    steps = calibrate_steps(event, target_epsilon=target, target_delta=1e-5, accountant=RDPAccountant)
    assert type(steps) is int
    assert RDPAccountant().compose(event, steps).epsilon(1e-5) <= target
    assert RDPAccountant().compose(event, steps + 1).epsilon(1e-5) > target


def test_steps_of_one_and_of_none():
    one = RDPAccountant().compose(Gaussian(2.0)).epsilon(1e-5)
    question = partial(calibrate_steps, Gaussian(2.0), target_delta=1e-5, accountant=RDPAccountant)
    assert question(target_epsilon=one) == 1
    with pytest.raises(CalibrationError, match=f"no number of steps .* best reachable epsilon is {one:.6g}$"):
        question(target_epsilon=math.nextafter(one, 0.0))


def test_steps_that_cost_nothing_have_no_largest_number():
    with pytest.raises(CalibrationError, match=r"any number of steps meets target_epsilon 1.0"):
        calibrate_steps(sampled(0.0)(1.0), target_epsilon=1.0, target_delta=1e-5)
    event = Composed([Repeated(Gaussian(1e12), 2**30), Repeated(Gaussian(1e12), 2**30)])
    with pytest.raises(CalibrationError, match=rf"up to {2**22}$"):
        calibrate_steps(event, target_epsilon=9.0, target_delta=1e-5, accountant=RDPAccountant)


@pytest.mark.parametrize("target", [0.9, 3.0, 20.0])
def test_sampling_probability_meets_the_target_and_barely(target):
    make = partial(PoissonSampled, Gaussian(1.2))
    q = calibrate_sampling_probability(
        make, count=1000, target_epsilon=target, target_delta=1e-5, accountant=RDPAccountant
    )
    assert target * (1 - 1e-4) <= RDPAccountant().compose(make(q), 1000).epsilon(1e-5) <= target


def test_all_may_take_part_where_the_target_allows_it():
    target = {"target_epsilon": 3.0, "target_delta": 1e-5}
    assert calibrate_sampling_probability(partial(PoissonSampled, Gaussian(9.0)), **target) == 1.0
    batches = partial(calibrate_batch_size, lambda b: PoissonSampled(Gaussian(9.0), b / 300), **target)
    assert batches(population_size=300) == 300
    assert batches(population_size=1) == 1


def test_no_sampling_helps_against_a_failure_that_delta_does_not_allow():
    def make(q):
        return Composed([ApproximateDP(0.0, 1e-4), PoissonSampled(Gaussian(1.0), q)])

    target = {"target_epsilon": 3.0, "target_delta": 1e-5, "accountant": PLDAccountant}
    with pytest.raises(CalibrationError, match=r"no sampling probability .* best reachable epsilon is inf"):
        calibrate_sampling_probability(make, **target)
    with pytest.raises(
        CalibrationError, match=r"no batch size .* not even 1: the best reachable epsilon is i"
    ):
        calibrate_batch_size(lambda b: make(b / 10), population_size=10, **target)


def epochs(size):
    """Ten epochs of 1,000 records in batches of an expected size; more of them the smaller they are."""
    return Repeated(PoissonSampled(Gaussian(1.3), size / 1000), math.ceil(10_000 / size))


def test_batch_size_is_exact():
    size = calibrate_batch_size(
        epochs, population_size=1000, target_epsilon=6.0, target_delta=1e-5, accountant=RDPAccountant
    )
    assert type(size) is int
    assert RDPAccountant().compose(epochs(size)).epsilon(1e-5) <= 6.0
    assert RDPAccountant().compose(epochs(size + 1)).epsilon(1e-5) > 6.0


@given(
    q=st.floats(1e-6, 1.0),
    count=st.integers(1, 10**6),
    target=st.floats(1e-3, 1e3),
    log_delta=st.floats(-40.0, -1e-3),
)
@settings(max_examples=10, deadline=None)
def test_no_answer_misses_the_target(q, count, target, log_delta):
    delta = math.exp(log_delta)
    common = {"target_epsilon": target, "target_delta": delta, "accountant": RDPAccountant}
    z = calibrate_noise_multiplier(sampled(q), count=count, **common)
    event = PoissonSampled(Gaussian(z), q)
    assert RDPAccountant().compose(event, count).epsilon(delta) <= target
    assume(z > 1e-11)
    assert calibrate_steps(event, **common) >= count
    probability = calibrate_sampling_probability(partial(PoissonSampled, Gaussian(z)), count=count, **common)

    def epsilon(probability):
        sampled = PoissonSampled(Gaussian(z), min(probability, 1.0))
        return RDPAccountant().compose(sampled, count).epsilon(delta)

    assert epsilon(probability) <= target
    near = epsilon(probability) >= target * (1 - TOLERANCE)
    assert probability == 1.0 or near or epsilon(probability * (1 + 2 * NARROW)) > target


GOOD = {"make_event": Gaussian, "target_epsilon": 1.0, "target_delta": 1e-5}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"make_event": Gaussian(1.0)}, InvalidTypeError, "make_event must be callable"),
        ({"make_event": lambda z: z}, InvalidTypeError, "event must be an event"),
        ({"make_event": lambda z: Gaussian(-z)}, InvalidArgumentError, "noise_multiplier must be positive"),
        (
            {"make_event": lambda z: SampledWithoutReplacement(Gaussian(z), 9, 3)},
            UnsupportedError,
            "no analysis",
        ),
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


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        (partial(calibrate_steps, Gaussian), InvalidTypeError, "event must be an event"),
        (partial(calibrate_steps, Gaussian(1.0), accountant=None), InvalidTypeError, "accountant must be"),
        (partial(calibrate_sampling_probability, 0.1), InvalidTypeError, "make_event must be callable"),
        (partial(calibrate_sampling_probability, Gaussian, count=0), InvalidArgumentError, "count must be"),
        (partial(calibrate_batch_size, Gaussian, population_size=0), InvalidArgumentError, "population_size"),
        (partial(calibrate_batch_size, Gaussian, population_size=0.5), InvalidTypeError, "population_size"),
        (partial(calibrate_batch_size, 7, population_size=9), InvalidTypeError, "make_event must be"),
    ],
)
def test_bad_input_to_the_other_questions(question, error, words):
    with pytest.raises(error, match=words):
        question(target_epsilon=1.0, target_delta=1e-5)

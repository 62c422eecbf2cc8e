"""Random allocation against enumeration, an inversion integral and draws; its refusals and limits."""

import math
from itertools import pairwise

import numpy as np
import pytest
from reference import allocation_truth as truth
from reference.pld_truth import many_runs, sampled_gaussian_moments

from fedsec import RDPAccountant, _kernels
from fedsec.accounting.events import (
    ApproximateDP,
    Composed,
    DiscreteGaussian,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
)
from fedsec.accounting.pairs import ratios
from fedsec.accounting.pairs.allocation import allocation
from fedsec.accounting.pairs.noise import LaplaceNoise, NormalNoise
from fedsec.errors import InvalidTypeError, UnsupportedError

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
ZERO = NeighboringRelation.REPLACE_SPECIAL
ONE = NeighboringRelation.REPLACE_ONE
E = math.e


def delta(pair, epsilon, sign):
    """The hockey stick of a pair of atoms."""
    p, q = np.exp(pair.log_p), np.exp(pair.log_q)
    first, excess = (p, pair.loss - epsilon) if sign > 0 else (q, -pair.loss - epsilon)
    return pair.infinite[0 if sign > 0 else 1] - first @ np.expm1(-np.maximum(excess, 0.0))


def interval(dominance, epsilon, sign):
    return delta(dominance.below, epsilon, sign), delta(dominance.above, epsilon, sign)


RESPONSE = [(E / (1 + E), 1 / (1 + E)), (1 / (1 + E), E / (1 + E))]
LEAKY = [(0.1, 0.0), (0.0, 0.1), *((0.9 * p, 0.9 * q) for p, q in RESPONSE)]
STEPS = [(RandomizedResponse(1.0), RESPONSE), (ApproximateDP(1.0, 0.1), LEAKY)]


@pytest.mark.parametrize(("event", "step"), STEPS, ids=["response", "leaky"])
@pytest.mark.parametrize("steps", [2, 3, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_few_outcomes_are_exact(event, step, steps, sign):
    found = allocation(RandomAllocation(event, steps), ADD)
    for epsilon in (0.0, 0.1, 0.3, 0.7):
        expected = truth.enumerated(step, steps, 1, epsilon, sign)
        low, high = interval(found, epsilon, sign)
        assert low <= expected * (1.0 + 1e-15)
        assert expected <= high * (1.0 + 1e-15)
        assert high - low <= 1e-12 * expected


@pytest.mark.parametrize(("event", "step"), STEPS, ids=["response", "leaky"])
@pytest.mark.parametrize(("steps", "selected"), [(2, 2), (3, 2), (4, 2), (4, 3), (5, 3)])
@pytest.mark.parametrize("sign", [1, -1])
def test_several_selected_steps_are_bounded_from_above(event, step, steps, selected, sign):
    found = allocation(RandomAllocation(event, steps, selected), ADD)
    assert found.below is None
    for epsilon in (0.0, 0.1, 0.3, 0.7):
        expected = truth.enumerated(step, steps, selected, epsilon, sign)
        sure = truth.enumerated(step, selected, selected, epsilon, sign)
        assert expected <= delta(found.above, epsilon, sign) * (1.0 + 1e-15)
        assert steps == selected or delta(found.above, epsilon, 1) < 1.05 * sure


@pytest.mark.parametrize("sign", [1, -1])
def test_one_step_fewer_is_no_bound(sign):
    """The negative control of the enumeration: the ratio's law narrows with the steps."""
    found = allocation(RandomAllocation(RandomizedResponse(1.0), 5), ADD)
    assert delta(found.above, 0.1, sign) < truth.enumerated(RESPONSE, 4, 1, 0.1, sign)


CASES = [
    (Gaussian(1.0), truth.gaussian_moments(1.0), 100, (0.0, 0.1, 0.6)),
    (Gaussian(1.0), truth.gaussian_moments(1.0), 1000, (0.0, 0.1)),
    (Gaussian(0.5), truth.gaussian_moments(0.5), 100, (0.0, 0.5)),
    (Gaussian(5.0), truth.gaussian_moments(5.0), 1000, (0.0, 0.02)),
    (Laplace(0.3), truth.laplace_moments(0.3), 50, (0.0, 0.1, 1.0)),
]


@pytest.mark.parametrize(("event", "moments", "steps", "epsilons"), CASES)
@pytest.mark.parametrize("sign", [1, -1])
def test_interval_holds_the_inversion_integral(event, moments, steps, epsilons, sign):
    found = allocation(RandomAllocation(event, steps), ADD)
    for epsilon in epsilons:
        expected = truth.one_of_many(moments, steps, epsilon, sign)
        low, high = interval(found, epsilon, sign)
        slack = 1e-13 + 1e-9 * expected  # of the integral
        assert low <= expected + slack
        assert expected <= high + slack
        assert high - low <= 0.012 * expected


@pytest.mark.parametrize("sign", [1, -1])
def test_interval_tells_one_step_more(sign):
    """The negative control of the integral."""
    low, _ = interval(allocation(RandomAllocation(Gaussian(1.0), 100), ADD), 0.1, sign)
    assert truth.one_of_many(truth.gaussian_moments(1.0), 101, 0.1, sign) < low


@pytest.mark.parametrize("z", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_two_steps_of_gaussian_noise(z, sign):
    found = allocation(RandomAllocation(Gaussian(z), 2), ADD)
    for epsilon in (0.0, 0.5 / z, 2.0 / z):
        expected = truth.one_of_two_gaussians(z, epsilon, sign)
        low, high = interval(found, epsilon, sign)
        assert low <= expected * (1.0 + 1e-8)
        assert expected <= high * (1.0 + 1e-8)
        assert high - low <= 2e-3 * expected


def test_several_of_many_against_draws():
    """The mean of an elementary symmetric polynomial of fixed draws; five standard errors, 6e-7 one-sided."""
    z, steps, draws, epsilon = 1.0, 20, 200_000, 0.5
    ratio = np.exp(np.random.default_rng(20).standard_normal((draws, steps)) / z - 0.5 / z**2)
    first, second = ratio.sum(axis=1), (ratio**2).sum(axis=1)
    excess = np.maximum((first**2 - second) / (steps * (steps - 1)) - math.exp(epsilon), 0.0)
    error = 5.0 * excess.std() / math.sqrt(draws)
    bound = delta(allocation(RandomAllocation(Gaussian(z), steps, 2), ADD).above, epsilon, 1)
    assert bound > excess.mean() - error
    assert bound < 1.1 * excess.mean()
    once = delta(allocation(RandomAllocation(Gaussian(z), steps, 1), ADD).above, epsilon, 1)
    assert once < excess.mean() - error  # the negative control


def test_blocks_of_unequal_size_lie_between_their_neighbours():
    bounds = [
        delta(allocation(RandomAllocation(Gaussian(1.0), steps, 3), ADD).above, 0.5, 1)
        for steps in (9, 10, 11, 12)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 1.02 * bounds[1]


def test_products_of_gaussian_ratios_are_gaussian():
    law = ratios.pair_of(ratios.power(ratios.law_of(NormalNoise(0.3), 1), 11))
    sure = NormalNoise(0.3 * math.sqrt(11.0))
    grid = np.linspace(-8.0, 8.0, 200_001)
    cells = sure.cells(grid)
    for epsilon in (0.0, 1.0, 4.0):
        exact = np.maximum(cells.p - math.exp(epsilon) * cells.q, 0.0).sum()
        for sign in (1, -1):
            assert exact * (1.0 - 1e-6) <= delta(law, epsilon, sign) <= 1.01 * exact


def test_poisson_sampling_costs_a_little_more():
    found = allocation(RandomAllocation(Gaussian(1.0), 100), ADD)
    poisson = many_runs([(sampled_gaussian_moments(1.0, 0.01, 1), 100)], 0.2)
    low, high = interval(found, 0.2, 1)
    assert 0.7 * poisson < low < high < poisson


def test_more_steps_cost_less():
    for sign in (1, -1):
        deltas = [
            interval(allocation(RandomAllocation(Gaussian(0.7), steps), ADD), 0.3, sign)
            for steps in (2, 3, 10, 100, 3000)
        ]
        assert all(low <= high for low, high in deltas)
        assert all(more[1] < fewer[0] for fewer, more in pairwise(deltas))


def test_far_tails_keep_their_digits():
    """Where delta is 1e-76, epsilon is known to a twelfth."""
    found = allocation(RandomAllocation(Gaussian(1.0), 1000), ADD)
    assert max(found.above.infinite) < 1e-250
    assert interval(found, 12.0, 1)[1] < 1e-70
    assert 0.0 < interval(found, 13.0, 1)[1] < interval(found, 12.0, 1)[0]


def test_very_many_steps_are_priced_as_fewer():
    event = RandomizedResponse(1.0)
    found = allocation(RandomAllocation(event, 2**40), ADD)
    most = allocation(RandomAllocation(event, 2**30), ADD)
    assert found.below is None
    assert delta(found.above, 0.0, 1) == delta(most.above, 0.0, 1) > delta(most.below, 0.0, 1) > 0.0


@pytest.mark.parametrize("selected", [1, 3])
def test_noise_too_small_for_ratios_is_priced_as_a_guarantee(selected):
    """A step's loss is normal: beyond mu^2 / 2 + 11.5 mu, that is 6148, with a probability below 1e-30."""
    found = allocation(RandomAllocation(Gaussian(0.01), 10, selected), ADD)
    assert found.below is None
    assert selected * 1e-30 <= found.above.infinite[0] < selected * 1.1e-30
    assert delta(found.above, 6140.0 * selected, 1) > 0.01
    assert delta(found.above, 6150.0 * selected, 1) < 1e-20
    accountant = RDPAccountant().compose(RandomAllocation(Gaussian(0.01), 10, selected))
    assert 5000.0 * selected < accountant.epsilon(1e-5) < 6000.0 * selected


@pytest.mark.parametrize(
    "event",
    [
        RandomAllocation(RandomizedResponse(590.0), 1000, 3),
        RandomAllocation(Gaussian(0.5), 10**4, 9999),
        RandomAllocation(Gaussian(0.6445875322317075), 27483, 12863),
        RandomAllocation(Gaussian(1e6), 2**53, 10**6),
        RandomAllocation(Laplace(1 / 500), 10),
        RandomAllocation(RandomizedResponse(0.0), 10),
        RandomAllocation(Gaussian(1.0), 2**53, 2**52),
    ],
    ids=str,
)
def test_extremes_give_atoms(event):
    above = allocation(event, ADD).above
    assert above.loss.size
    assert np.isfinite(above.log_p).all()
    assert np.isfinite(above.log_q).all()
    assert 0.0 <= max(above.infinite) < 1.0


def test_one_step_that_is_sure_is_the_step():
    assert allocation(RandomAllocation(Laplace(2.0), 1), ADD).above == LaplaceNoise(0.5)


@pytest.mark.parametrize(
    "event",
    [DiscreteLaplace(3.0, 2), DiscreteGaussian(3.0, 1.0, 1), DiscreteGaussian(3.0, 1.5), Laplace(1.0)],
)
def test_any_plain_step(event):
    found = allocation(RandomAllocation(event, 20), ADD)
    assert (
        0.0 < delta(found.above, 0.01, 1) < delta(allocation(RandomAllocation(event, 19), ADD).above, 0.01, 1)
    )
    if found.below is not None:
        low, high = interval(found, 0.01, 1)
        assert low < high


def test_zero_out_costs_the_same():
    event = RandomAllocation(Gaussian(1.0), 7)
    first, second = (allocation(event, relation).above for relation in (ADD, ZERO))
    assert np.array_equal(first.log_q, second.log_q)


def test_nothing_protected():
    assert allocation(RandomAllocation(NonPrivate(), 7), ADD) is None


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (RandomAllocation(Gaussian(1.0), 7), ONE),
        (RandomAllocation(PoissonSampled(Gaussian(1.0), 0.1), 7), ADD),
        (RandomAllocation(RandomAllocation(Gaussian(1.0), 5), 7), ADD),
        (RandomAllocation(Composed([Gaussian(1.0)]), 7), ADD),
    ],
)
def test_refused_by_name(event, relation):
    with pytest.raises(UnsupportedError, match=r"RandomAllocation|Composed"):
        allocation(event, relation)


def brute_cells(combine, a, b, edges, scales):
    mass, moment = np.zeros_like(edges), np.zeros_like(edges)
    for x, p in zip(*a, strict=True):
        for y, q in zip(*b, strict=True):
            k = int(np.searchsorted(edges, combine(x, y), side="right")) - 1
            mass[k] += p * q
            moment[k] += p * q * (combine(x, y) - edges[k]) * scales[k]
    return mass, moment


@pytest.mark.parametrize(("operation", "combine"), [("sum", np.add), ("product", np.multiply)])
@pytest.mark.parametrize("own", [True, False])
def test_kernel_against_a_loop(operation, combine, own):
    rng = np.random.default_rng(3)
    a, b = ((np.sort(rng.gamma(0.5, size=n)), rng.random(n)) for n in (40, 61))
    edges = np.concatenate(([0.0], np.sort(rng.gamma(1.0, size=30))))
    scales = rng.random(31)
    found = _kernels.combined_cells(operation, a, None if own else b, edges, scales, 0.0)
    expected = brute_cells(combine, a, a if own else b, edges, scales)
    for part, true in zip(found, expected, strict=True):
        assert np.allclose(part, true, rtol=1e-12, atol=0.0)


def test_kernel_leaves_out_light_ends_only():
    value, mass = np.arange(1.0, 6.0), np.array([1e-9, 0.5, 1e-9, 0.5, 1e-9])
    total, _ = _kernels.combined_cells("sum", (value, mass), (value, mass), np.zeros(1), np.ones(1), 1e-8)
    assert total[0] == pytest.approx(1.0, abs=3e-9)
    assert total[0] > 1.0


def test_kernel_refuses_what_it_cannot_read():
    law = np.ones(3), np.ones(3)
    with pytest.raises(InvalidTypeError, match="match in length"):
        _kernels.combined_cells("sum", (np.ones(3), np.ones(2)), None, np.zeros(1), np.ones(1), 0.0)
    with pytest.raises(InvalidTypeError, match="float64"):
        _kernels.combined_cells("sum", law, None, np.zeros(1, np.float32), np.ones(1), 0.0)

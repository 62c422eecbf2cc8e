"""Prices of single mechanisms against mpmath: the densities themselves, and the binomial sum."""

import math

import mpmath
import numpy as np
import pytest
from reference import rdp_mpmath

from fedsec import accounting
from fedsec.accounting import (
    ApproximateDP,
    DiscreteGaussian,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
    Repeated,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.accounting.rdp import cumulant
from fedsec.errors import UnsupportedError

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
ONE = NeighboringRelation.REPLACE_ONE
ZERO = NeighboringRelation.REPLACE_SPECIAL


def price(event, orders, relation=ADD):
    beta = np.asarray(orders, dtype=np.float64) - 1.0
    with np.errstate(over="ignore"):
        return cumulant(event, beta, relation) / beta


def relative_error(value, truth):
    return abs(float(mpmath.mpf(float(value)) / truth - 1))


# Corners and middle of q in 1e-6..1, noise 0.3..100, and orders around every change of regime.
NOISE = [0.3, 0.55, 1.1, 2.0, 7.0, 30.0, 100.0]
PROBABILITY = [1e-6, 1e-4, 256 / 60_000, 0.1, 0.5, 0.9, 1 - 1e-9]
INTEGERS = [2, 3, 4, 7, 12, 19, 33, 64, 129, 256, 511, 1024]


@pytest.mark.parametrize("sigma", NOISE)
@pytest.mark.parametrize("q", PROBABILITY)
def test_sampled_gaussian_at_integer_orders(q, sigma):
    got = price(PoissonSampled(Gaussian(sigma), q), INTEGERS)
    for value, order in zip(got, INTEGERS, strict=True):
        assert relative_error(value, rdp_mpmath.sampled_gaussian_binomial(q, sigma, order)) < 2e-12


@pytest.mark.parametrize(
    ("q", "sigma", "order"),
    [
        (1e-6, 0.3, 1.01),
        (1e-6, 0.3, 2.5),
        (1e-6, 1.0, 17.3),
        (1e-6, 100.0, 1.01),
        (1e-4, 0.6, 3.7),
        (256 / 60_000, 1.1, 1.01),
        (256 / 60_000, 1.1, 1.5),
        (256 / 60_000, 1.1, 11.3),
        (0.01, 0.3, 1.01),
        (0.01, 0.7, 1.1),
        (0.1, 2.0, 9.5),
        (0.3, 100.0, 1023.5),
        (0.5, 0.3, 1.3),
        (0.9, 5.0, 6.28),
        (0.999999, 0.3, 1.01),
        (0.999999, 5.0, 60.25),
    ],
)
def test_sampled_gaussian_at_fractional_orders(q, sigma, order):
    truth = rdp_mpmath.sampled_gaussian(q, sigma, order)
    assert relative_error(price(PoissonSampled(Gaussian(sigma), q), [order])[0], truth) < 2e-12


@pytest.mark.parametrize("order", [2, 5])
def test_the_two_references_agree(order):
    binomial = rdp_mpmath.sampled_gaussian_binomial(0.01, 0.8, order)
    assert relative_error(rdp_mpmath.sampled_gaussian(0.01, 0.8, order), binomial) < 1e-15


@pytest.mark.parametrize(
    ("q", "sigma", "order"),
    [(1e-3, 0.5, 1.5), (0.01, 1.0, 8.5), (0.3, 0.4, 1.05), (0.5, 2.0, 8.0), (0.99, 1.0, 3.0)],
)
def test_removal_costs_at_most_what_addition_costs(q, sigma, order):
    """D(P || Q) >= D(Q || P) [MTZ19, Thm. 5], so one direction is enough."""
    forward = rdp_mpmath.sampled_gaussian(q, sigma, order)
    assert rdp_mpmath.sampled_gaussian(q, sigma, order, reverse=True) <= forward


def test_small_orders_are_neither_infinite_nor_too_large():
    """As alpha -> 1 the divergence falls to the Kullback-Leibler divergence, by a slope that is finite."""
    event = PoissonSampled(Gaussian(0.5), 0.01)
    values = price(event, [1 + 1e-9, 1 + 1e-6, 1 + 1e-4])
    with mpmath.workdps(40):
        kl = mpmath.quad(
            lambda x: (
                rdp_mpmath.normal(x, 0, 0.5)
                * (p := 0.99 + 0.01 * mpmath.exp((2 * x - 1) / 0.5))
                * mpmath.log(p)
            ),
            [-8, -2, 0, 1, 2, 3, 8],
        )
    assert relative_error(values[0], kl) < 1e-7
    assert np.all(np.diff(values) > 0)
    assert values[2] < values[0] * 1.01


@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.15, 1e4])
@pytest.mark.parametrize("q", [1e-9, 1e-3, 0.7])
def test_sampled_gaussian_far_outside_its_usual_range(q, sigma):
    orders = [2, 3, 10, 101, 4000]
    got = price(PoissonSampled(Gaussian(sigma), q), orders)
    for value, order in zip(got, orders, strict=True):
        assert relative_error(value, rdp_mpmath.sampled_gaussian_binomial(q, sigma, order)) < 1e-11


@pytest.mark.parametrize("sigma", [1e-5 * 0.99, 1e-7])
def test_tiny_noise_is_bounded_by_convexity(sigma):
    got = price(PoissonSampled(Gaussian(sigma), 0.01), [2, 9])
    for value, order in zip(got, [2, 9], strict=True):
        truth = rdp_mpmath.sampled_gaussian_binomial(0.01, sigma, order)
        assert truth * (1 - 1e-15) <= value <= truth * (1 + 1e-8)


def test_orders_beyond_use_are_still_bounds():
    event = PoissonSampled(Gaussian(1.0), 0.01)
    orders = np.array([1e5, 9.9e6, 1.1e7, 1e30])
    limit = orders / 2 + np.log(0.01) * orders / (orders - 1)  # alpha copies of the shift carry all of A
    assert np.all(price(event, orders) >= limit * (1 - 1e-12))
    assert np.all(price(event, orders) <= orders / 2 * (1 + 1e-12))


def test_all_orders_at_once_is_one_at_a_time():
    event = PoissonSampled(Gaussian(0.8), 0.02)
    orders = np.concatenate([np.linspace(1.01, 12, 40), [64.5, 1024]])
    together = price(event, orders)
    assert np.allclose(together, [price(event, [order])[0] for order in orders], rtol=1e-14, atol=0)


def test_gaussian_is_exact():
    assert np.allclose(price(Gaussian(2.0), [1.01, 2, 64]), np.array([1.01, 2, 64]) / 8, rtol=1e-15, atol=0)
    assert price(Gaussian(1e-200), [2])[0] == np.inf


@pytest.mark.parametrize(
    ("scale", "order"),
    [(0.05, 1.01), (0.5, 1.5), (1.0, 2.0), (3.0, 1.001), (20.0, 7.3), (1000.0, 2.0), (1e5, 1.01)],
)
def test_laplace(scale, order):
    truth = rdp_mpmath.laplace(scale, order)
    assert relative_error(price(Laplace(scale), [order])[0], truth) < 1e-13


def test_laplace_never_exceeds_its_pure_epsilon():
    orders = np.array([1 + 1e-12, 1.5, 1e3, 1e15])
    for scale in (0.01, 0.3, 1.0, 50.0, 1e6):
        values = price(Laplace(scale), orders)
        assert np.all(values <= 1 / scale * (1 + 1e-12))
        assert np.all(np.diff(values) > 0)
        with mpmath.workdps(40):
            kl = mpmath.expm1(-1 / mpmath.mpf(scale)) + 1 / mpmath.mpf(scale)
        assert relative_error(values[0], kl) < 1e-9


def test_replacing_doubles_the_sensitivity_of_unsampled_noise():
    orders = [1.5, 4, 32]
    for kind in (Gaussian, Laplace):
        assert np.array_equal(price(kind(3.0), orders, ONE), price(kind(1.5), orders, ADD))
        assert np.array_equal(price(kind(3.0), orders, ZERO), price(kind(3.0), orders, ADD))


def test_zero_out_costs_what_adding_costs_under_poisson_sampling():
    event = PoissonSampled(Gaussian(1.0), 0.1)
    assert np.array_equal(price(event, [1.5, 8], ZERO), price(event, [1.5, 8], ADD))


@pytest.mark.parametrize(
    ("event", "relation", "words"),
    [
        (PoissonSampled(Laplace(1.0), 0.1), ONE, r"Laplace\(noise_multiplier=1.0\).* under REPLACE_ONE"),
        (PoissonSampled(Repeated(Gaussian(1.0), 2), 0.1), ADD, r"Repeated.* must be one of Gaussian"),
        (SampledWithoutReplacement(Gaussian(1.0), 10, 2), ADD, "use REPLACE_ONE or REPLACE_SPECIAL"),
        (accounting.Event(), ADD, "no analysis"),
    ],
)
def test_what_has_no_analysis_is_refused_by_name(event, relation, words):
    with pytest.raises(UnsupportedError, match=words):
        price(event, [2.0], relation)


def test_non_private_costs_everything():
    assert np.all(price(NonPrivate(), [1.5, 8]) == np.inf)
    assert np.all(price(PoissonSampled(NonPrivate(), 1e-9), [1.5, 8]) == np.inf)


def normals(z, q, t):
    """Logarithm of (1 - q) N(0, 1) + q N(t, 1), up to a constant, for noise of unit deviation."""
    return np.logaddexp(math.log1p(-q) - 0.5 * z * z, math.log(q) - 0.5 * (z - t) ** 2)


def excess(log_p, log_q, alpha):
    """E_Q[f] with f = R^alpha - 1 - alpha (R - 1), by a plain sum over a fine grid of unit weights."""
    ratio = np.exp(log_p - log_q)
    return (
        np.exp(alpha * log_p - (alpha - 1.0) * log_q).sum()
        - (np.exp(log_q) * (1.0 + alpha * (ratio - 1.0))).sum()
    )


@pytest.mark.parametrize(
    ("q", "t", "alpha"),
    [
        (0.05, 1.0, 1.5),
        (0.01, 1.0, 8.0),
        (0.5, 1.0, 2.0),
        (0.9, 3.0, 2.5),
        (0.3, 6.0, 1.7),
        (0.1, 0.02, 500.0),
    ],
)
def test_a_replaced_unit_in_a_poisson_sample(q, t, alpha):
    z = np.linspace(-t - 12.0, 2 * alpha * t + 12.0, 400_001)
    log_step = math.log(z[1] - z[0]) - 0.5 * math.log(2 * math.pi)
    moment = excess(normals(z, q, t) + log_step, normals(z, q, -t) + log_step, alpha)
    got = price(PoissonSampled(Gaussian(1.0 / t), q), [alpha], ONE)[0] * (alpha - 1.0)
    assert got == pytest.approx(math.log1p(moment), rel=1e-9)


@pytest.mark.parametrize(("q", "t"), [(0.01, 25.0), (0.3, 30.0), (1e-6, 300.0)])
def test_a_replaced_unit_under_tiny_noise_is_bounded(q, t):
    """Both bounds are above the cost of removal, and below that of an unsampled replacement."""
    orders = [1.01, 2.0, 30.0]
    got = price(PoissonSampled(Gaussian(1.0 / t), q), orders, ONE)
    assert np.all(got >= price(PoissonSampled(Gaussian(1.0 / t), q), orders))
    assert np.all(got <= price(Gaussian(1.0 / t), orders, ONE))


@pytest.mark.parametrize(
    ("q", "t", "alpha"),
    [
        (0.05, 1.0, 1.5),
        (0.01, 2.0, 8.0),
        (0.5, 1.0, 2.0),
        (0.9, 3.0, 2.5),
        (0.3, 6.0, 1.7),
        (0.1, 0.02, 500.0),
    ],
)
def test_a_sample_of_fixed_size(q, t, alpha):
    """Positive losses of (M, Q), negative ones of (Q, M): both halves by Simpson-like sums from t / 2 on."""
    z = np.linspace(0.5 * t, 0.5 * t + 2 * alpha * t + 12.0, 400_001)
    log_weight = np.full(z.size, math.log(z[1] - z[0]) - 0.5 * math.log(2 * math.pi))
    log_weight[0] -= math.log(2.0)
    log_m, log_q = normals(z, q, t) + log_weight, -0.5 * z * z + log_weight
    moment = excess(log_m, log_q, alpha) + excess(log_q, log_m, alpha)
    event = SampledWithoutReplacement(Gaussian(2.0 / t), 1000, round(1000 * q))
    got = price(event, [alpha], ONE)[0] * (alpha - 1.0)
    assert math.log1p(moment) * (1 - 1e-8) <= got <= math.log1p(moment) * (1 + 1e-6)


def test_a_sample_of_fixed_size_under_tiny_noise_is_bounded():
    event = SampledWithoutReplacement(Gaussian(0.05), 1000, 10)
    one_sided = price(PoissonSampled(Gaussian(0.025), 0.01), [1.01, 2.0, 30.0])
    got = price(event, [1.01, 2.0, 30.0], ONE)
    assert np.all((got >= one_sided) & (got <= one_sided * 1.01))


def atoms_of(event):
    """Masses of Q of the mechanisms that have finitely many losses; those of P are the mirror image."""
    if isinstance(event, RandomizedResponse):
        e = mpmath.exp(mpmath.mpf(event.epsilon))
        return [e / (1 + e), 1 / (1 + e)]
    r = mpmath.exp(-1 / mpmath.mpf(event.scale))
    inner = [(1 - r) / (1 + r) * r**k for k in range(1, event.sensitivity)]
    return [1 / (1 + r), *inner, r**event.sensitivity / (1 + r)]


@pytest.mark.parametrize(
    "event",
    [RandomizedResponse(0.01), RandomizedResponse(40.0), DiscreteLaplace(3.0, 2), DiscreteLaplace(40.0, 99)],
)
@pytest.mark.parametrize("q", [1.0, 0.3, 1e-4])
@pytest.mark.parametrize("order", [1.0001, 4.0, 3000.0])
def test_finitely_many_losses(event, q, order):
    with mpmath.workdps(60):
        second, alpha = atoms_of(event), mpmath.mpf(order)
        first = [
            (1 - mpmath.mpf(q)) * a + mpmath.mpf(q) * b for a, b in zip(second, second[::-1], strict=True)
        ]
        moments = [
            mpmath.fsum(b * (a / b) ** alpha for a, b in zip(*laws, strict=True))
            for laws in ((first, second), (second, first))
        ]
        truth = mpmath.log(max(moments)) / (alpha - 1)
        sampled = PoissonSampled(event, q) if q < 1.0 else event
        assert -1e-12 < float(price(sampled, [order])[0] / truth - 1) < 1e-6


@pytest.mark.parametrize("scale", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("q", [1e-4, 0.5])
@pytest.mark.parametrize("order", [1.001, 4.0, 400.0])
def test_sampled_laplace(scale, q, order):
    """Both directions by quadrature of the density between its two atoms."""
    with mpmath.workdps(30):
        s, prob, alpha = 1 / mpmath.mpf(scale), mpmath.mpf(q), mpmath.mpf(order)

        def moment(power):
            ratio = lambda x: 1 - prob + prob * mpmath.exp(2 * x - s)  # noqa: E731
            ends = ratio(0) ** power / 2 + ratio(s) ** power * mpmath.exp(-s) / 2
            between = lambda x: mpmath.exp(-x) / 2 * ratio(x) ** power  # noqa: E731
            return ends + mpmath.quad(between, mpmath.linspace(0, s, 9))

        truth = mpmath.log(max(moment(alpha), moment(1 - alpha))) / (alpha - 1)
        got = price(PoissonSampled(Laplace(scale), q), [order])[0]
        assert -1e-12 < float(got / truth - 1) < 1e-5


def test_integer_noise_costs_at_least_gaussian_noise_and_hardly_more():
    orders = [1.5, 4, 32]
    gaussian = price(Gaussian(10.0), orders)
    for event in (DiscreteGaussian(10.0, 1), Skellam(100.0, 1, dimension=3)):
        assert np.all(price(event, orders) >= gaussian)
        assert np.all(price(event, orders) <= gaussian * 1.02)
    sampled = price(PoissonSampled(DiscreteGaussian(10.0, 1), 0.1), orders)
    exact = price(PoissonSampled(Gaussian(10.0), 0.1), orders)
    assert np.all((sampled >= exact) & (sampled <= exact * 1.01))


def test_a_guarantee_with_delta_has_no_finite_divergence():
    assert np.all(price(ApproximateDP(1.0, 1e-9), [1.5, 8]) == np.inf)
    assert np.array_equal(price(ApproximateDP(1.0, 0.0), [1.5, 8]), price(RandomizedResponse(1.0), [1.5, 8]))


@pytest.mark.parametrize("steps", [2, 5, 60])
def test_random_allocation_at_order_two(steps):
    """A_2 of the mean of t independent ratios is 1 + (A_2 - 1) / t; the other direction is summed up."""
    truth = math.log1p(math.expm1(1.0) / steps)
    got = price(RandomAllocation(Gaussian(1.0), steps), [2.0])[0]
    assert truth * (1 - 1e-12) <= got <= truth * 1.01
    high = 1.0 / (1.0 + math.e)  # how often Q's ratio is e
    ratios = [(k * math.e + (steps - k) / math.e) / steps for k in range(steps + 1)]
    masses = [math.comb(steps, k) * high**k * (1.0 - high) ** (steps - k) for k in range(steps + 1)]
    moments = [sum(m * r**power for m, r in zip(masses, ratios, strict=True)) for power in (2, -1)]
    got = price(RandomAllocation(RandomizedResponse(1.0), steps), [2.0])[0]
    assert math.log(max(moments)) * (1 - 1e-12) <= got <= math.log(max(moments)) * 1.01


def test_random_allocation_costs_at_most_the_selected_steps():
    orders = [1.1, 2.0, 16.0, 200.0]
    for selected in (1, 3):
        told = selected * price(Gaussian(2.0), orders)
        got = price(RandomAllocation(Gaussian(2.0), 30, selected), orders)
        assert np.all(got <= told)
        assert np.all(got[:3] < told[:3])

"""Prices of single mechanisms against mpmath: the densities themselves, and the binomial sum."""

import mpmath
import numpy as np
import pytest
from reference import rdp_mpmath

from fedsec import accounting
from fedsec.accounting import (
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SampledWithoutReplacement,
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
        (0.1, 2.0, 40.5),
        (0.3, 100.0, 1023.5),
        (0.5, 0.3, 1.3),
        (0.9, 5.0, 6.28),
        (0.999999, 0.3, 1.01),
        (0.999999, 20.0, 300.25),
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
    [(1e-3, 0.5, 1.5), (0.01, 1.0, 8.5), (0.3, 0.4, 1.05), (0.5, 2.0, 30.0), (0.99, 1.0, 3.0)],
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

"""The RDP accountant: conversion, search for the best order, and what peers get wrong."""

import math

import mpmath
import numpy as np
import pytest
from reference import rdp_mpmath

from fedsec.accounting import (
    Composed,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RDPAccountant,
    Repeated,
)
from fedsec.errors import InvalidArgumentError, InvalidTypeError

MNIST = PoissonSampled(Gaussian(1.1), 256 / 60_000)


def gaussian_delta(mu, epsilon):
    """Exact delta of Gaussian noise under a shift of mu standard deviations (Balle and Wang 2018)."""
    mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
    ahead, behind = mpmath.ncdf(mu / 2 - epsilon / mu), mpmath.ncdf(-mu / 2 - epsilon / mu)
    return ahead - mpmath.exp(epsilon) * behind


def epsilon_at(divergence, alpha, delta):
    """[CKS20, Prop. 12] at one order, as printed there."""
    a = mpmath.mpf(alpha)
    gain = mpmath.log(1 / mpmath.mpf(delta)) + (a - 1) * mpmath.log(1 - 1 / a) - mpmath.log(a)
    return divergence + gain / (a - 1)


def test_mnist_against_mpmath():
    """DP-SGD as in the MNIST tutorial, 15 epochs: better than every order that mpmath tries, but barely."""
    epsilon = RDPAccountant().compose(MNIST, 3510).epsilon(1e-5)
    with mpmath.workdps(30):
        integers = [
            epsilon_at(3510 * rdp_mpmath.sampled_gaussian_binomial(256 / 60_000, 1.1, a), a, 1e-5)
            for a in range(2, 64)
        ]
        best = 2 + integers.index(min(integers))
        between = [
            epsilon_at(3510 * rdp_mpmath.sampled_gaussian(256 / 60_000, 1.1, a), a, 1e-5)
            for a in (best - 0.5, best + 0.5)
        ]
    assert epsilon <= min(integers + between) * (1 + 1e-9)
    assert epsilon >= min(integers) * 0.999


@pytest.mark.parametrize(("delta", "tight"), [(0.3, 0.2), (1e-5, 0.8), (1e-12, 0.9)])
@pytest.mark.parametrize("z", [0.2, 1.0, 10.0])
def test_gaussian_epsilon_lies_above_the_exact_one(z, delta, tight):
    epsilon = RDPAccountant().compose(Gaussian(z)).epsilon(delta)
    with mpmath.workdps(60):
        assert gaussian_delta(1 / mpmath.mpf(z), epsilon) <= delta
        assert epsilon == 0.0 or gaussian_delta(1 / mpmath.mpf(z), tight * epsilon) > delta


@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-30])
@pytest.mark.parametrize(("q", "z"), [(1e-3, 0.3), (0.01, 1.0), (0.3, 0.7), (0.9, 5.0)])
def test_one_sampled_step_lies_above_the_exact_one(q, z, delta):
    """Exact delta of one step in both directions: the likelihood ratio is monotone, so tails decide."""
    epsilon = RDPAccountant().compose(PoissonSampled(Gaussian(z), q)).epsilon(delta)
    with mpmath.workdps(60):
        q, t = mpmath.mpf(q), 1 / mpmath.mpf(z)

        def ratio_reaches(level):
            """The point where P/Q is `level`; P holds the unit, Q does not."""
            return mpmath.log((level - 1) / q + 1) / t + t / 2

        above = ratio_reaches(mpmath.exp(epsilon))
        added = (1 - q - mpmath.exp(epsilon)) * mpmath.ncdf(-above) + q * mpmath.ncdf(t - above)
        removed = mpmath.mpf(0)
        if mpmath.exp(-epsilon) > 1 - q:
            below = ratio_reaches(mpmath.exp(-epsilon))
            shifted = (1 - q) * mpmath.ncdf(below) + q * mpmath.ncdf(below - t)
            removed = mpmath.ncdf(below) - mpmath.exp(epsilon) * shifted
        assert max(added, removed) <= delta


def test_gaussian_best_order_is_found():
    """Against a dense scan of the same bound in plain numpy."""
    beta = np.exp(np.linspace(-12, 16, 2_000_001))
    for z, count, delta in [(1.0, 1, 1e-5), (0.03, 50, 1e-3), (400.0, 3, 1e-9), (1e-3, 7, 1e-15)]:
        numerator = count * beta * (beta + 1) / (2 * z * z) - math.log(delta)
        scan = ((numerator - np.log1p(beta) - beta * np.log1p(1 / beta)) / beta).min()
        epsilon = RDPAccountant().compose(Gaussian(z), count).epsilon(delta)
        assert scan * (1 - 1e-9) <= epsilon <= scan * (1 + 1e-9)


def test_replacing_one_is_not_under_reported():
    """Noise 1.2644 at delta 1e-6: replacing a unit truly costs 8.31, a peer says 4.01."""
    replace = RDPAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE).compose(Gaussian(1.26442))
    with mpmath.workdps(40):
        assert gaussian_delta(2 / 1.26442, 8.31) == pytest.approx(1e-6, rel=1e-3)
    assert replace.epsilon(1e-6) >= 8.31
    assert RDPAccountant().compose(Gaussian(1.26442)).epsilon(1e-6) == pytest.approx(4.01, abs=0.01)


@pytest.mark.parametrize("delta", [1e-15, 1e-16, 1e-100, 1e-300, 5e-324])
@pytest.mark.parametrize("event", [Gaussian(1.0), Laplace(5.0), MNIST, PoissonSampled(Gaussian(0.3), 1e-6)])
def test_finite_at_every_delta(event, delta):
    epsilon = RDPAccountant().compose(event, 100).epsilon(delta)
    assert 0.0 < epsilon < 4000.0


def test_finite_at_tiny_noise_and_huge_counts():
    for event, count in [
        (Gaussian(1e-6), 1),
        (PoissonSampled(Gaussian(1e-3), 0.01), 10**9),
        (Laplace(1e-9), 2**53),
    ]:
        assert math.isfinite(RDPAccountant().compose(event, count).epsilon(1e-5))
    assert RDPAccountant().compose(PoissonSampled(Gaussian(1e4), 1e-9), 10**9).epsilon(1e-5) < 1e-4


@pytest.mark.parametrize(
    "event", [Gaussian(1e6), Laplace(1e9), PoissonSampled(Gaussian(100.0), 1e-6), Gaussian(1e200)]
)
def test_never_negative(event):
    for delta in (1e-10, 0.1, 0.999, 1 - 2**-53):
        assert RDPAccountant().compose(event).epsilon(delta) >= 0.0


def test_an_empty_ledger_costs_nothing():
    empty = RDPAccountant()
    assert (empty.epsilon(1e-300), empty.delta(0.0), empty.epsilon_interval(0.5)) == (0.0, 0.0, (0.0, 0.0))
    nothing = [Composed([]), PoissonSampled(NonPrivate(), 0.0)]
    assert RDPAccountant().compose(Composed(nothing), 10).epsilon(1e-9) == 0.0


def test_non_private_is_infinite():
    accountant = RDPAccountant().compose(MNIST).compose(NonPrivate())
    assert accountant.epsilon(0.5) == math.inf
    assert accountant.delta(1e300) == 1.0


def test_pure_privacy_is_reached_as_delta_vanishes():
    """The best order runs away beyond any grid; the limit is the pure epsilon, 1 / scale a run."""
    assert 0.2 <= RDPAccountant().compose(Laplace(5.0)).epsilon(1e-300) < 0.2 * (1 + 1e-9)


@pytest.mark.parametrize("orders", [[2.0], [1.5, 3.0], [1.0001], np.array([1e9, 2e9]), [64, 1.1, 64]])
def test_orders_only_say_where_the_search_starts(orders):
    expected = RDPAccountant().compose(MNIST, 3510).epsilon(1e-5)
    assert RDPAccountant(orders=orders).compose(MNIST, 3510).epsilon(1e-5) == pytest.approx(
        expected, rel=1e-8
    )


@pytest.mark.parametrize("delta", [1e-3, 1e-9, 1e-200])
@pytest.mark.parametrize("event", [Gaussian(0.7), Laplace(1.0), MNIST])
def test_delta_is_the_inverse_of_epsilon(event, delta):
    accountant = RDPAccountant().compose(event, 30)
    assert accountant.delta(accountant.epsilon(delta)) == pytest.approx(delta, rel=1e-6)


def test_delta_lies_between_truth_and_one():
    with mpmath.workdps(40):
        for epsilon in (0.0, 0.5, 3.0, 20.0):
            truth = gaussian_delta(1.0, epsilon)
            assert truth <= RDPAccountant().compose(Gaussian(1.0)).delta(epsilon) <= min(1.0, 40 * truth)
    assert RDPAccountant().compose(Gaussian(1e-3)).delta(0.0) == 1.0
    assert 0.0 < RDPAccountant().compose(Gaussian(1.0)).delta(1e9) < 1e-300


def test_divergences_of_a_composition():
    accountant = RDPAccountant().compose(Composed([Gaussian(2.0), Repeated(Laplace(3.0), 4)]), 5)
    orders = [1.5, 2.0, 30.0]
    laplace = [float(rdp_mpmath.laplace(3.0, a)) for a in orders]
    truth = 5 * np.array(orders) / 8 + 20 * np.array(laplace)
    assert np.all(accountant.rdp(orders) >= truth)
    assert np.all(accountant.rdp(orders) <= truth * (1 + 1e-9))


def test_composition_forgets_the_order():
    parts = [Gaussian(1.0), MNIST, Laplace(7.0), Gaussian(0.1)]
    one, other = RDPAccountant(), RDPAccountant()
    for part in parts:
        one.compose(part, 3)
    other.compose(Repeated(Composed(parts[::-1]), 2)).compose(Composed(parts))
    assert one.epsilon(1e-6) == other.epsilon(1e-6)


def test_total_counts_have_an_end():
    accountant = RDPAccountant().compose(Gaussian(1e6), 2**53)
    before = accountant.epsilon(1e-5)
    with pytest.raises(InvalidArgumentError, match=r"at most 2\*\*53 in all"):
        accountant.compose(Gaussian(1e6))
    with pytest.raises(InvalidArgumentError, match=r"at most 2\*\*53 in all"):
        accountant.compose(Repeated(Repeated(Laplace(1.0), 2**30), 2**30))
    assert accountant.epsilon(1e-5) == before


@pytest.mark.parametrize("orders", [[], 2.0, [[2.0]], "ab", [{}], [2.0, "x"], ["2"], [True], [10**400], [2j]])
def test_orders_of_a_wrong_shape_or_type(orders):
    for call in (lambda: RDPAccountant(orders=orders), lambda: RDPAccountant().rdp(orders)):
        with pytest.raises(InvalidTypeError, match="orders must be"):
            call()


@pytest.mark.parametrize("orders", [[1.0], [0.5, 2], [2, math.nan], [math.inf]])
def test_orders_out_of_range(orders):
    with pytest.raises(InvalidArgumentError, match="orders must be finite and above 1"):
        RDPAccountant(orders=orders)


def test_relation_must_be_one():
    with pytest.raises(InvalidTypeError, match="neighboring_relation must be"):
        RDPAccountant(neighboring_relation="replace_one")

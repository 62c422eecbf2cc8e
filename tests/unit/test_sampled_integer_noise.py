"""Integer noise on a Poisson sample costs at most what is charged: the sampled Gaussian of its slope.

Kept: the theorem of docs/noise.md, "Sampled noise", in one dimension, where both laws can be enumerated.
"""

import math

import numpy as np
import pytest
from scipy.special import logsumexp, ndtr

import fedsec
from fedsec._slope import discrete_gaussian_slope

ORDERS = [1.1, 1.5, 2.0, 3.0, 8.0, 32.0]
EPSILONS = np.linspace(0.0, 3.0, 61)
CASES = [(s, k, q) for s in (2.0, 2.7, 4.0) for k in (1, 2, 3) for q in (0.01, 0.1, 0.5, 0.9, 1.0)]


def log_laws(stddev, shift, q):
    """The logarithms of the law with the unit, and without it, over all integers that matter at any order."""
    reach = int(20 * stddev + max(ORDERS) * shift)
    m = np.arange(-reach, reach + 1.0)
    without, moved = (-((m - k) ** 2) / (2.0 * stddev**2) for k in (0, shift))
    normaliser = logsumexp(without)
    drawn = math.log(q) + moved
    mixed = drawn if q == 1.0 else np.logaddexp(math.log1p(-q) + without, drawn)
    return mixed - normaliser, without - normaliser


def renyi(p, q, order):
    return logsumexp(order * p + (1.0 - order) * q) / (order - 1.0)


def hockey_stick(p, q, epsilon):
    return np.maximum(np.exp(p) - np.exp(epsilon + q), 0.0).sum()


def charged(stddev, shift, q, factor=1.0, slope=discrete_gaussian_slope):
    """The accountant after one release, with the noise multiplier times a factor."""
    event = fedsec.PoissonSampled(fedsec.Gaussian(factor / (slope(stddev) * shift)), q)
    return fedsec.RDPAccountant().compose(event)


def gaussian_hockey_sticks(mu, q, epsilon):
    """Of (1 - q) N(0, 1) + q N(mu, 1) against N(0, 1), and back; the likelihood ratio increases in z."""

    def crossing(ratio):
        """Where 1 - q + q e^(mu z - mu^2 / 2) = ratio."""
        above = ratio - (1.0 - q)
        return (math.log(above / q) + mu * mu / 2.0) / mu if above > 0.0 else -math.inf

    there, back = crossing(math.exp(epsilon)), crossing(math.exp(-epsilon))
    mixed = (1.0 - q) * ndtr([-there, back]) + q * ndtr([mu - there, back - mu])
    plain = ndtr([-there, back])
    return mixed[0] - math.exp(epsilon) * plain[0], plain[1] - math.exp(epsilon) * mixed[1]


@pytest.mark.parametrize(("stddev", "shift", "q"), CASES)
def test_renyi_divergences_are_at_most_what_is_charged(stddev, shift, q):
    mixed, without = log_laws(stddev, shift, q)
    prices = charged(stddev, shift, q).rdp(ORDERS)
    for order, price in zip(ORDERS, prices, strict=True):
        assert 0.0 < renyi(mixed, without, order) <= price
        assert 0.0 < renyi(without, mixed, order) <= price


@pytest.mark.parametrize(("stddev", "shift", "q"), CASES)
def test_hockey_stick_divergences_are_at_most_the_gaussians(stddev, shift, q):
    mixed, without = log_laws(stddev, shift, q)
    mu = discrete_gaussian_slope(stddev) * shift
    for epsilon in EPSILONS:
        exact = hockey_stick(mixed, without, epsilon), hockey_stick(without, mixed, epsilon)
        for one, bound in zip(exact, gaussian_hockey_sticks(mu, q, epsilon), strict=True):
            assert one <= bound + 1e-14


@pytest.mark.parametrize(("stddev", "shift", "q"), CASES)
def test_the_accountants_delta_holds(stddev, shift, q):
    mixed, without = log_laws(stddev, shift, q)
    accountant = charged(stddev, shift, q)
    for epsilon in (0.0, 0.3, 2.0):
        exact = hockey_stick(mixed, without, epsilon), hockey_stick(without, mixed, epsilon)
        assert max(exact) <= accountant.delta(epsilon)


@pytest.mark.parametrize(("stddev", "shift", "q"), CASES)
def test_three_percent_more_noise_multiplier_would_be_charged_too_little(stddev, shift, q):
    """The negative control of both: a price that is a few percent too low is caught, in every case."""
    mixed, without = log_laws(stddev, shift, q)
    prices = charged(stddev, shift, q, factor=1.03).rdp(ORDERS)
    assert all(renyi(mixed, without, order) > price for order, price in zip(ORDERS, prices, strict=True))
    mu = discrete_gaussian_slope(stddev) * shift / 1.03
    assert any(
        hockey_stick(mixed, without, epsilon) > gaussian_hockey_sticks(mu, q, epsilon)[0] + 1e-9
        for epsilon in EPSILONS
    )


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9, 1.0])
def test_the_continuous_slope_would_be_charged_too_little(q):
    """1 / stddev, as if the noise were Gaussian: the hockey-stick divergences at small epsilon exceed it."""
    mixed, without = log_laws(2.0, 1, q)
    assert any(
        hockey_stick(mixed, without, epsilon) > gaussian_hockey_sticks(0.5, q, epsilon)[0] + 1e-5
        for epsilon in EPSILONS
    )


def test_the_gaussians_divergences_themselves():
    """The closed form above, by a sum over a fine grid."""
    z = np.linspace(-12.0, 14.0, 260_001)
    density = np.exp(-(z**2) / 2.0) / math.sqrt(2.0 * math.pi)
    for mu, q, epsilon in [
        (0.5, 0.1, 0.0),
        (1.3, 0.5, 0.2),
        (1.3, 0.5, 1.0),
        (0.4, 1.0, 0.3),
        (2.0, 0.9, 2.0),
    ]:
        mixed = density * (1.0 - q + q * np.exp(mu * z - mu * mu / 2.0))
        there = np.maximum(mixed - math.exp(epsilon) * density, 0.0).sum() * 1e-4
        back = np.maximum(density - math.exp(epsilon) * mixed, 0.0).sum() * 1e-4
        assert gaussian_hockey_sticks(mu, q, epsilon) == pytest.approx((there, back), abs=1e-8)

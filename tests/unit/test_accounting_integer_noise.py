"""Integer noise in any dimension: never below the truth to 60 digits, close to it, and refused by name."""

import functools
import itertools
import math

import mpmath as mp
import numpy as np
import pytest
from reference import integer_noise_reference as reference
from scipy.special import ndtr

from fedsec.accounting import integer_noise
from fedsec.accounting.events import (
    DiscreteGaussian,
    DiscreteGaussianSum,
    Gaussian,
    NeighboringRelation,
    Skellam,
)
from fedsec.accounting.integer_noise import gdp_mu, rdp, slope
from fedsec.errors import UnsupportedError

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE
ZERO = NeighboringRelation.REPLACE_SPECIAL
ONE = NeighboringRelation.REPLACE_ONE


@functools.cache
def law_of(event):
    """The exact law, and a step up to which its slope is looked for."""
    if isinstance(event, Skellam):
        last = math.ceil(10 * math.sqrt(event.variance)) + 20
        return reference.skellam(event.variance, 2 * last + 40), last
    shares = getattr(event, "num_shares", 1)
    last = math.ceil(10 * event.stddev * math.sqrt(shares)) + 6
    share = reference.discrete_gaussian(event.stddev, math.ceil(16 * event.stddev) + 16)
    if shares == 1:
        return reference.discrete_gaussian(event.stddev, 2 * last + 20), last
    return reference.summed(share, shares), last


ENUMERATED = [
    *(DiscreteGaussian(s, 1) for s in [0.05, 0.1, 0.2, 0.35, 0.5, 0.577, 0.7, 1.0, 1.3, 1.7, 1.99]),
    *(Skellam(v, 1) for v in [1e-6, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 10.0, 100.0]),
    *(DiscreteGaussianSum(0.5, n, 1) for n in [2, 3, 7, 16]),
    DiscreteGaussianSum(0.8, 5, 1),
    DiscreteGaussianSum(1.0, 2, 1),
]
BOUNDED = [
    (DiscreteGaussian(2.0, 1), 3e-4),
    (DiscreteGaussian(10.0, 1), 1e-6),
    (DiscreteGaussianSum(0.5, 24, 1), 0.012),
    (DiscreteGaussianSum(0.5, 60, 1), 0.005),
    (DiscreteGaussianSum(0.7, 20, 1), 1e-3),
    (DiscreteGaussianSum(1.0, 6, 1), 2e-4),
    (DiscreteGaussianSum(2.0, 3, 1), 2e-5),
]


@pytest.mark.parametrize("event", ENUMERATED, ids=str)
def test_enumerated_slopes_are_above_the_truth_by_rounding_alone(event):
    truth = reference.slope(*law_of(event))
    assert truth <= slope(event) <= truth * (1 + mp.mpf(2) ** -36)


@pytest.mark.parametrize(("event", "excess"), BOUNDED, ids=str)
def test_bounded_slopes_are_above_the_truth_and_close(event, excess):
    truth = reference.slope(*law_of(event))
    assert truth <= slope(event) <= truth * (1 + excess)


def steps_beyond_the_window(log_p):
    """For m in (4096, 8192], from unscaled logarithms of probabilities."""
    tail = np.logaddexp.accumulate(log_p[:0:-1])[::-1]
    log_q = tail - np.logaddexp(log_p[0], math.log(2.0) + tail[0])
    return np.diff(integer_noise._upper_quantile(log_q[4096:8193]))


@pytest.mark.parametrize("variance", [1e-90, 1e-3, 1.0, 50.0, 1000.0])
def test_skellam_steps_beyond_the_window_are_below_their_bound(variance):
    falls = integer_noise.bessel_falls(variance, 8300)
    log_p = -np.concatenate(([0.0], np.cumsum(np.log1p(falls))))
    bound = integer_noise._far_skellam_step(variance)
    assert np.max(steps_beyond_the_window(log_p)) <= bound < slope(Skellam(variance, 1))


@pytest.mark.parametrize(
    ("stddev", "shares"), [(0.01, 1), (0.5, 1), (1.99, 1), (0.5, 2), (0.5, 16), (1.1, 3)]
)
def test_periodic_steps_beyond_the_window_are_below_their_bound(stddev, shares):
    total, log_theta = stddev * math.sqrt(shares), integer_noise._log_theta(stddev, shares)
    log_p = -0.5 * (np.arange(8300) / total) ** 2 + np.resize(log_theta, 8300)
    bound = integer_noise._far_step(total, float(np.ptp(log_theta)))
    assert np.max(steps_beyond_the_window(log_p)) <= bound < slope(DiscreteGaussianSum(stddev, shares, 1))


def first_step(half):
    """2 Phi^-1(1/2 + p(0)/2): the step at 0, from p(0), to many digits."""
    return 2 * mp.sqrt(2) * mp.erfinv(half)


@pytest.mark.parametrize("variance", [999.0, 1e3, 1001.0, 1e4, 1e6, 1e9, 1e12])
def test_wide_skellam_noise_is_bounded_from_both_sides(variance):
    """The step at 0 is a lower bound of the slope, known in closed form."""
    with mp.workdps(60):
        v = mp.mpf(variance)
        least = first_step(mp.exp(-v) * mp.besseli(0, v))
        assert least <= slope(Skellam(variance, 1)) <= least * (1 + 1 / v + mp.mpf(2) ** -35)


@pytest.mark.parametrize("shares", [10**4, 10**6, 2**60])
@pytest.mark.parametrize("stddev", [0.5, 0.6, 0.8, 1.0, 1.5, 4.0, 1e9])
def test_sums_of_many_shares_are_bounded_from_both_sides(stddev, shares):
    """No noise of this variance is more private than the Gaussian, but for the last bits."""
    law = reference.discrete_gaussian(min(stddev, 4.0), 60)
    variance = 2 * mp.fsum(p * k**2 for k, p in enumerate(law)) * max(stddev / 4.0, 1.0) ** 2
    least = 1 / mp.sqrt(variance * min(shares, 2**53))
    assert least * (1 - 1e-9) <= slope(DiscreteGaussianSum(stddev, shares, 1)) <= least * 1.005


@pytest.mark.parametrize("stddev", [0.5, 0.65, 0.9])
@pytest.mark.parametrize("shares", [200, 511])
def test_doubling_blocks_bounds_what_enumeration_finds(monkeypatch, stddev, shares):
    whole = integer_noise._doubled_curvature(stddev, shares)
    monkeypatch.setattr(integer_noise, "_BLOCK", 127)
    assert whole <= integer_noise._doubled_curvature(stddev, shares) <= whole * 1.06


def random_law(generator, curvature):
    """Log-concave, with second differences of -ln p between a hundredth of the curvature and all of it."""
    size = int(80 / math.sqrt(curvature)) + 30
    bends = curvature * np.maximum(generator.random(2 * size + 1) < generator.random(), 0.01)
    falls = np.cumsum(bends)
    log_p = -np.concatenate(([0.0], np.cumsum(falls - falls[size])))
    return np.exp(log_p - log_p.max())


def sharpness(law):
    """The largest p(m)^2 / (p(m-1) p(m+1)) - 1 where what was cut off has no part in it."""
    inner = law[1:-1] > 1e-9 * law.max()
    return np.max(law[1:-1][inner] ** 2 / (law[:-2][inner] * law[2:][inner])) - 1.0


def test_the_doubling_theorem_on_random_log_concave_laws():
    """And some need nearly e / 2: the negative control."""
    generator = np.random.default_rng(4)
    ratios = []
    for e in np.geomspace(0.01, 10.0, 150):
        law = random_law(generator, math.log1p(e))
        doubled = sharpness(np.convolve(law, law))
        assert doubled <= (0.5 * e + 0.25 * e * e) * (1 + 1e-9)
        ratios.append(doubled / (0.5 * e))
    assert max(ratios) > 0.98


@pytest.mark.parametrize("stddev", [0.66, 0.8, 1.0, 1.4])
@pytest.mark.parametrize("shares", [2, 3, 10, 100])
def test_poisson_summation_bounds_what_enumeration_finds(stddev, shares):
    first, second = integer_noise._smooth(stddev, shares)
    log_theta = integer_noise._log_theta(stddev, shares)
    rise = np.roll(log_theta, -1) - log_theta
    assert np.max(np.abs(rise)) <= first
    assert np.max(rise - np.roll(rise, -1)) <= second


@pytest.mark.parametrize(("stddev", "shares"), [(0.5, 2), (0.5, 9), (0.7, 6), (1.2, 5)])
def test_theta_times_a_gaussian_is_the_law_of_the_sum(stddev, shares):
    share = reference.discrete_gaussian(stddev, 30)
    law = reference.summed(share, shares)
    log_theta = integer_noise._log_theta(stddev, shares)
    for m in range(2 * shares):
        expected = mp.log(law[m] / law[0]) + mp.mpf(m) ** 2 / (2 * shares * mp.mpf(stddev) ** 2)
        assert float(log_theta[m % shares] - expected) == pytest.approx(0.0, abs=1e-13)


def test_the_curvature_of_small_shares_stays_near_that_of_a_gaussian():
    """What the theorem on the slope asks of sums: at most 5 / (n s^2)."""
    for shares in [*range(2, 40), 100, 500, 2047]:
        curvature = integer_noise._doubled_curvature(0.5, shares)
        assert 1.0 <= curvature * shares * 0.25 <= 1.6


@pytest.mark.parametrize("variance", [0.01, 0.7, 5.0, 60.0, 1e4])
def test_skellam_curvature_falls_from_the_middle(variance):
    with mp.workdps(60):
        logs = [mp.log(mp.besseli(m, mp.mpf(variance))) for m in range(60)]
        bends = [2 * (logs[0] - logs[1])]
        bends += [2 * logs[m] - logs[m - 1] - logs[m + 1] for m in range(1, 59)]
        assert all(later < earlier for earlier, later in itertools.pairwise(bends))


@pytest.mark.parametrize("order", [0, 1, 2, 10])
@pytest.mark.parametrize("x", [0.01, 1.0, 7.0, 300.0])
def test_the_quartic_that_proves_it_has_its_root_above_the_bessel_ratio(order, x):
    with mp.workdps(60):
        y, m, x = mp.besseli(order + 1, x) / mp.besseli(order, x), mp.mpf(order), mp.mpf(x)
        assert y**4 + 2 * m / x * y**3 + 2 * (m + 1) / x * y < 1


def gaussian_delta(epsilon, mu):
    return ndtr(-epsilon / mu + mu / 2) - np.exp(epsilon) * ndtr(-epsilon / mu - mu / 2)


NOISES = [
    Skellam(0.3, 1),
    Skellam(1.0, 1),
    Skellam(4.0, 1),
    DiscreteGaussian(0.4, 1),
    DiscreteGaussian(1.0, 1),
    DiscreteGaussianSum(0.5, 4, 1),
]
SHIFTS = [(1,), (2,), (5,), (1, 1), (2, -1), (1, 1, 1, 1)]
REACH = {1: 40, 2: 24, 4: 12}


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_no_privacy_curve_in_one_two_or_four_dimensions_is_above(noise, shift):
    law = law_of(noise)[0][: REACH[len(shift)] + 1]
    mu = slope(noise) * float(np.linalg.norm(shift))
    assert reference.both_sides(law).sum() > 1.0 - 1e-7
    for epsilon in np.linspace(0.0, 6.0, 9):
        assert reference.hockey_stick(epsilon, law, shift) <= gaussian_delta(epsilon, mu) + 1e-14


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_a_slope_one_percent_smaller_would_understate(noise):
    """The negative control: the vertex of the trade-off function at the largest step is below."""
    law = law_of(noise)[0][:41]
    mu = 0.99 * slope(noise)
    epsilons = np.linspace(0.0, 12.0, 481)
    assert any(
        reference.hockey_stick(epsilon, law, (1,)) > gaussian_delta(epsilon, mu) + 1e-7
        for epsilon in epsilons
    )


def test_one_dimension_does_not_bound_several():
    """Skellam noise of variance 4: a shift by 2 in one coordinate costs less than by 1 in each of four."""
    law = law_of(Skellam(4.0, 1))[0][:12]
    assert any(
        reference.hockey_stick(epsilon, law, (1, 1, 1, 1)) > reference.hockey_stick(epsilon, law, (2,)) + 1e-4
        for epsilon in np.linspace(0.0, 4.0, 21)
    )


@pytest.mark.parametrize("noise", [Skellam, DiscreteGaussian])
def test_sensitivity_and_relation_scale_mu(noise):
    one = gdp_mu(noise(9.0, 1.0), ADD)
    assert gdp_mu(noise(9.0, 1.0, dimension=7), ADD) == one
    assert gdp_mu(noise(9.0, 3.0), ZERO) == pytest.approx(3 * one, rel=1e-13)
    assert gdp_mu(noise(9.0, 3.0), ONE) == pytest.approx(6 * one, rel=1e-13)
    assert one > slope(noise(9.0, 1.0))


def test_slopes_fall_with_the_noise():
    for events in (
        [Skellam(v, 1) for v in [0.01, 1.0, 999.0, 1001.0, 1e9]],
        [DiscreteGaussian(s, 1) for s in [1e-90, 0.05, 1.0, 1.999, 2.0, 50.0, 1e150, 1e300]],
        [DiscreteGaussianSum(0.7, n, 1) for n in [1, 2, 5, 100, 2047, 3000, 10**5, 10**9]],
    ):
        slopes = [slope(event) for event in events]
        assert slopes == sorted(slopes, reverse=True)


def test_mu_is_never_zero():
    assert 0.0 < gdp_mu(DiscreteGaussian(1e300, 1e-300), ADD) < 1e-100


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (DiscreteGaussianSum(0.499, 2, 1), "DiscreteGaussianSum.*0.5.*0.499"),
        (DiscreteGaussian(1e-101, 1), "stddev 1e-101"),
        (Skellam(1e-101, 1), "Skellam.*1e-101"),
        (Gaussian(1.0), "Gaussian"),
    ],
)
def test_refused_by_name(event, named):
    with pytest.raises(UnsupportedError, match=named):
        gdp_mu(event, ADD)


def test_renyi_bounds_refuse_small_shares_alike():
    with pytest.raises(UnsupportedError, match=r"DiscreteGaussianSum.*0.5.*0.499"):
        rdp(DiscreteGaussianSum(0.499, 2, 1), ADD, ORDERS)


def test_one_small_share_is_a_discrete_gaussian():
    assert gdp_mu(DiscreteGaussianSum(0.3, 1, 1), ADD) == gdp_mu(DiscreteGaussian(0.3, 1), ADD)


ORDERS = np.array([1.1, 2.0, 2.7, 3.0, 12.5])


@pytest.mark.parametrize("shift", [1, 5])
@pytest.mark.parametrize(
    "noise",
    [
        *(Skellam(v, 1) for v in [0.1, 2.0, 30.0]),
        *(DiscreteGaussian(s, 1) for s in [0.4, 2.5]),
        *(DiscreteGaussianSum(s, n, 1) for s, n in [(0.5, 6), (0.7, 12), (1.1, 3)]),
    ],
    ids=str,
)
def test_renyi_bounds_are_above_the_divergence(noise, shift):
    """To 60 digits; the laws reach far enough for the tilt of every order."""
    reach = math.ceil(2 * ORDERS[-1] * shift) + 100
    law = (
        theta_law(noise, reach)
        if not isinstance(noise, Skellam)
        else reference.skellam(noise.variance, reach)
    )
    event = type(noise)(**{**vars(noise), "l2_sensitivity": shift, "dimension": 1})
    bounds = rdp(event, ADD, ORDERS)
    gaussian = 0.5 * ORDERS * gdp_mu(event, ADD) ** 2
    for order, bound, other in zip(ORDERS, bounds, gaussian, strict=True):
        truth = reference.renyi(float(order), law, shift)
        assert truth <= min(bound, other)


@pytest.mark.parametrize("shift", [1, 4])
def test_the_renyi_bound_of_a_discrete_gaussian_is_attained(shift):
    law = reference.discrete_gaussian(1.3, 60)
    bounds = rdp(DiscreteGaussian(1.3, shift), ADD, np.array([2.0, 5.0]))
    for order, bound in zip((2, 5), bounds, strict=True):
        assert bound == pytest.approx(float(reference.renyi(order, law, shift)), rel=1e-12)


def theta_law(noise, reach):
    """The law of a sum out to any reach, through its period."""
    shares = getattr(noise, "num_shares", 1)
    short = reference.discrete_gaussian(noise.stddev, math.ceil(20 * noise.stddev) + 20)
    near = reference.summed(short, shares)
    variance = shares * mp.mpf(noise.stddev) ** 2
    with mp.workdps(reference.DIGITS):
        theta = [near[m] * mp.exp(mp.mpf(m) ** 2 / (2 * variance)) for m in range(shares)]
        law = [theta[m % shares] * mp.exp(-(mp.mpf(m) ** 2) / (2 * variance)) for m in range(reach + 1)]
        total = 2 * mp.fsum(law) - law[0]
        return [p / total for p in law]


def published_sum(event, alpha):
    """[KLS21, Prop. 14] for the addition of one unit."""
    s, n, d = event.stddev, event.num_shares, event.dimension
    tau = 10 * sum(math.exp(-2 * (math.pi * s) ** 2 * k / (k + 1)) for k in range(1, n))
    l2 = event.l2_sensitivity / (s * math.sqrt(n))
    return min(alpha / 2 * l2**2 + tau * d, alpha / 2 * (l2 + math.sqrt(d) * tau) ** 2)


@pytest.mark.parametrize(("stddev", "shares"), [(0.5, 2), (0.5, 100), (0.7, 10), (1.0, 50), (1.5, 1000)])
@pytest.mark.parametrize(("l2", "dimension"), [(1.0, 1), (3.0, 4), (20.0, 1000)])
def test_sums_are_bounded_at_least_as_well_as_published(stddev, shares, l2, dimension):
    event = DiscreteGaussianSum(stddev, shares, l2, dimension)
    for alpha, bound in zip(ORDERS, rdp(event, ADD, ORDERS), strict=True):
        assert bound <= published_sum(event, alpha) * (1 + 1e-9)


@pytest.mark.parametrize(("variance", "l2", "dimension"), [(0.5, 1.0, None), (50.0, 4.0, 9), (9.0, 2.0, 1)])
def test_skellam_bound_is_the_published_one_at_whole_orders(variance, l2, dimension):
    """[AKL21, Cor. 3.6] with the L1 norm that an integer vector of this L2 norm may have."""
    l1 = l2 * l2 if dimension is None else l2 * min(math.sqrt(dimension), l2)
    event = Skellam(variance, l2, dimension)
    for alpha in (2.0, 3.0, 17.0):
        extra = min(((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
        bound = rdp(event, ADD, np.array([alpha]))[0]
        assert bound == pytest.approx(alpha * l2**2 / (2 * variance) + extra, rel=1e-12)


@pytest.mark.parametrize(
    "event", [Skellam(1e-300, 1e200), DiscreteGaussian(1e-200, 1), Skellam(1e300, 1e-30)]
)
def test_renyi_bounds_are_positive_numbers_at_the_ends_of_the_range(event):
    bounds = rdp(event, ONE, np.array([1.0001, 2.0, 1e6]))
    assert np.all(bounds > 0.0)


@pytest.mark.parametrize("log_q", [-0.6932, -0.8, -3.0, -40.0, -1e3, -1e5, -1e8, -1e12])
def test_quantiles_are_right_to_the_last_bits(log_q):
    x = float(integer_noise._upper_quantile(np.array([log_q]))[0])
    with mp.workdps(60):
        tail = mp.log(mp.erfc(mp.mpf(x) / mp.sqrt(2)) / 2)
        density = mp.exp(-(mp.mpf(x) ** 2) / 2 - tail) / mp.sqrt(2 * mp.pi)
        assert abs((tail - log_q) / density) <= mp.mpf(2) ** -50 * (1 + x)
